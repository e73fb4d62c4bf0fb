"""Write torch's checkpoint format: a zip archive whose pickle refers to the tensors' bytes.

`torch.save` holds the interpreter lock while it writes, takes its checksums in a pass of its own
and can only read live tensors. Here the bytes come from wherever they were copied to, and the
result is the same: a plain `.pt` file for `torch.load(..., weights_only=True)`, a valid archive for
`unzip -t`.

Source: records as torch's serialization names them.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from spectral_exp.core.checksum import crc32, crc32_append
from spectral_exp.monitoring.checkpoint.zip_layout import LARGE_BYTES, Record, directory, lay_out
from spectral_exp.monitoring.torch_private import (
    rebuild_tensor,
    storage_class,
    storage_id,
    storage_in,
)

_FORMAT_VERSION = b"3\n"
_TOGETHER_BYTES = 1 << 20
_NO_STORAGE = frozenset(
    {int, str, tuple, float, bool, dict, list, type(None), OrderedDict, torch.Tensor}
)


class Sink(Protocol):
    """The destination of an archive."""

    def reserve(self, n_bytes: int) -> None:
        """Called once, before the first byte, with the size of the whole archive."""

    def write(self, data: memoryview | bytes, checksum: int | None = None) -> None:
        """Append bytes, and their CRC-32 where it is known."""


@dataclass(frozen=True)
class Image:
    """The beginning of an archive in memory, with storages at their places in the file.

    It is written out in one piece, which keeps Python from training for a fraction of the time that
    its storages would take individually.

    Attributes:
        memory: holds the data of `records`; `write_archive` puts their headers in between.
        records: of storages, from offset 0 on.
        keys: the number of each storage's record, by `storage_id`.
        copies: bytes of further storages, by `storage_id`, to be written instead of what these have
            become.
    """

    memory: memoryview = field(default_factory=lambda: memoryview(b""))
    records: Sequence[Record] = ()
    keys: Mapping[int, int] = field(default_factory=dict)
    copies: Mapping[int, memoryview] = field(default_factory=dict)


def lay_out_storages(sizes: Sequence[int], first: int = 0, offset: int = 0) -> list[Record]:
    """The records of storages of so many bytes, numbered from `first` on."""
    return lay_out([(f"archive/data/{key}", size) for key, size in enumerate(sizes, first)], offset)


def write_archive(sink: Sink, state: Any, image: Image) -> None:
    """Write `state` as one checkpoint archive.

    Args:
        sink: takes the bytes in order.
        state: containers, numbers, strings and tensors.
        image: copies of its storages; other storages are read in place.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, image.keys)
    pickler.dump(state)
    imaged = [image.memory[record.start : record.end] for record in image.records]
    others = [
        image.copies.get(storage_id(storage)) or storage_view(storage)
        for storage in pickler.storages
    ]
    parts = {
        "data.pkl": buffer.getvalue(),
        "byteorder": sys.byteorder.encode(),
        "version": _FORMAT_VERSION,
    }
    records = list(image.records)
    records += lay_out_storages([len(data) for data in others], len(records), _end(records))
    records += lay_out(
        [(f"archive/{name}", len(data)) for name, data in parts.items()], _end(records)
    )
    data: list[memoryview | bytes] = [*imaged, *others, *parts.values()]
    sink.reserve(_end(records) + len(directory(records, [0] * len(records))))
    checksums = [crc32(content) for content in data]
    n_imaged = len(imaged)
    if imaged:
        _write_image(sink, image, imaged, checksums[:n_imaged])
    # Small pieces are joined: the overhead of a write exceeds their cost.
    small = bytearray()
    for record, content, checksum in zip(
        records[n_imaged:], data[n_imaged:], checksums[n_imaged:], strict=True
    ):
        small += record.header(checksum)
        large = len(content) >= LARGE_BYTES
        if not large:
            small += content
        if large or len(small) >= _TOGETHER_BYTES:
            sink.write(bytes(small))
            small.clear()
        if large:
            sink.write(content, checksum)
    sink.write(bytes(small) + directory(records, checksums))


def _end(records: Sequence[Record]) -> int:
    return records[-1].end if records else 0


def _write_image(
    sink: Sink, image: Image, imaged: Sequence[memoryview], checksums: Sequence[int]
) -> None:
    checksum = 0
    for record, content, content_checksum in zip(image.records, imaged, checksums, strict=True):
        header = record.header(content_checksum)
        image.memory[record.offset : record.start] = header
        checksum = crc32_append(crc32(header, checksum), content, content_checksum)
    sink.write(image.memory[: image.records[-1].end], checksum)


def storage_view(storage: torch.UntypedStorage) -> memoryview:
    """The bytes of a storage where they are; those of another device are copied to the CPU."""
    return flat_bytes(storage).cpu().numpy().data


def flat_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """A storage as a tensor of bytes, on its own device and without a copy."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


class _StorageReference(NamedTuple):
    """Stands for a storage inside the pickle."""

    kind: type
    key: int
    n_elements: int


class _Pickler(pickle.Pickler):
    """Writes a number wherever a storage stands, and remembers which."""

    def __init__(self, buffer: io.BytesIO, keys: Mapping[int, int]) -> None:
        super().__init__(buffer, protocol=2)
        self.storages: list[torch.UntypedStorage] = []
        """Return the storages without a number in `keys`, in the order of their new numbers."""
        self._keys = dict(keys)

    def reducer_override(self, value: Any) -> Any:
        # What torch and Python would do for these, without their detours: a third of the time.
        if type(value) is OrderedDict and not value and not vars(value):
            return OrderedDict, ()
        if type(value) is not torch.Tensor or value.layout != torch.strided or value.is_quantized:
            return NotImplemented
        kind = storage_class(value.dtype)
        if kind is None or value.is_conj() or value.is_neg():
            return NotImplemented
        storage = value.untyped_storage()
        reference = _StorageReference(
            kind, self._key(storage), storage.nbytes() // value.element_size()
        )
        place = (value.storage_offset(), tuple(value.shape), value.stride())
        return rebuild_tensor, (reference, *place, False, OrderedDict())

    def persistent_id(self, value: Any) -> Any:
        # Asked of every object in the state, of which most are these.
        if type(value) in _NO_STORAGE:
            return None
        # Marked as the CPU's, so that it loads on any machine.
        if type(value) is _StorageReference:
            return ("storage", value.kind, str(value.key), "cpu", value.n_elements)
        if isinstance(value, torch.storage.TypedStorage):
            kind = storage_class(value.dtype) or torch.UntypedStorage
            storage, n_elements = storage_in(value)
            return ("storage", kind, str(self._key(storage)), "cpu", n_elements)
        if isinstance(value, torch.UntypedStorage):
            return ("storage", torch.UntypedStorage, str(self._key(value)), "cpu", value.nbytes())
        return None

    def _key(self, storage: torch.UntypedStorage) -> int:
        identity = storage_id(storage)
        key = self._keys.get(identity)
        if key is None:
            key = self._keys[identity] = len(self._keys)
            self.storages.append(storage)
        return key
