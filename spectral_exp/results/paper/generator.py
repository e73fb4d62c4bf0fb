"""From run directories to a whole paper: read, compare, draw, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spectral_exp.core.errors import SettingError, UserError, nearest, require
from spectral_exp.core.scratch import scratch_folder
from spectral_exp.plots.load import import_matplotlib
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.attribution import Attribution, attribute
from spectral_exp.results.compared import Comparison
from spectral_exp.results.comparison import compare
from spectral_exp.results.document.bibliography import bibtex, work
from spectral_exp.results.document.formulas import to_typst
from spectral_exp.results.document.html import html
from spectral_exp.results.document.latex import latex
from spectral_exp.results.document.markdown import markdown
from spectral_exp.results.document.model import (
    Appendix,
    Block,
    Document,
    Figure,
    Heading,
    Math,
    Paragraph,
    References,
    Source,
    figures_of,
    inlines,
    printable_document,
)
from spectral_exp.results.document.numbering import Entry, number_document, number_entries
from spectral_exp.results.document.prose import prose
from spectral_exp.results.document.trace import Trace, provenance_table, traces
from spectral_exp.results.document.typst import pdf
from spectral_exp.results.evaluated import ALL, evaluation_metrics
from spectral_exp.results.paper import appendix, findings, front, limits
from spectral_exp.results.paper.folder import Folder
from spectral_exp.results.paper.material import ARCHIVED, Choices, Material
from spectral_exp.results.paper.method import method
from spectral_exp.results.paper.notes import Notes, sections
from spectral_exp.results.paper.passages import passage
from spectral_exp.results.paper.provenance import record
from spectral_exp.results.paper.setup import setup
from spectral_exp.runs.run import usual_metric

FORMATS = ("md", "html", "pdf", "tex")
PAPER, REPORT = "paper", "report"
"""Kinds of documents, and names of their files."""


@dataclass(frozen=True)
class Written:
    """The files of a written paper, and the reasons for missing formats."""

    files: tuple[Path, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Paper:
    """A finished document with the source of each of its numbers."""

    material: Material
    document: Document
    entries: tuple[Entry, ...]
    traces: dict[str, Trace]

    def write(
        self, folder: Folder, formats: Sequence[str], name: str = PAPER, *, force: bool = False
    ) -> Written:
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
        """Return the files of one format by name, without the figures.

        Raises:
            UserError: a package that the format needs is not installed.
        """
        if format_ == "md":
            return {f"{name}.md": markdown(self.document).encode()}
        if format_ == "html":
            return {f"{name}.html": html(self.document, self.traces).encode()}
        if format_ == "tex":
            works = bibtex(number_document(self.document).cited)
            return {f"{name}.tex": latex(self.document).encode(), "references.bib": works.encode()}
        return {f"{name}.pdf": pdf(self.document, self.traces)}

    def drawings(self) -> dict[str, bytes]:
        """Return the figures by file name."""
        return {
            figure.file_name(suffix): content
            for figure in figures_of(self.document)
            for suffix, content in figure.files.items()
        }


class PaperGenerator:
    """A paper draft from finished, unfinished and broken runs.

    Every number in it comes from the runs and has a source. The same runs give the same bytes.

    Args:
        folders: run directories, sweeps, or folders that hold such at any depth.
        choices: metric, baseline, selection, title, authors and notes.
        archived: whether to include archived runs; else the limitations name them.
        evaluation: conditions on the evaluations that are compared too, as for
            `evaluation_metrics`; by default all that were recorded.

    Raises:
        UserError: no usable run, an unknown metric or baseline, notes for an unknown place.

    Attributes:
        archived_note: a sentence on the archived runs that are left out, or "".

    Example:
        ```python
        from spectral_exp.results.paper import Choices, PaperGenerator

        paper = PaperGenerator(["outputs"], Choices(baseline="classic",
        where=("status=completed",))) written = paper.write("paper", formats=("md", "html"))
        print(written.files)
        ```
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        choices: Choices | None = None,
        *,
        archived: bool = False,
        evaluation: Sequence[str] = (),
    ) -> None:
        self.choices = choices or Choices()
        sections(self.choices.notes)  # misspelt headings fail before the runs are read
        found = ResultsAggregator(folders)
        chosen = found.select(self.choices.where, archived=archived)
        self.archived_note = chosen.archived_note
        if not chosen.runs:
            condition = (
                f" that meets {', '.join(self.choices.where)}"
                if self.choices.where and found.runs
                else ""
            )
            raise UserError(
                self.archived_note
                or f"there is no run{condition} below {', '.join(map(str, folders))}"
            )
        if not self.choices.metric:
            self.choices = replace(self.choices, metric=usual_metric(chosen.runs))
        # Named, so that a paper still holds when a run is evaluated in another way.
        if evaluation or any(run.evaluations for run in chosen.runs):
            chosen_evaluations = evaluation_metrics(chosen.runs, evaluation or [ALL])
            self.choices = replace(self.choices, evaluations=tuple(chosen_evaluations))
        self.runs = tuple(run.path for run in chosen.runs)
        unusable = tuple((path.name, reason) for path, reason in found.left_out)
        self.left_out = (*unusable, *((run.run_id, ARCHIVED) for run in chosen.archived))

    def paper(self) -> Paper:
        """Return the paper."""
        return build(self.runs, self.choices, self.left_out)

    def write(
        self, output: str | Path, formats: Sequence[str] = FORMATS, *, force: bool = False
    ) -> Written:
        """Write the paper, its figures and `provenance.json` into the folder `output`.

        Everything is made before the first file of the folder changes; each file is replaced as a
        whole. Foreign files stay.

        Args:
            output: the folder; created if it is missing.
            formats: of `FORMATS`; `Written.missing` names those whose package is not installed.
            force: overwrite edited and foreign files of these names.

        Raises:
            UserError: an edited or foreign file would be lost; the folder cannot be written.
        """
        check_formats(formats)
        folder = Folder(Path(output))
        return self.paper().write(folder, formats, force=force)


def check_formats(formats: Sequence[str]) -> None:
    """Refuse formats that are not in `FORMATS`, and no format at all."""
    for format_ in formats or ("",):
        if format_ not in FORMATS:
            raise SettingError(
                "formats", format_, f"among {', '.join(FORMATS)}{nearest(format_, FORMATS)}"
            )


def build(
    runs: Sequence[Path],
    choices: Choices,
    left_out: Sequence[tuple[str, str]] = (),
    *,
    index: bool = True,
) -> Paper:
    """Return the paper of these run directories; without the index every file is read again."""
    found = ResultsAggregator(runs, index=index, marks=False)
    groups = tuple(found.groups(choices.group_by))
    comparison = compare(
        groups, choices.metric, at=choices.at, baseline=choices.baseline, margin=choices.margin
    )
    material = Material(
        choices,
        tuple(found.runs),
        groups,
        comparison,
        tuple(left_out),
        {},
        tuple(compare(groups, one, baseline=comparison.baseline) for one in choices.evaluations),
        _attribution(comparison, choices),
    )
    material = replace(material, figures=_draw(material))
    return assemble(material, _document(material))


def _attribution(comparison: Comparison, choices: Choices) -> Attribution | None:
    """Return the chosen attribution, or that of the group which differs in most, if it is whole.

    Raises:
        UserError: the chosen group is not there, or its difference cannot be attributed.
    """
    if choices.attribute is not None:
        allowed = "without group_by: groups must not mix settings"
        require(not choices.group_by, "attribute", choices.attribute, allowed)
        return attribute(comparison, choices.attribute)
    if choices.group_by:
        return None
    try:
        found = attribute(comparison)
    except UserError:
        return None
    return None if found.grid.missing else found


def assemble(material: Material, document: Document) -> Paper:
    """Number everything and add the appendix with the sources of the numbers.

    Raises:
        UserError: a citation, a reference or a formula of the author's is not valid.
    """
    document = printable_document(document)
    for key in number_document(document).cited:
        work(key)
    for run in inlines(document):
        if isinstance(run, Math):
            to_typst(run.tex)
    document, entries = number_entries(document)
    labels = number_document(document).labels
    drawn = [(labels[figure.key], figure) for figure in figures_of(document)]
    runs = material.numbered_runs
    caption = passage("appendix", "provenance")
    table = provenance_table(entries, drawn, runs, caption)
    closing: tuple[Block, ...] = (Heading("Provenance"), table)
    whole = replace(document, blocks=(*document.blocks, *closing))
    return Paper(material, whole, tuple(entries), traces(entries, runs))


def _draw(material: Material) -> dict[str, list[Figure]]:
    """Return the figures by topic, as files of every kind, without those that have no data."""
    import_matplotlib()
    from spectral_exp.results import figures  # slow: loads matplotlib

    comparison = material.comparison
    ids = tuple(run.run_id for run in material.runs)
    # If a step has equally many tokens in every run, curves over tokens repeat those over steps.
    same_steps = len({run.tokens_per_step for run in material.runs}) == 1
    axes = [axis for axis in figures.AXES if not (same_steps and axis == "tokens")]
    drawn: dict[str, list[Figure]] = {}
    with scratch_folder("figures") as folder:
        plots = figures.comparison_plots(comparison, metrics=[comparison.metric], axes=axes)
        for topic, plot in plots:
            saved = figures.save(plot, folder, ("svg", "pdf", "png"))
            if saved.paths:
                files = {path.suffix[1:]: path.read_bytes() for path in saved.paths}
                source = Source(comparison.metric, ids, comparison.at, saved.caption)
                figure = Figure(f"fig:{saved.name}", (saved.caption,), files, source)
                drawn.setdefault(topic, []).append(figure)
    return drawn


def _document(material: Material) -> Document:
    notes = Notes(material)
    blocks: list[Block] = [
        Heading("Introduction"),
        *(notes.at("introduction") or _left_open("introduction")),
    ]
    blocks += _own_section("Related work", notes.at("related work"))
    blocks += _with(notes.at("method"), method(material))
    blocks += _with(notes.at("set-up"), setup(material))
    blocks += _with(notes.at("results"), findings.results(material))
    blocks += _with(notes.at("ablations"), findings.ablations(material))
    blocks += _with(notes.at("statistics"), limits.methods_of_statistics(material))
    blocks += _with(notes.at("limitations"), limits.limitations(material))
    blocks += [Heading("Discussion"), *(notes.at("discussion") or _left_open("discussion"))]
    blocks += _own_section("Conclusion", notes.at("conclusion"))
    thanks = notes.at("acknowledgements")
    blocks += [Heading("Acknowledgements", named=True), *thanks] if thanks else []
    blocks += [Heading("References", named=True), References(), Appendix()]
    blocks += [*appendix.reproducibility(material), *appendix.run_table(material)]
    own = notes.at("abstract")
    if not all(isinstance(block, Paragraph) for block in own):
        raise UserError("the notes' abstract can hold paragraphs alone")
    abstract = (
        *(block for block in own if isinstance(block, Paragraph)),
        *front.abstract(material),
    )
    return Document(front.title(material), material.choices.authors, abstract, tuple(blocks))


def _with(own: tuple[Block, ...], generated: tuple[Block, ...]) -> tuple[Block, ...]:
    """Return a section with the author's text after its heading."""
    return (generated[0], *own, *generated[1:])


def _own_section(title: str, own: tuple[Block, ...]) -> tuple[Block, ...]:
    return (Heading(title), *own) if own else ()


def _left_open(place: str) -> tuple[Block, ...]:
    text = (
        f"This section is the author's; its text comes from the heading `## {place}` of the notes."
    )
    return (Paragraph(prose(text), aside=True),)
