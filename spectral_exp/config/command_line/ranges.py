"""The search space of a command line: the settings that have a range instead of a value.

`interval(...)`, `int(interval(...))`, `tag(log, interval(...))`, `range(...)`, `choice(...)`, globs
and lists of values separated by commas are ranges; everything else is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    RangeSweep,
)

from spectral_exp.config.command_line.grammar import format_value, parse
from spectral_exp.config.command_line.jobs import Composer
from spectral_exp.core.errors import UserError
from spectral_exp.runs.overrides import setting_of

_MAX_VALUES = 10_000


@dataclass(frozen=True)
class Interval:
    """A setting with any number between two bounds, both included.

    Attributes:
        key: the key of its overrides, with sign and package: `+optimizer.x`, `model@y`.
        low, high: low < high, both > 0 if `is_log`.
        is_log: whether factors count instead of differences.
        is_integer: whether only integers are allowed.
    """

    key: str
    low: float
    high: float
    is_log: bool
    is_integer: bool

    @property
    def setting(self) -> str:
        """The name of the setting or group."""
        return setting_of(self.key)

    def override(self, value: float) -> str:
        """Return the override that sets `value`."""
        return f"{self.key}={format_value(int(value) if self.is_integer else float(value))}"

    def value_of(self, override: str) -> float | None:
        """Return the value that an override of this setting sets; None if it is out of range."""
        text = override.partition("=")[2]
        try:
            value = float(text)
        except ValueError:
            return None
        if self.is_integer and not value.is_integer():
            return None
        return value if self.low <= value <= self.high else None


@dataclass(frozen=True)
class Values:
    """A setting with one of several values.

    Attributes:
        key: the key of its overrides, with sign and package.
        overrides: one for each value, at least one, all different.
        is_ordered: whether neighbours are similar: a range of numbers.
    """

    key: str
    overrides: tuple[str, ...]
    is_ordered: bool

    @property
    def setting(self) -> str:
        """The name of the setting or group."""
        return setting_of(self.key)

    def index_of(self, override: str) -> int | None:
        """Return the index of the value that an override of this setting sets, or None."""
        if override in self.overrides:
            return self.overrides.index(override)
        try:
            wanted = format_value(parse(override).value())
        except UserError:
            return None
        for index, own in enumerate(self.overrides):
            if format_value(parse(own).value()) == wanted:
                return index
        return None


Dimension = Interval | Values
"""A setting that is searched."""


def split_ranges(overrides: Sequence[str], composer: Composer) -> list[str | Dimension]:
    """Return the overrides in their order, each range as a dimension.

    Raises:
        UserError: a range cannot be searched.
    """
    items = [
        _dimension(override) if override.is_sweep_override() else _text_of(override)
        for override in composer.parse(overrides)
    ]
    dimensions = [item for item in items if not isinstance(item, str)]
    settings = [dimension.setting for dimension in dimensions]
    if twice := sorted({name for name in settings if settings.count(name) > 1}):
        raise UserError(f"{twice[0]} has two ranges; give it one")
    return items


def _text_of(override: Override) -> str:
    """Return an override as it was written."""
    return override.input_line or ""


def _dimension(override: Override) -> Dimension:
    key, sweep = override.get_key_element(), override.value()
    if isinstance(sweep, Glob | list):  # a glob is a list of options once it is parsed
        return _values(override, key, is_ordered=False)
    assert isinstance(sweep, ChoiceSweep | RangeSweep | IntervalSweep)
    if unknown := sorted(sweep.tags - {"log"}):
        raise UserError(
            f"{_text_of(override)}: the tag {unknown[0]} is unknown; the only one is log"
        )
    if isinstance(sweep, IntervalSweep):
        return _interval(override, key, sweep)
    if sweep.tags:
        raise UserError(
            f"{_text_of(override)}: tag(log, ...) belongs to interval(...) or int(interval(...)); "
            "list the values otherwise"
        )
    if sweep.shuffle:
        raise UserError(f"{_text_of(override)}: a search has an order of its own; remove shuffle")
    return _values(override, key, is_ordered=isinstance(sweep, RangeSweep))


def _interval(override: Override, key: str, sweep: IntervalSweep) -> Interval:
    low, high = sweep.start, sweep.end
    assert low is not None
    assert high is not None
    is_integer, is_log = isinstance(low, int) and isinstance(high, int), "log" in sweep.tags
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{_text_of(override)}: the bounds must be finite, the lower one first")
    if is_log and low <= 0:
        raise UserError(f"{_text_of(override)}: the bounds must be > 0 with tag(log, ...)")
    return Interval(key, low, high, is_log, is_integer)


def _values(override: Override, key: str, *, is_ordered: bool) -> Values:
    texts = islice(override.sweep_string_iterator(), _MAX_VALUES + 1)
    choices = tuple(dict.fromkeys(f"{key}={text}" for text in texts))
    if not choices:
        raise UserError(f"{_text_of(override)} names no value")
    if len(choices) > _MAX_VALUES:
        raise UserError(
            f"{_text_of(override)} has more than {_MAX_VALUES:,} values; give bounds instead: "
            f"{key}='int(interval(LOW, HIGH))'"
        )
    return Values(key, choices, is_ordered)
