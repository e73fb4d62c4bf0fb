from __future__ import annotations

import copy
import functools
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_exp.monitoring.checkpoint import zip_layout
from spectral_exp.monitoring.checkpoint.archive import flat_bytes
from spectral_exp.monitoring.checkpoint.file import write_checkpoint
from spectral_exp.monitoring.checkpoint.portable import portable_state
from spectral_exp.monitoring.checkpoint.reader import verify
from spectral_exp.monitoring.checkpoint.staging import Staged, StagingArena, storages_of

DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.uint16,
    torch.float8_e4m3fn,
]


def everything() -> dict[str, Any]:
    shared = torch.arange(12.0).reshape(3, 4)
    return {
        "step": 3,
        "timestamp": "now",
        "git_hash": "0" * 8,
        **{str(dtype): torch.arange(5).to(dtype) for dtype in DTYPES},
        "tied": [shared, shared],
        "transposed": shared.t(),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "large": torch.randn(300, 300, generator=torch.Generator().manual_seed(0)),
        "sparse": torch.eye(3).to_sparse(),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "ordered": OrderedDict(a=1, b=(True, None, b"\x00", 1e300)),
    }


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape, one.layout) == (other.dtype, other.shape, other.layout)
        one, other = (t.to_dense() if t.layout == torch.sparse_coo else t for t in (one, other))
        assert one.stride() == other.stride()
        flat = [
            t.resolve_conj().contiguous().view(torch.uint8) if t.ndim and t.numel() else t
            for t in (one, other)
        ]
        assert torch.equal(*flat)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        assert type(one) is type(other)
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert type(one) is type(other)
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    else:
        assert one == other


def assert_is_plain_checkpoint(path: Path) -> None:
    state = everything()
    assert_equal(state, torch.load(path, weights_only=True))
    mapped = {
        k: v for k, v in torch.load(path, weights_only=True, mmap=True).items() if k != "sparse"
    }
    assert_equal({k: v for k, v in state.items() if k != "sparse"}, mapped)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None


def test_every_kind_of_state_is_read_by_torch(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c.pt", everything())
    assert_is_plain_checkpoint(tmp_path / "c.pt")
    loaded = torch.load(tmp_path / "c.pt", weights_only=True)
    assert (
        loaded["tied"][0].data_ptr()
        == loaded["tied"][1].data_ptr()
        == loaded["transposed"].data_ptr()
    )


def test_archives_beyond_four_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The same fields as in a large archive, at a limit that a small one exceeds.
    monkeypatch.setattr(zip_layout, "_zip64_from", lambda: 1000)
    write_checkpoint(tmp_path / "c.pt", everything())
    assert_is_plain_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize("zip64_from", [0xFFFFFFFF, 1000])
@pytest.mark.parametrize("n_large", [0, 1, 3])
def test_a_copied_state_is_written_as_it_was(
    n_large: int, zip64_from: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_layout, "_zip64_from", lambda: zip64_from)
    arena = StagingArena()
    for attempt in range(2):  # the second into used memory
        tensors: list[torch.Tensor] = []
        state = portable_state(
            everything() | {"more": [torch.randn(30_000 + i) for i in range(n_large)]},
            "it",
            tensors,
        )
        storages = storages_of(tensors)
        image = Staged(arena, storages[attempt::3], functools.partial(list, storages)).copy()
        expected = copy.deepcopy(state)
        for storage in storages:
            flat_bytes(storage).fill_(7)
        path = tmp_path / f"c{attempt}.pt"
        write_checkpoint(path, state, image)
        assert verify(path) == "its sidecar"
        with zipfile.ZipFile(path) as file:
            assert file.testzip() is None
        assert_equal(expected, torch.load(path, weights_only=True))


@pytest.mark.parametrize("n_tensors", [0, 400])
def test_states_of_few_and_of_many_small_parts(n_tensors: int, tmp_path: Path) -> None:
    tensors = {str(i): torch.full((3000,), float(i)) for i in range(n_tensors)}
    state = {"step": 1, "timestamp": "now", "git_hash": "0" * 8, **tensors}
    write_checkpoint(tmp_path / "c.pt", state)
    assert verify(tmp_path / "c.pt") == "its sidecar"
    assert_equal(state, torch.load(tmp_path / "c.pt", weights_only=True))


def test_reading_needs_nothing_of_ours(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c.pt", everything())
    code = (
        "import sys, torch; torch.load('c.pt', weights_only=True); print('spectral_exp' in '"
        " '.join(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "False"
