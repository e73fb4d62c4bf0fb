from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.data import Bpe, Byte, Dataset, FineWebEdu, Gpt2, TokenizerSpec, prepare
from spectral_exp.data.fineweb import train_tokens
from spectral_exp.data.tokenizer import ByteTokenizer

PAGES = [f"Page {i}: Größe {'日本語 ' * (i % 7)}" for i in range(1200)]
PAGES[40] = PAGES[700] = PAGES[3]  # what validation holds appears again later


class Pages(FineWebEdu):
    """The same corpus over pages made here; records how it was asked, and may break off."""

    breaks_after: int | None = None

    def documents(self, skip: int) -> Iterator[str]:
        self.asked = [*getattr(self, "asked", []), skip]
        for number, page in enumerate(PAGES[skip:], skip):
            if self.breaks_after is not None and number >= self.breaks_after:
                raise ConnectionResetError("the server went away")
            yield page


def pages(max_tokens: int = 20_000, val_documents: int = 10, shard_tokens: int = 4000) -> Pages:
    return Pages(max_tokens=max_tokens, val_documents=val_documents, shard_tokens=shard_tokens)


def text_of(dataset: Dataset) -> tuple[str, str]:
    return dataset.tokenizer.decode(dataset.train), dataset.tokenizer.decode(dataset.val)


def shard_files(cache: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in (cache / "fineweb_edu").rglob("*")
        if path.is_file()
    }


KEPT = [page for page in PAGES[10:] if page != PAGES[3]]


def test_first_documents_validate_and_the_rest_trains(tmp_path: Path) -> None:
    data = prepare(pages(), Byte(), block_size=64, cache_dir=tmp_path)
    assert len(data.train) == 20_000 == data.fingerprints["train_tokens"]
    train = data.train.tobytes()
    assert "\n\n".join([*KEPT, ""]).encode().startswith(train)
    assert text_of(data)[1] == "\n\n".join([*PAGES[:10], ""])
    assert data.entropy_bits_per_byte is None
    assert data.fingerprints["corpus"] == "Pages"
    assert PAGES[3].encode() not in train


def test_a_warm_load_does_not_stream(tmp_path: Path) -> None:
    cold = prepare(pages(), Byte(), block_size=64, cache_dir=tmp_path)
    corpus = pages()
    warm = prepare(corpus, Byte(), block_size=64, cache_dir=tmp_path)
    assert not hasattr(corpus, "asked")
    assert warm.fingerprints == cold.fingerprints


@pytest.fixture
def gpt2_like(tmp_path: Path) -> Gpt2:
    tokenizers = pytest.importorskip("tokenizers")
    made = tmp_path / "made"
    Bpe(vocab_size=300).build("\n".join(PAGES), tmp_path).save(made)
    backend = tokenizers.Tokenizer.from_file(str(made / "tokenizer.json"))
    backend.add_special_tokens(["<|endoftext|>"])
    backend.save(str(made / "tokenizer.json"))
    return Gpt2(path=str(made / "tokenizer.json"))


def test_documents_end_with_the_end_of_text_token(gpt2_like: Gpt2, tmp_path: Path) -> None:
    data = prepare(pages(max_tokens=3000), gpt2_like, block_size=64, cache_dir=tmp_path)
    train, val = text_of(data)
    assert val == "<|endoftext|>".join([*PAGES[:10], ""])
    assert "<|endoftext|>".join(KEPT).startswith(train.rstrip("\ufffd"))
    assert data.fingerprints["val_bytes"] == sum(len(page.encode()) for page in PAGES[:10])


def test_more_tokens_go_on_from_the_shards_that_are_there(tmp_path: Path) -> None:
    prepare(pages(max_tokens=9000), Byte(), block_size=64, cache_dir=tmp_path / "grown")
    corpus = pages(max_tokens=20_000)
    grown = prepare(corpus, Byte(), block_size=64, cache_dir=tmp_path / "grown")
    assert corpus.asked[0] > 100
    fresh = prepare(pages(max_tokens=20_000), Byte(), block_size=64, cache_dir=tmp_path / "fresh")
    assert grown.fingerprints == fresh.fingerprints
    assert text_of(grown) == text_of(fresh)


@pytest.mark.parametrize("breaks_after", [0, 5, 300, 500])
def test_a_broken_stream_continues_after_its_last_shard(tmp_path: Path, breaks_after: int) -> None:
    broken = pages()
    broken.breaks_after = breaks_after
    reason = r"broke off \(ConnectionResetError: the server went away\); run the same command"
    with pytest.raises(UserError, match=reason):
        prepare(broken, Byte(), block_size=64, cache_dir=tmp_path / "broken")
    resumed = pages()
    data = prepare(resumed, Byte(), block_size=64, cache_dir=tmp_path / "broken")
    whole = prepare(pages(), Byte(), block_size=64, cache_dir=tmp_path / "whole")
    assert data.fingerprints == whole.fingerprints
    assert shard_files(tmp_path / "broken") == shard_files(tmp_path / "whole")
    assert (resumed.asked[0] > 0) == (breaks_after >= 300)


_KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_fineweb
from spectral_exp.core.files import temporary_path
from spectral_exp.data import Byte, prepare, cache
writes = 0
def write_file(path, data, real=cache.write_file):
    global writes
    writes += 1
    if writes == int(sys.argv[3]):
        temporary_path(path).write_bytes(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, data)
from spectral_exp.data import fineweb
fineweb.write_file = write_file
prepare(test_fineweb.pages(), Byte(), block_size=64, cache_dir=sys.argv[2])
"""


@pytest.mark.parametrize("write", [1, 2, 5, 6])
def test_killed_while_writing_and_resumed_gives_identical_shards(
    tmp_path: Path, write: int
) -> None:
    command = [
        sys.executable,
        "-c",
        _KILLED,
        str(Path(__file__).parent),
        str(tmp_path / "killed"),
        str(write),
    ]
    killed = subprocess.run(command, capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    data = prepare(pages(), Byte(), block_size=64, cache_dir=tmp_path / "killed")
    whole = prepare(pages(), Byte(), block_size=64, cache_dir=tmp_path / "whole")
    assert data.fingerprints == whole.fingerprints
    found = shard_files(tmp_path / "killed")
    assert {name: data for name, data in found.items() if not name.startswith(".")} == shard_files(
        tmp_path / "whole"
    )


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest"])
def test_a_damaged_shard_is_fetched_again(tmp_path: Path, damage: str) -> None:
    prepare(pages(max_tokens=12_000), Byte(), block_size=64, cache_dir=tmp_path / "bad")
    (folder,) = (tmp_path / "bad" / "fineweb_edu").iterdir()
    victim = folder / "manifest.json" if damage == "manifest" else next(folder.glob("train_00002*"))
    if damage == "remove":
        victim.unlink()
    elif damage == "flip":
        victim.write_bytes(bytes([victim.read_bytes()[0] ^ 1]) + victim.read_bytes()[1:])
    else:
        os.truncate(victim, victim.stat().st_size // 2)
    corpus = pages()
    data = prepare(corpus, Byte(), block_size=64, cache_dir=tmp_path / "bad")
    assert (corpus.asked[0] == 0) == (damage == "manifest")
    whole = prepare(pages(), Byte(), block_size=64, cache_dir=tmp_path / "whole")
    assert data.fingerprints == whole.fingerprints


def test_a_stream_that_ends_early_gives_its_documents(tmp_path: Path) -> None:
    data = prepare(pages(max_tokens=10**9), Byte(), block_size=64, cache_dir=tmp_path)
    assert text_of(data)[0] == "\n\n".join([*KEPT, ""])
    with pytest.raises(
        UserError, match=r"ended before the first training document; lower data.val_documents"
    ):
        prepare(pages(val_documents=5000), Byte(), block_size=64, cache_dir=tmp_path)


def test_shards_are_whole_documents_and_listed(tmp_path: Path) -> None:
    folder, shards = pages().shards(ByteTokenizer(), tmp_path)
    assert [shard.documents for shard in shards] == sorted(shard.documents for shard in shards)
    assert shards[0].documents == 10 == len(shards[0].digests)
    assert train_tokens(shards) >= 20_000
    assert all((folder / shard.name).read_bytes().endswith(b"\n\n") for shard in shards)
    listed = json.loads((folder / "manifest.json").read_text())["shards"]
    assert [one["name"] for one in listed] == [shard.name for shard in shards]


@pytest.mark.parametrize("spec", [Bpe()])
def test_a_tokenizer_that_needs_training_is_refused(spec: TokenizerSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use tokenizer=gpt2 or tokenizer=byte"):
        prepare(pages(), spec, block_size=64, cache_dir=tmp_path)


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'spectral-exp\[fineweb\]'"):
        prepare(FineWebEdu(), Byte(), block_size=64, cache_dir=tmp_path)


def test_the_library_gets_the_right_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Stream:
        def skip(self, n: int) -> list[dict[str, str]]:
            calls.append(n)
            return [{"text": page, "id": "x"} for page in PAGES[n:]]

    def load_dataset(path: str, **settings: object) -> Stream:
        calls.append((path, settings))
        return Stream()

    library = types.ModuleType("datasets")
    library.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    assert importlib.import_module("datasets") is library
    assert list(FineWebEdu(name="sample-100BT", revision="abc").documents(1197)) == PAGES[1197:]
    settings = {"name": "sample-100BT", "split": "train", "revision": "abc", "streaming": True}
    assert calls == [("HuggingFaceFW/fineweb-edu", settings), 1197]


@pytest.mark.parametrize("setting", ["max_tokens", "val_documents", "shard_tokens"])
def test_wrong_settings_are_refused(setting: str) -> None:
    with pytest.raises(SettingError, match=f"{setting}=0 must be >= 1"):
        FineWebEdu(**{setting: 0})  # type: ignore[arg-type]
