"""The works that a paper of ours can cite."""

from __future__ import annotations

from dataclasses import dataclass

from spectral_exp.core.errors import UserError, nearest


@dataclass(frozen=True)
class Work:
    """One work.

    Attributes:
        kind: BibTeX's: article, inproceedings, book, misc.
        authors: "First Last"; the last may be "others".
        title: as printed on it.
        year: of publication.
        where: journal, proceedings, publisher or archive.
        details: volume and pages.
        url: where it has no other home.
    """

    kind: str
    authors: tuple[str, ...]
    title: str
    year: int
    where: str = ""
    details: str = ""
    url: str = ""

    @property
    def names(self) -> str:
        """The authors in a line."""
        *first, last = self.authors
        if last == "others":
            return ", ".join(first) + " et al."
        return f"{', '.join(first)} and {last}" if first else last

    @property
    def line(self) -> str:
        """The whole entry but its address."""
        venue = ", ".join(part for part in (self.where, self.details, str(self.year)) if part)
        return " ".join(_ended(part) for part in (self.names, self.title, venue))


def _ended(words: str) -> str:
    """Words with a full stop, unless they end with a mark already, as "et al." does."""
    return words if words.endswith((".", "?", "!")) else f"{words}."


WORKS = {
    "vaswani2017": Work(
        "inproceedings",
        (
            "Ashish Vaswani",
            "Noam Shazeer",
            "Niki Parmar",
            "Jakob Uszkoreit",
            "Llion Jones",
            "Aidan N. Gomez",
            "Łukasz Kaiser",
            "Illia Polosukhin",
        ),
        "Attention Is All You Need",
        2017,
        "Advances in Neural Information Processing Systems 30",
    ),
    "radford2019": Work(
        "misc",
        ("Alec Radford", "Jeffrey Wu", "Rewon Child", "David Luan", "Dario Amodei", "Ilya Sutskever"),
        "Language Models are Unsupervised Multitask Learners",
        2019,
        "OpenAI technical report",
    ),
    "xiong2020": Work(
        "inproceedings",
        (
            "Ruibin Xiong",
            "Yunchang Yang",
            "Di He",
            "Kai Zheng",
            "Shuxin Zheng",
            "Chen Xing",
            "Huishuai Zhang",
            "Yanyan Lan",
            "Liwei Wang",
            "Tie-Yan Liu",
        ),
        "On Layer Normalization in the Transformer Architecture",
        2020,
        "International Conference on Machine Learning",
    ),
    "ba2016": Work(
        "misc",
        ("Jimmy Lei Ba", "Jamie Ryan Kiros", "Geoffrey E. Hinton"),
        "Layer Normalization",
        2016,
        "arXiv:1607.06450",
    ),
    "hendrycks2016": Work(
        "misc", ("Dan Hendrycks", "Kevin Gimpel"), "Gaussian Error Linear Units (GELUs)", 2016, "arXiv:1606.08415"
    ),
    "su2021": Work(
        "misc",
        ("Jianlin Su", "Yu Lu", "Shengfeng Pan", "Ahmed Murtadha", "Bo Wen", "Yunfeng Liu"),
        "RoFormer: Enhanced Transformer with Rotary Position Embedding",
        2021,
        "arXiv:2104.09864",
    ),
    "katharopoulos2020": Work(
        "inproceedings",
        ("Angelos Katharopoulos", "Apoorv Vyas", "Nikolaos Pappas", "François Fleuret"),
        "Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention",
        2020,
        "International Conference on Machine Learning",
    ),
    "loshchilov2017": Work(
        "inproceedings",
        ("Ilya Loshchilov", "Frank Hutter"),
        "SGDR: Stochastic Gradient Descent with Warm Restarts",
        2017,
        "International Conference on Learning Representations",
    ),
    "loshchilov2019": Work(
        "inproceedings",
        ("Ilya Loshchilov", "Frank Hutter"),
        "Decoupled Weight Decay Regularization",
        2019,
        "International Conference on Learning Representations",
    ),
    "hu2024": Work(
        "misc",
        ("Shengding Hu", "Yuge Tu", "Xu Han", "others"),
        "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies",
        2024,
        "arXiv:2404.06395",
    ),
    "charikar2002": Work(
        "inproceedings",
        ("Moses Charikar", "Kevin Chen", "Martin Farach-Colton"),
        "Finding Frequent Items in Data Streams",
        2002,
        "International Colloquium on Automata, Languages and Programming",
    ),
    "karpathy2015": Work(
        "misc", ("Andrej Karpathy",), "char-rnn", 2015, "software", url="https://github.com/karpathy/char-rnn"
    ),
    "karpathy2022": Work(
        "misc", ("Andrej Karpathy",), "nanoGPT", 2022, "software", url="https://github.com/karpathy/nanoGPT"
    ),
    "penedo2024": Work(
        "misc",
        ("Guilherme Penedo", "Hynek Kydlíček", "Loubna Ben Allal", "others"),
        "The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale",
        2024,
        "arXiv:2406.17557",
    ),
    "paszke2019": Work(
        "inproceedings",
        ("Adam Paszke", "Sam Gross", "Francisco Massa", "others"),
        "PyTorch: An Imperative Style, High-Performance Deep Learning Library",
        2019,
        "Advances in Neural Information Processing Systems 32",
    ),
    "yadan2019": Work(
        "misc",
        ("Omry Yadan",),
        "Hydra - A framework for elegantly configuring complex applications",
        2019,
        "software",
        url="https://github.com/facebookresearch/hydra",
    ),
    "agarwal2021": Work(
        "inproceedings",
        (
            "Rishabh Agarwal",
            "Max Schwarzer",
            "Pablo Samuel Castro",
            "Aaron Courville",
            "Marc G. Bellemare",
        ),
        "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
        2021,
        "Advances in Neural Information Processing Systems 34",
    ),
    "efron1993": Work(
        "book",
        ("Bradley Efron", "Robert J. Tibshirani"),
        "An Introduction to the Bootstrap",
        1993,
        "Chapman and Hall",
    ),
    "hesterberg2015": Work(
        "article",
        ("Tim C. Hesterberg",),
        "What Teachers Should Know About the Bootstrap: Resampling in the Undergraduate Statistics Curriculum",
        2015,
        "The American Statistician",
        "69(4):371-386",
    ),
    "holm1979": Work(
        "article",
        ("Sture Holm",),
        "A Simple Sequentially Rejective Multiple Test Procedure",
        1979,
        "Scandinavian Journal of Statistics",
        "6(2):65-70",
    ),
    "student1908": Work("article", ("Student",), "The Probable Error of a Mean", 1908, "Biometrika", "6(1):1-25"),
    "welch1947": Work(
        "article",
        ("B. L. Welch",),
        "The Generalization of 'Student's' Problem when Several Different Population Variances are Involved",
        1947,
        "Biometrika",
        "34(1-2):28-35",
    ),
    "mann1947": Work(
        "article",
        ("Henry B. Mann", "Donald R. Whitney"),
        "On a Test of Whether One of Two Random Variables is Stochastically Larger than the Other",
        1947,
        "The Annals of Mathematical Statistics",
        "18(1):50-60",
    ),
}
"""By the key that `[@key]` names."""

_VENUE = {"article": "journal", "inproceedings": "booktitle", "book": "publisher"}


def work(key: str) -> Work:
    """The work of a key. Raises UserError if there is none."""
    if key not in WORKS:
        raise UserError(f"[@{key}] is not in the bibliography{nearest(key, WORKS)}; known: {', '.join(sorted(WORKS))}")
    return WORKS[key]


def bibtex(keys: tuple[str, ...]) -> str:
    """The works as a .bib file, in pure ASCII."""
    entries = []
    for key in keys:
        item = work(key)
        fields = {
            "author": " and ".join("{Student}" if name == "Student" else _tex(name) for name in item.authors),
            "title": "{" + _tex(item.title) + "}",
            _VENUE.get(item.kind, "howpublished"): _tex(item.where),
            "year": str(item.year),
        }
        volume = item.details.partition(":")
        if item.details:
            number = volume[0].partition("(")
            fields |= {"volume": number[0], "number": number[2].rstrip(")"), "pages": volume[2].replace("-", "--")}
        if item.url:
            fields["note"] = "\\url{" + item.url + "}"
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
        entries.append(f"@{item.kind}{{{key},\n{body}\n}}\n")
    return "\n".join(entries)


def _tex(text: str) -> str:
    for letter, command in {"Ł": "{\\L}", "ç": "{\\c{c}}", "í": "{\\'i}", "č": "{\\v{c}}"}.items():
        text = text.replace(letter, command)
    return text.replace("&", "\\&")
