"""HTTP connections that are closed if their client does nothing for a while."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

CHECK_S = 20.0
"""A client that neither completes a request nor reads from an answer between two checks, which have
this distance, is disconnected."""


class IdleTimeoutProtocol(H11Protocol):
    """A connection whose slow client does not hold it for ever."""

    _check: asyncio.TimerHandle | None = None
    _state: tuple[Any, int] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch the client."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching the client."""
        if self._check is not None:
            self._check.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        cycle = self.cycle
        is_computing = (
            cycle is not None
            and not cycle.response_complete
            and not self.transport.get_write_buffer_size()
        )
        state = (cycle, self.transport.get_write_buffer_size())
        if state == self._state and not is_computing:
            self.transport.abort()
            return
        self._state = state
        self._check = self.loop.call_later(CHECK_S, self._watch)
