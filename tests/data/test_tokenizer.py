from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.core.errors import UserError
from spectral_exp.data import Byte, ByteTokenizer, Char, CharTokenizer, load_tokenizer
from spectral_exp.data.tokenizer_base import DESCRIPTION, id_dtype

MIXED = "def f(x):\n\treturn 'ä€😀' + \"\u2028\"\x00\r\n"


@given(text=st.text())
def test_byte_round_trip_with_exact_counts(text: str) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.dtype == np.uint8
    assert ids.tobytes() == text.encode()
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())


@given(text=st.text())
def test_char_round_trip_with_exact_counts(text: str) -> None:
    tokenizer = CharTokenizer(text)
    ids = tokenizer.encode(text)
    assert tokenizer.vocab_size == len(set(text))
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)
    assert (
        tokenizer.byte_counts(counts).tolist()
        == np.bincount(list(text.encode()), minlength=256).tolist()
    )


@given(ids=st.lists(st.integers(-3, 300)))
def test_decode_never_raises(ids: list[int]) -> None:
    text = ByteTokenizer().decode(ids)
    assert text.encode().decode() == text
    assert ByteTokenizer().decode(torch.tensor(ids, dtype=torch.int64)) == text


def test_char_ids_follow_the_code_points() -> None:
    tokenizer = CharTokenizer("hello, wörld\n")
    assert tokenizer.characters == "\n ,dehlorwö"
    assert tokenizer.encode("\n ,dehlorwö").tolist() == list(range(11))


def test_unknown_characters_are_named() -> None:
    tokenizer = CharTokenizer("abc")
    with pytest.raises(
        UserError, match=r"does not know 'x' \(U\+0078\), '😀' \(U\+1F600\): its 3 characters"
    ) as caught:
        tokenizer.encode("a😀xbx")
    assert "tokenizer=byte" in str(caught.value)
    with pytest.raises(UserError, match=r" and 16 more: "):
        tokenizer.encode("defghijklmnopqrstuvwxyz012")
    with pytest.raises(UserError, match=r"does not know 'a'"):
        CharTokenizer("").encode("a")


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer("ab")])
def test_half_a_surrogate_pair_is_refused(tokenizer: ByteTokenizer | CharTokenizer) -> None:
    with pytest.raises(UserError, match=r"lone surrogate U\+D800 at position 2"):
        tokenizer.encode("ab\ud800")


def test_labels_are_printable() -> None:
    labels = [ByteTokenizer().token_text(i) for i in range(256)]
    assert [labels[i] for i in (ord("a"), ord(" "), 10, 0, 0x7F, 0xC3)] == [
        "a",
        "␣",
        "\\n",
        "\\x00",
        "\\x7f",
        "\\xc3",
    ]
    assert all(label.isprintable() and label and " " not in label for label in labels)
    assert len(set(labels)) == 256
    assert [CharTokenizer("ä\u2028").token_text(i) for i in range(2)] == ["ä", "\\u2028"]


def test_id_types_are_the_smallest() -> None:
    sizes = [1, 256, 257, 65536, 65537, 1 << 32]
    assert [id_dtype(n).itemsize for n in sizes] == [1, 1, 2, 2, 4, 4]
    with pytest.raises(ValueError, match="no id type"):
        id_dtype((1 << 32) + 1)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer(MIXED)])
def test_saved_and_loaded_alike(tokenizer: ByteTokenizer | CharTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "new" / "folder")
    loaded = load_tokenizer(tmp_path / "new" / "folder")
    assert type(loaded) is type(tokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode(MIXED).tolist() == tokenizer.encode(MIXED).tolist()


def test_saving_writes_only_changes_and_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ByteTokenizer().save(tmp_path)
    (file,) = tmp_path.iterdir()
    inode = file.stat().st_ino
    ByteTokenizer().save(tmp_path)
    assert file.stat().st_ino == inode
    before = file.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: 1 / 0)  # the process ends here
    with pytest.raises(ZeroDivisionError):
        CharTokenizer("ab").save(tmp_path)
    monkeypatch.undo()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
    CharTokenizer("ab").save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == CharTokenizer("ab").fingerprint


def test_fingerprints_distinguish_tokenizers() -> None:
    made = [ByteTokenizer(), CharTokenizer("ab"), CharTokenizer("abc")]
    assert len({tokenizer.fingerprint for tokenizer in made}) == 3
    assert CharTokenizer("ba").fingerprint == CharTokenizer("aab").fingerprint
    assert (
        ByteTokenizer().fingerprint
        == "68513ce4c5d4b6735a676c70d3318d18b50690d9c964240ffcb59d5916533d09"
    )


@pytest.mark.parametrize("content", [None, "", "[]", '{"kind": "other"}', '{"kind": "char"}'])
def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / DESCRIPTION).write_text(content)
    with pytest.raises(
        UserError,
        match=r"holds no readable tokenizer \(tokenizer_kind.json is missing or damaged\)",
    ):
        load_tokenizer(tmp_path)


def test_specs_build_the_tokenizers_they_name(tmp_path: Path) -> None:
    assert Byte().build(None, tmp_path).vocab_size == 256
    built = Char().build("banana", tmp_path)
    assert built.characters == "abn"
    assert json.dumps([Byte().identity(tmp_path), Char().identity(tmp_path)])
