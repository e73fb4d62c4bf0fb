from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.data import (
    Bpe,
    Byte,
    Char,
    Dataset,
    Markov,
    PythonStdlib,
    TextFile,
    TokenizerSpec,
    prepare,
)
from spectral_exp.data.corpus import Corpus

TEXT = "".join(f"{i}: Größe, naïve, 日本語, 😀\n" for i in range(300))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_bytes(TEXT.encode())
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def text_of(dataset: Dataset) -> tuple[str, str]:
    return dataset.tokenizer.decode(dataset.train), dataset.tokenizer.decode(dataset.val)


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "datasets").iterdir())


SPECS = [Byte(), Char(), Bpe(vocab_size=300)]


@pytest.mark.parametrize("spec", SPECS, ids=["byte", "char", "bpe"])
@pytest.mark.parametrize("val_fraction", [0.1, 0.37])
def test_splits_are_exact_and_share_nothing(
    file: Path, cache: Path, spec: TokenizerSpec, val_fraction: float
) -> None:
    corpus = TextFile(str(file), val_fraction=val_fraction)
    data = prepare(corpus, spec, block_size=8, cache_dir=cache)
    parts = tuple(part.decode() for part in corpus.split(TEXT.encode()).values())
    for dataset in (data, prepare(corpus, spec, block_size=8, cache_dir=cache)):
        assert text_of(dataset) == parts
        assert isinstance(dataset.train, np.memmap)
        assert dataset.train.dtype == dataset.val.dtype == dataset.tokenizer.dtype
        assert dataset.fingerprints == data.fingerprints
    sizes = [len(part.encode()) for part in parts]
    assert [data.fingerprints[key] for key in ("train_bytes", "val_bytes")] == sizes
    assert [data.tokenizer.token_bytes[ids].sum() for ids in (data.train, data.val)] == sizes
    assert [data.fingerprints[key] for key in ("train_tokens", "val_tokens")] == [
        len(data.train),
        len(data.val),
    ]
    assert data.fingerprints["corpus_sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert data.fingerprints["train_sha256"] == hashlib.sha256(data.train.tobytes()).hexdigest()
    assert data.fingerprints["val_sha256"] == hashlib.sha256(data.val.tobytes()).hexdigest()
    assert data.fingerprints["tokenizer"] == data.tokenizer.fingerprint
    assert data.fingerprints["vocab_size"] == data.vocab_size
    assert data.entropy_bits_per_byte is None


@pytest.mark.parametrize("spec", SPECS, ids=["byte", "char", "bpe"])
def test_a_test_text_is_kept_apart(file: Path, cache: Path, spec: TokenizerSpec) -> None:
    corpus = TextFile(str(file), test_fraction=0.2)
    parts = {name: part.decode() for name, part in corpus.split(TEXT.encode()).items()}
    for data in (prepare(corpus, spec, block_size=8, cache_dir=cache) for _ in range(2)):
        assert data.test is not None
        found = {"train": data.train, "val": data.val, "test": data.test}
        assert {name: data.tokenizer.decode(ids) for name, ids in found.items()} == parts
        for name, ids in found.items():
            assert data.fingerprints[f"{name}_tokens"] == len(ids)
            assert data.fingerprints[f"{name}_bytes"] == len(parts[name].encode())
    without = prepare(TextFile(str(file)), spec, block_size=8, cache_dir=cache)
    assert without.test is None
    assert "test_tokens" not in without.fingerprints
    assert without.tokenizer.decode(without.val) == parts["val"]


def test_a_test_text_that_fills_no_window_is_refused(file: Path, cache: Path) -> None:
    corpus = TextFile(str(file), test_fraction=4 / len(TEXT.encode()))
    with pytest.raises(UserError, match="must be less than the test text's"):
        prepare(corpus, Byte(), block_size=8, cache_dir=cache)


def test_the_unigram_entropy_is_that_of_the_validation_bytes(file: Path, cache: Path) -> None:
    corpus = TextFile(str(file))
    counts = np.bincount(np.frombuffer(corpus.split(TEXT.encode())["val"], dtype=np.uint8))
    p = counts[counts > 0] / counts.sum()
    for spec in SPECS:
        data = prepare(corpus, spec, block_size=8, cache_dir=cache)
        assert data.unigram_bits_per_byte == pytest.approx(-(p * np.log2(p)).sum(), rel=1e-12)


def test_a_text_of_one_character_has_no_entropy(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a").write_text("a" * 100)
    bits = prepare(
        TextFile(str(tmp_path / "a")), Byte(), block_size=4, cache_dir=cache
    ).unigram_bits_per_byte
    assert math.copysign(1, bits) == 1
    assert bits == 0


def test_bpe_sees_the_training_split_alone(tmp_path: Path, cache: Path) -> None:
    common = "the quick brown fox\n" * 200
    for name, end in (("one", "zzzzzzzz " * 40), ("two", "qqqqqqqq " * 40)):
        (tmp_path / name).write_text(common + end)
    made = [
        prepare(TextFile(str(tmp_path / name)), Bpe(vocab_size=280), block_size=4, cache_dir=cache)
        for name in ("one", "two")
    ]
    assert made[0].tokenizer.fingerprint == made[1].tokenizer.fingerprint
    assert made[0].fingerprints["val_sha256"] != made[1].fingerprints["val_sha256"]


def test_char_knows_the_validation_split_too(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "t").write_text("ab" * 100 + "xyz" * 5)
    assert (
        prepare(TextFile(str(tmp_path / "t")), Char(), block_size=4, cache_dir=cache).vocab_size
        == 5
    )


def test_a_warm_load_neither_reads_the_text_nor_writes(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = TextFile(str(file))
    cold = prepare(corpus, Byte(), block_size=8, cache_dir=cache)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}

    def unexpected(*args: object) -> bytes:
        raise AssertionError("the text was read")

    monkeypatch.setattr(TextFile, "read", unexpected)
    warm = prepare(corpus, Byte(), block_size=8, cache_dir=cache)
    assert warm.fingerprints == cold.fingerprints
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before


def test_changed_text_is_noticed_also_at_equal_size_and_time(file: Path, cache: Path) -> None:
    prepare(TextFile(str(file)), Byte(), block_size=8, cache_dir=cache)
    stat = file.stat()
    file.write_bytes(TEXT.replace("naïve", "NAÏVE").encode())
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size
    data = prepare(TextFile(str(file)), Byte(), block_size=8, cache_dir=cache)
    assert "NAÏVE" in text_of(data)[0]
    assert len(entries(cache)) == 2


def test_equal_text_elsewhere_shares_the_entry(file: Path, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "copy").write_bytes(file.read_bytes())
    for path in (file, tmp_path / "copy"):
        prepare(TextFile(str(path)), Byte(), block_size=8, cache_dir=cache)
    assert len(entries(cache)) == 1


def test_entries_differ_by_tokenizer_and_split(file: Path, cache: Path) -> None:
    for spec in (*SPECS, Bpe(vocab_size=301)):
        for val_fraction in (0.1, 0.2):
            prepare(
                TextFile(str(file), val_fraction=val_fraction), spec, block_size=8, cache_dir=cache
            )
    assert len(entries(cache)) == 8


@pytest.mark.parametrize(
    "name", ["train.bin", "val.bin", "meta.json", "tokenizer/tokenizer_kind.json"]
)
@pytest.mark.parametrize("damage", ["truncated", "garbage", "missing"])
def test_a_torn_entry_is_rebuilt(file: Path, cache: Path, name: str, damage: str) -> None:
    corpus = TextFile(str(file))
    cold = prepare(corpus, Char(), block_size=8, cache_dir=cache)
    expected, fingerprints = text_of(cold), cold.fingerprints
    victim = entries(cache)[0] / name
    if damage == "missing":
        victim.unlink()
    elif damage == "truncated":
        os.truncate(victim, victim.stat().st_size // 2)
    else:
        victim.write_bytes(os.urandom(victim.stat().st_size))
    again = prepare(corpus, Char(), block_size=8, cache_dir=cache)
    assert text_of(again) == expected
    assert again.fingerprints == fingerprints
    assert len(entries(cache)) == 1


def test_garbage_in_the_table_of_sources_does_no_harm(file: Path, cache: Path) -> None:
    prepare(TextFile(str(file)), Byte(), block_size=8, cache_dir=cache)
    (source,) = (cache / "sources").iterdir()
    for garbage in (b"\xff", b"[]", b'{"sha256": 3}', b'{"sha256": "' + b"0" * 64 + b'"}'):
        source.write_bytes(garbage)
        assert text_of(prepare(TextFile(str(file)), Byte(), block_size=8, cache_dir=cache))[
            0
        ].startswith("0: Größe")


_PREPARE = """
import json, sys
from spectral_exp.data import Char, TextFile, prepare
print("ready", flush=True)
sys.stdin.readline()
data = prepare(TextFile(sys.argv[1]), Char(), block_size=8, cache_dir=sys.argv[2])
text = data.tokenizer.decode(data.train) + data.tokenizer.decode(data.val)
print(json.dumps([data.fingerprints, text]), flush=True)
"""


def test_two_processes_prepare_the_same_data_at_once(tmp_path: Path, cache: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes((TEXT * 40).encode())
    command = [sys.executable, "-c", _PREPARE, str(big), str(cache)]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    results = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert results[0] == results[1]
    assert results[0][1] == TEXT * 40
    assert len(entries(cache)) == 1


@pytest.mark.parametrize(
    ("length", "which", "tokens"), [(50, "validation", 5), (1, "training", 0), (8, "training", 7)]
)
def test_text_too_short_for_a_block_is_an_error(
    tmp_path: Path, cache: Path, length: int, which: str, tokens: int
) -> None:
    (tmp_path / "short").write_text("a" * length)
    expected = (
        rf"model.block_size=7 must be less than the {which} text's {tokens} tokens; use a longer"
        r" text, a smaller"
    )
    with pytest.raises(UserError, match=expected) as caught:
        prepare(TextFile(str(tmp_path / "short")), Byte(), block_size=7, cache_dir=cache)
    assert "\n" not in str(caught.value)


def test_one_token_more_than_a_block_is_enough(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "short").write_text("a" * 80)
    data = prepare(TextFile(str(tmp_path / "short")), Byte(), block_size=7, cache_dir=cache)
    assert len(data.val) == 8


def test_block_size_must_be_positive(file: Path, cache: Path) -> None:
    with pytest.raises(SettingError, match=r"block_size=0 must be >= 1"):
        prepare(TextFile(str(file)), Byte(), block_size=0, cache_dir=cache)


def test_an_unusable_cache_names_the_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRAL_EXP_CACHE", str(file / "below"))
    with pytest.raises(
        UserError,
        match=r"the cache folder .*text/below cannot be used .*; set SPECTRAL_EXP_CACHE to",
    ):
        prepare(TextFile(str(file)), Byte(), block_size=8)


def test_the_environment_names_the_cache(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECTRAL_EXP_CACHE", str(cache))
    prepare(TextFile(str(file)), Byte(), block_size=8)
    assert len(entries(cache)) == 1


def test_markov_brings_its_entropy(cache: Path) -> None:
    corpus = Markov(order=1, n_symbols=4, n_tokens=5000)
    for _ in range(2):
        data = prepare(corpus, Byte(), block_size=8, cache_dir=cache)
        assert data.entropy_bits_per_byte == corpus.entropy_bits_per_byte
    assert data.unigram_bits_per_byte > corpus.entropy_bits_per_byte


def test_the_standard_library_prepares(cache: Path) -> None:
    data = prepare(PythonStdlib(), Byte(), block_size=128, cache_dir=cache)
    assert data.train.tobytes() + data.val.tobytes() == PythonStdlib().read(cache)
    assert 4 < data.unigram_bits_per_byte < 5


def test_a_corpus_of_no_known_kind_is_a_programming_error(cache: Path) -> None:
    with pytest.raises(TypeError, match="Corpus is neither"):
        prepare(Corpus(), Byte(), block_size=8, cache_dir=cache)
