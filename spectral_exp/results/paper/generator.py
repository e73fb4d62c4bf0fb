"""From run directories to a whole paper: read, compare, draw, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spectral_exp.core.errors import SettingError, UserError, nearest
from spectral_exp.core.scratch import scratch_folder
from spectral_exp.plots.load import import_matplotlib
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.comparison import compare
from spectral_exp.results.document import trace
from spectral_exp.results.document.bibliography import bibtex, work
from spectral_exp.results.document.formulas import to_typst
from spectral_exp.results.document.html import html
from spectral_exp.results.document.latex import latex
from spectral_exp.results.document.markdown import markdown
from spectral_exp.results.document.model import (
    Appendix,
    Block,
    Document,
    Entry,
    Figure,
    Heading,
    Math,
    Paragraph,
    References,
    Source,
    figures_of,
    inlines,
    numbered,
    numbering,
    printable_document,
)
from spectral_exp.results.document.prose import prose
from spectral_exp.results.document.trace import Trace, traces
from spectral_exp.results.document.typst import pdf
from spectral_exp.results.paper import appendix, findings, front, limits
from spectral_exp.results.paper.folder import Folder
from spectral_exp.results.paper.material import Choices, Material
from spectral_exp.results.paper.method import method
from spectral_exp.results.paper.notes import Notes, sections
from spectral_exp.results.paper.provenance import record
from spectral_exp.results.paper.setup import setup

FORMATS = ("md", "html", "pdf", "tex")
PAPER, REPORT = "paper", "report"
"""What a document is, and what its files are called."""


@dataclass(frozen=True)
class Written:
    """What came of writing a paper: the files, and why a format is missing."""

    files: tuple[Path, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Paper:
    """A finished document with the source of each of its numbers."""

    material: Material
    document: Document
    entries: tuple[Entry, ...]
    traces: dict[str, Trace]

    def write(self, folder: Folder, formats: Sequence[str], name: str = PAPER, *, force: bool = False) -> Written:
        """Render the document and put everything in `folder`; see `PaperGenerator.write`."""
        files, made, missing = dict(self.drawings()), [], []
        for format_ in formats:
            try:
                files |= self.render(format_, name)
                made.append(format_)
            except UserError as error:
                missing.append(str(error))
        content = record(self, folder.path, files, made, name)
        return Written(tuple(folder.write(files, content, force=force)), tuple(missing))

    def render(self, format_: str, name: str = PAPER) -> dict[str, bytes]:
        """The files of one format by name, figures apart.

        Raises:
            UserError: a package that the format needs is not installed.
        """
        if format_ == "md":
            return {f"{name}.md": markdown(self.document).encode()}
        if format_ == "html":
            return {f"{name}.html": html(self.document, self.traces).encode()}
        if format_ == "tex":
            works = bibtex(numbering(self.document).cited)
            return {f"{name}.tex": latex(self.document).encode(), "references.bib": works.encode()}
        return {f"{name}.pdf": pdf(self.document, self.traces)}

    def drawings(self) -> dict[str, bytes]:
        """The figures by file name."""
        return {
            figure.name(suffix): content
            for figure in figures_of(self.document)
            for suffix, content in figure.files.items()
        }


class PaperGenerator:
    """A paper draft from finished, unfinished and broken runs.

    Every number in it comes from the runs and says which. The same runs give the same bytes.

    Args:
        folders: run directories, sweeps, or folders that hold such at any depth.
        choices: metric, baseline, selection, title, authors and notes.

    Raises:
        UserError: no usable run, an unknown metric or baseline, notes for a place that is not there.

    Example:
        ```python
        from spectral_exp.results.paper import Choices, PaperGenerator

        paper = PaperGenerator(["outputs"], Choices(baseline="classic", where=("status=completed",)))
        written = paper.write("paper", formats=("md", "html"))
        print(written.files)
        ```
    """

    def __init__(self, folders: Sequence[str | Path], choices: Choices | None = None) -> None:
        self.choices = choices or Choices()
        sections(self.choices.notes)  # a misspelt heading is told before anything is read
        found = ResultsAggregator(folders)
        runs = found.where(self.choices.where).runs if self.choices.where else found.runs
        if not runs:
            condition = f" that meets {', '.join(self.choices.where)}" if self.choices.where and found.runs else ""
            raise UserError(f"there is no run{condition} below {', '.join(str(folder) for folder in folders)}")
        self.runs = tuple(run.path for run in runs)
        self.left_out = tuple((path.name, reason) for path, reason in found.left_out)

    def paper(self) -> Paper:
        """The document."""
        return build(self.runs, self.choices, self.left_out)

    def write(self, output: str | Path, formats: Sequence[str] = FORMATS, *, force: bool = False) -> Written:
        """Write the paper, its figures and `provenance.json` into the folder `output`.

        All is made before the first file of the folder is touched; each file is then replaced as a whole. Files that
        are not the generator's stay.

        Args:
            output: made if it is not there.
            formats: of `FORMATS`. One whose package is missing is left out, and `Written.missing` says so.
            force: overwrite files that were edited since they were written, and files of these names that are not ours.

        Raises:
            UserError: a file would be lost that is not ours or was edited; the folder cannot be written.
        """
        check_formats(formats)
        folder = Folder(Path(output))
        return self.paper().write(folder, formats, force=force)


def check_formats(formats: Sequence[str]) -> None:
    """Refuse formats that are not in `FORMATS`, and no format at all."""
    for format_ in formats or ("",):
        if format_ not in FORMATS:
            raise SettingError("formats", format_, f"among {', '.join(FORMATS)}{nearest(format_, FORMATS)}")


def build(
    runs: Sequence[Path], choices: Choices, left_out: Sequence[tuple[str, str]] = (), *, index: bool = True
) -> Paper:
    """The paper of exactly these run directories; without the index every file is read anew."""
    found = ResultsAggregator(runs, index=index)
    groups = tuple(found.groups(choices.group_by))
    comparison = compare(groups, choices.metric, at=choices.at, baseline=choices.baseline)
    material = Material(choices, tuple(found.runs), groups, comparison, tuple(left_out), ())
    material = replace(material, figures=_draw(material))
    return assemble(material, _document(material))


def assemble(material: Material, document: Document) -> Paper:
    """Number everything and add the appendix that says where the numbers come from.

    Raises:
        UserError: a citation, a reference or a formula of the author's that cannot be understood.
    """
    document = printable_document(document)
    for key in numbering(document).cited:
        work(key)
    for run in inlines(document):
        if isinstance(run, Math):
            to_typst(run.tex)
    document, entries = numbered(document)
    labels = numbering(document).labels
    drawn = [(labels[figure.key], figure) for figure in figures_of(document)]
    runs = material.numbered_runs
    closing: tuple[Block, ...] = (Heading("Provenance"), trace.table(entries, drawn, runs))
    whole = replace(document, blocks=(*document.blocks, *closing))
    return Paper(material, whole, tuple(entries), traces(entries, runs))


def _draw(material: Material) -> tuple[Figure, ...]:
    """The comparison's figures that a paper needs, as files of every kind."""
    import_matplotlib()
    from spectral_exp.results import figures
    from spectral_exp.results.figures import picture  # matplotlib, for which neither --help nor a mistake should wait

    comparison = material.comparison
    ids = tuple(run.run_id for run in material.runs)
    # Over tokens the curves look as over steps where a step takes as many tokens in every run.
    same_steps = len({run.tokens_per_step for run in material.runs}) == 1
    drawn = []
    with scratch_folder("figures") as folder:
        for one in figures.comparison_pictures(comparison):
            if same_steps and one.name.endswith("_by_tokens"):
                continue
            if one.name.startswith("curves_") and not one.name.startswith(f"curves_{comparison.metric}_"):
                continue
            saved = picture.save(one, folder, ("svg", "pdf", "png"))
            if not saved.paths:  # nothing to draw; its caption says why
                continue
            files = {path.suffix[1:]: path.read_bytes() for path in saved.paths}
            source = Source(comparison.metric, ids, comparison.at, saved.caption)
            drawn.append(Figure(f"fig:{saved.name}", (saved.caption,), files, source))
    return tuple(drawn)


def _document(material: Material) -> Document:
    notes = Notes(material)
    blocks: list[Block] = [Heading("Introduction"), *(notes.at("introduction") or _left_open("introduction"))]
    blocks += _own("Related work", notes.at("related work"))
    blocks += _with(notes.at("method"), method(material))
    blocks += _with(notes.at("set-up"), setup(material))
    blocks += _with(notes.at("results"), findings.results(material))
    blocks += _with(notes.at("ablations"), findings.ablations(material))
    blocks += _with(notes.at("statistics"), limits.methods_of_statistics(material))
    blocks += _with(notes.at("limitations"), limits.limitations(material))
    blocks += [Heading("Discussion"), *(notes.at("discussion") or _left_open("discussion"))]
    blocks += _own("Conclusion", notes.at("conclusion"))
    thanks = notes.at("acknowledgements")
    blocks += [Heading("Acknowledgements", named=True), *thanks] if thanks else []
    blocks += [Heading("References", named=True), References(), Appendix()]
    blocks += [*appendix.reproducibility(material), *appendix.run_table(material)]
    own = notes.at("abstract")
    if not all(isinstance(block, Paragraph) for block in own):
        raise UserError("the notes' abstract can hold paragraphs alone")
    abstract = (*(block for block in own if isinstance(block, Paragraph)), *front.abstract(material))
    return Document(front.title(material), material.choices.authors, abstract, tuple(blocks))


def _with(own: tuple[Block, ...], generated: tuple[Block, ...]) -> tuple[Block, ...]:
    """A section with the author's text after its heading."""
    return (generated[0], *own, *generated[1:])


def _own(title: str, own: tuple[Block, ...]) -> tuple[Block, ...]:
    return (Heading(title), *own) if own else ()


def _left_open(place: str) -> tuple[Block, ...]:
    text = f"This section is the author's; its text comes from the heading `## {place}` of the notes."
    return (Paragraph(prose(text), aside=True),)
