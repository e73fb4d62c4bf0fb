from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.data import Bpe, BpeTokenizer, Gpt2, load_tokenizer
from spectral_exp.data.bpe import chunks

tokenizers = pytest.importorskip("tokenizers")

SAMPLE = (
    Path(__file__).read_text("utf-8") + "Größe, naïve, 日本語, 😀😀 don't we'll  \n\n\t x\r\n"
) * 3
NOWHERE = Path()
# Text made of what GPT-2's pattern treats in different ways, blanks that only some engines count as
# blanks among it.
TRICKY = st.text(
    st.sampled_from(list("ab1'!s tl\n\r\t \x1c\x85\xa0\u2003\u200b\u3000é日😀_")), max_size=60
)


@pytest.fixture(scope="module")
def trained() -> BpeTokenizer:
    return Bpe(vocab_size=400).build(SAMPLE, NOWHERE)


@pytest.fixture(scope="module")
def gpt2_like(tmp_path_factory: pytest.TempPathFactory, trained: BpeTokenizer) -> Path:
    """A tokenizer.json made the way GPT-2's is: byte-level BPE with one special token at the
    end."""
    folder = tmp_path_factory.mktemp("gpt2")
    trained.save(folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_special_tokens(["<|endoftext|>"])
    backend.enable_truncation(max_length=5)
    backend.save(str(folder / "like_gpt2.json"))
    return folder / "like_gpt2.json"


def test_saving_never_leaves_a_description_without_its_vocabulary(
    trained: BpeTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(OSError, match="no regular file"):
        trained.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    (tmp_path / "tokenizer.json").rmdir()
    trained.save(tmp_path)
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    trained.save(tmp_path)  # a run that is continued saves it again
    assert {path.name: path.stat().st_ino for path in tmp_path.iterdir()} == before


def test_a_definition_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(UserError, match=r"is not a tokenizer\.json"):
        BpeTokenizer("[" * 200_000)


@given(text=st.one_of(st.text(), TRICKY))
def test_round_trip_with_exact_counts(trained: BpeTokenizer, text: str) -> None:
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert trained.token_bytes[ids].sum() == len(text.encode())
    counts = np.bincount(ids, minlength=trained.vocab_size)
    assert (
        trained.byte_counts(counts).tolist()
        == np.bincount(list(text.encode()), minlength=256).tolist()
    )


@given(text=TRICKY, size=st.integers(1, 20))
def test_pieces_split_into_words_as_the_whole_does(
    trained: BpeTokenizer, text: str, size: int
) -> None:
    splitting = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    pieces = list(chunks(text, size))
    assert "".join(pieces) == text
    assert all(len(piece) >= size for piece in pieces[:-1])
    words = [word for piece in pieces for word, _ in splitting.pre_tokenize_str(piece)]
    assert words == [word for word, _ in splitting.pre_tokenize_str(text)]
    assert (
        np.concatenate(trained.encode_many(pieces)).tolist()
        == trained.encode_many([text])[0].tolist()
    )


def test_a_long_text_is_cut_and_encoded_exactly(trained: BpeTokenizer) -> None:
    text = SAMPLE * 12
    assert len(list(chunks(text))) > 2
    assert trained.encode(text).tolist() == trained.encode_many([text])[0].tolist()
    assert len(trained.encode(text)) < 0.7 * len(text)


def test_vocabulary_sizes_and_types(trained: BpeTokenizer) -> None:
    assert trained.vocab_size == 400
    assert trained.encode("abc").dtype == np.uint16
    smallest = Bpe(vocab_size=256).build(SAMPLE, NOWHERE)
    assert smallest.vocab_size == 256
    assert smallest.encode("é").dtype == np.uint8
    assert Bpe(vocab_size=500).build("aaaa", NOWHERE).vocab_size < 300  # too little text for more
    assert Bpe(vocab_size=300).build("", NOWHERE).vocab_size == 256
    with pytest.raises(SettingError, match=r"vocab_size=255 must be >= 256; the 256 byte values"):
        Bpe(vocab_size=255)


_TRAIN = """
import sys
from pathlib import Path
from spectral_exp.data import Bpe
print(Bpe(vocab_size=400).build(Path(sys.argv[1]).read_text("utf-8"), Path()).fingerprint)
"""


def test_training_is_deterministic_across_processes_and_threads(
    trained: BpeTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "text").write_bytes(SAMPLE.encode())
    for threads in ("1", "3"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        command = [sys.executable, "-c", _TRAIN, str(tmp_path / "text")]
        made = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        assert made.stdout.strip() == trained.fingerprint


def test_saved_and_loaded_alike(trained: BpeTokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path / "run")
    loaded = load_tokenizer(tmp_path / "run")
    assert loaded.fingerprint == trained.fingerprint
    assert loaded.encode(SAMPLE).tolist() == trained.encode(SAMPLE).tolist()
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "run" / "tokenizer.json"))
    assert other.encode("def f(x):").ids == trained.encode("def f(x):").tolist()
    (tmp_path / "run" / "tokenizer.json").write_text("{")
    with pytest.raises(
        UserError, match=r"tokenizer.json is not a tokenizer.json of the tokenizers library"
    ):
        load_tokenizer(tmp_path / "run")


def test_labels_are_printable(trained: BpeTokenizer) -> None:
    labels = [trained.token_text(i) for i in range(trained.vocab_size)]
    assert all(label.isprintable() and label and " " not in label for label in labels)
    assert any(label.startswith("␣") and len(label) > 2 for label in labels)


def test_a_local_gpt2_vocabulary(gpt2_like: Path, trained: BpeTokenizer, tmp_path: Path) -> None:
    spec = Gpt2(path=str(gpt2_like))
    tokenizer = spec.build(None, tmp_path)
    end = tokenizer.end_of_text
    assert end == 400 == tokenizer.vocab_size - 1
    assert tokenizer.token_bytes[end] == 0
    assert tokenizer.decode([end]) == "<|endoftext|>" == tokenizer.token_text(end)
    text = "a text<|endoftext|>that names the special token, longer than a truncation to five"
    ids = tokenizer.encode(text)
    assert end not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes[ids].sum() == len(text)
    assert ids.tolist() == trained.encode(text).tolist()
    assert spec.identity(tmp_path) == {
        "kind": "gpt2",
        "sha256": hashlib.sha256(gpt2_like.read_bytes()).hexdigest(),
    }
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_placed_by_hand_is_used(gpt2_like: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizers").mkdir()
    (tmp_path / "tokenizers" / "gpt2.json").write_bytes(gpt2_like.read_bytes())
    assert (
        Gpt2().build(None, tmp_path).fingerprint
        == Gpt2(path=str(gpt2_like)).build(None, tmp_path).fingerprint
    )


def test_a_fetched_vocabulary_is_kept(
    gpt2_like: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Hub:
        Tokenizer: Any

    def from_pretrained(name: str) -> Any:
        asked.append(name)
        return tokenizers.Tokenizer.from_file(str(gpt2_like))

    Hub.Tokenizer = type("Tokenizer", (), {"from_pretrained": staticmethod(from_pretrained)})
    with monkeypatch.context() as patch:
        patch.setattr("spectral_exp.data.bpe.import_tokenizers", lambda: Hub)
        first = Gpt2().identity(tmp_path)
        assert Gpt2().identity(tmp_path) == first
    assert asked == ["openai-community/gpt2"]
    assert Gpt2().build(None, tmp_path).vocab_size == 401


_OFFLINE = """
import sys
from pathlib import Path
from spectral_exp.data import Gpt2
from spectral_exp.core.errors import UserError
try:
    Gpt2().build(None, Path(sys.argv[1]))
except UserError as error:
    print(error)
"""


def test_without_a_connection_the_error_names_the_place_of_the_vocabulary(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-c", _OFFLINE, str(tmp_path / "cache")]
    stderr_text = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert stderr_text.startswith("the GPT-2 vocabulary could not be fetched")
    assert "https://huggingface.co/openai-community/gpt2/resolve/main/tokenizer.json" in stderr_text
    assert (
        f"copy it to {tmp_path / 'cache' / 'tokenizers' / 'gpt2.json'}, or name it with"
        " tokenizer.path=FILE" in stderr_text
    )


def lowercase(value: dict[str, Any]) -> None:
    value["normalizer"] = {"type": "Lowercase"}


def word_piece(value: dict[str, Any]) -> None:
    value["model"]["type"] = "WordPiece"


def prefix_space(value: dict[str, Any]) -> None:
    value["pre_tokenizer"]["add_prefix_space"] = True


def other_splitting(value: dict[str, Any]) -> None:
    value["pre_tokenizer"] = {"type": "Whitespace"}


def no_splitting(value: dict[str, Any]) -> None:
    value["pre_tokenizer"] = None


def plain_added_token(value: dict[str, Any]) -> None:
    value["added_tokens"][0]["special"] = False


def missing_byte(value: dict[str, Any]) -> None:
    value["model"]["vocab"]["<a>"] = value["model"]["vocab"].pop("a")


def gap(value: dict[str, Any]) -> None:
    value["added_tokens"][0]["id"] += 1


CHANGES = [
    lowercase,
    word_piece,
    prefix_space,
    other_splitting,
    no_splitting,
    plain_added_token,
    missing_byte,
    gap,
]


@pytest.mark.parametrize("change", CHANGES)
def test_other_kinds_of_vocabulary_are_refused(
    gpt2_like: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    value = json.loads(gpt2_like.read_text("utf-8"))
    change(value)
    (tmp_path / "t.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"t.json must be a byte-level BPE like GPT-2's"):
        Gpt2(path=str(tmp_path / "t.json")).build(None, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"tokenizer.path=.*t.json must be an existing tokenizer.json, or null"),
        (b"\xff", r"t.json cannot be read as a tokenizer.json"),
        (b"{}", r"t.json is not a tokenizer.json of the tokenizers library"),
        (b"[1]", r"t.json is not a tokenizer.json of the tokenizers library"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_an_error(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        Gpt2(path=str(tmp_path / "t.json")).build(None, tmp_path)


def test_half_a_surrogate_pair_is_refused(trained: BpeTokenizer) -> None:
    with pytest.raises(UserError, match=r"lone surrogate U\+DC80 at position 1"):
        trained.encode("a\udc80")


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install 'spectral-exp\[bpe\]'"):
        Bpe().build("text", NOWHERE)
