"""Training text: corpora, tokenizers, tokenized data sets and batches."""

from __future__ import annotations

from spectral_exp.data.batches import Batches as Batches
from spectral_exp.data.batches import EvalWindows as EvalWindows
from spectral_exp.data.bpe import Bpe as Bpe
from spectral_exp.data.bpe import BpeTokenizer as BpeTokenizer
from spectral_exp.data.bpe import Gpt2 as Gpt2
from spectral_exp.data.corpus import Corpus as Corpus
from spectral_exp.data.corpus import PythonStdlib as PythonStdlib
from spectral_exp.data.corpus import Shakespeare as Shakespeare
from spectral_exp.data.corpus import TextCorpus as TextCorpus
from spectral_exp.data.corpus import TextFile as TextFile
from spectral_exp.data.dataset import Dataset as Dataset
from spectral_exp.data.dataset import prepare as prepare
from spectral_exp.data.fineweb import FineWebEdu as FineWebEdu
from spectral_exp.data.huggingface import HuggingFace as HuggingFace
from spectral_exp.data.huggingface import HuggingFaceTokenizer as HuggingFaceTokenizer
from spectral_exp.data.known_text import KnownText as KnownText
from spectral_exp.data.markov import Markov as Markov
from spectral_exp.data.tokenizer import Byte as Byte
from spectral_exp.data.tokenizer import ByteTokenizer as ByteTokenizer
from spectral_exp.data.tokenizer import Char as Char
from spectral_exp.data.tokenizer import CharTokenizer as CharTokenizer
from spectral_exp.data.tokenizer import load_tokenizer as load_tokenizer
from spectral_exp.data.tokenizer_base import Tokenizer as Tokenizer
from spectral_exp.data.tokenizer_base import TokenizerSpec as TokenizerSpec
