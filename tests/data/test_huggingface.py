from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.core.errors import UserError
from spectral_exp.data import HuggingFace, HuggingFaceTokenizer, load_tokenizer

tokenizers = pytest.importorskip("tokenizers")

SAMPLE = ["The quick brown fox, don't you? 0123 4567.89 {[(<def f(x): return x_1>)]}\n\t\r -"] * 3


def byte_level(**settings: Any) -> Any:
    """A byte-level BPE with a pattern of its own, as Llama 3 and Qwen have."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    pattern = tokenizers.Regex(r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+")
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(pattern, "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end_of_text|>"],
        show_progress=False,
    )
    backend.train_from_iterator(SAMPLE, trainer)
    backend.add_tokens(["<think>"])
    return backend


def sentencepiece() -> Any:
    """A BPE with bytes as a fallback and a space before each text, as Llama 2 has."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{value:02X}>": value + 3 for value in range(256)}
    for text in ("\u2581", "t", "h", "e", "th", "\u2581th", "\u2581the"):
        vocab[text] = len(vocab)
    merges = [("t", "h"), ("\u2581", "th"), ("\u2581th", "e")]
    model = tokenizers.models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True,
                                  byte_fallback=True)  # fmt: skip
    backend = tokenizers.Tokenizer(model)
    normalizers, decoders = tokenizers.normalizers, tokenizers.decoders
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    backend.add_special_tokens(["<s>", "</s>"])
    return backend


KINDS: dict[str, Callable[[], Any]] = {"byte level": byte_level, "sentencepiece": sentencepiece}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(KINDS[request.param]().to_str())


@given(text=st.one_of(st.text(), st.text(st.sampled_from("the <s>\n\t1é日😀"))))
def test_every_text_is_restored_with_exact_bytes(
    tokenizer: HuggingFaceTokenizer, text: str
) -> None:
    if "\u2581" in text:
        return  # the mark of a space is itself lost in such vocabularies
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)
    expected = np.bincount(list(text.encode()), minlength=256)
    assert tokenizer.byte_counts(counts).tolist() == expected.tolist()


def test_a_saved_tokenizer_is_loaded_again(tokenizer: HuggingFaceTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode("the end <s>").tolist() == tokenizer.encode("the end <s>").tolist()
    assert again.end_of_text == tokenizer.end_of_text is not None


def test_ids_are_those_of_the_library() -> None:
    backend = byte_level()
    text = "The fox <think> 1234567 don't"
    ids = HuggingFaceTokenizer(backend.to_str()).encode(text).tolist()
    assert ids == backend.encode(text, add_special_tokens=False).ids


def lossy() -> Any:
    backend = byte_level()
    backend.normalizer = tokenizers.normalizers.Lowercase()
    return backend


def words() -> Any:
    vocab = {"[UNK]": 0, "the": 1}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return backend


def sparse() -> Any:
    model = tokenizers.models.WordLevel({"a": 0, "b": 100_000}, unk_token="a")
    return tokenizers.Tokenizer(model)


@pytest.mark.parametrize(
    ("definition", "condition"),
    [
        (lambda: lossy().to_str(), r"\(round trip\): at byte 0 of a text, 'The .* as 'the "),
        (lambda: words().to_str(), r"the vocabulary has no token for it and gives \[UNK\]"),
        (lambda: sparse().to_str(), r"ids up to 100000 \(vocabulary\)"),
        (lambda: "{}", "is not a tokenizer.json"),
        (lambda: json.dumps({"model": {"type": "None"}}), "is not a tokenizer.json"),
    ],
)
def test_the_condition_that_fails_is_named(definition: Any, condition: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(definition(), "utf-8")
    with pytest.raises(UserError, match=condition):
        HuggingFace(str(file)).build(None, tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.path=.* must be an existing tokenizer.json"):
        HuggingFace(str(tmp_path / "none.json")).identity(tmp_path)
