"""Training text: corpora, tokenizers, tokenized data sets and batches."""

from __future__ import annotations

from spectral_exp.data.batches import Batches, EvalWindows
from spectral_exp.data.bpe import Bpe, BpeTokenizer, Gpt2
from spectral_exp.data.corpus import Corpus, PythonStdlib, Shakespeare, TextCorpus, TextFile
from spectral_exp.data.dataset import Dataset, prepare
from spectral_exp.data.fineweb import FineWebEdu
from spectral_exp.data.known_text import KnownText
from spectral_exp.data.markov import Markov
from spectral_exp.data.tokenizer import Byte, ByteTokenizer, Char, CharTokenizer, load_tokenizer
from spectral_exp.data.tokenizer_base import Tokenizer, TokenizerSpec

__all__ = [
    "Batches",
    "Bpe",
    "BpeTokenizer",
    "Byte",
    "ByteTokenizer",
    "Char",
    "CharTokenizer",
    "Corpus",
    "Dataset",
    "EvalWindows",
    "FineWebEdu",
    "Gpt2",
    "KnownText",
    "Markov",
    "PythonStdlib",
    "Shakespeare",
    "TextCorpus",
    "TextFile",
    "Tokenizer",
    "TokenizerSpec",
    "load_tokenizer",
    "prepare",
]
