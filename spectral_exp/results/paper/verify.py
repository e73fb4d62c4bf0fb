"""Verification of a paper: everything is computed again from the runs and compared."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError, explain_os_error
from spectral_exp.core.json_value import jsonable
from spectral_exp.core.regular_file import read_regular
from spectral_exp.core.wording import format_count, noun
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.document.model import Inline, Number, map_document
from spectral_exp.results.paper.folder import own_files
from spectral_exp.results.paper.generator import REPORT, Paper, build
from spectral_exp.results.paper.material import Choices
from spectral_exp.results.paper.provenance import (
    Provenance,
    RecordedChoices,
    RecordedNumber,
    digest,
    made_by,
    numbers,
    read_provenance,
    run_files,
)
from spectral_exp.results.paper.report import run_report
from spectral_exp.runs.layout import CONFIG_NAME, PROVENANCE_NAME

_SHOWN = 12
_MAX_NOTES_BYTES = 16 << 20
_TEXT = (".md", ".html", ".tex", ".bib")
_DIGITS = re.compile("[+\u2212-]?\\d[\\d\u202f]*(?:\\.\\d+)?(?:e[+-]?\\d+)?")
_MARK = re.compile("\ue000(n\\d+)\ue001([^\ue002]*)\ue002")


@dataclass
class Verdict:
    """The result of a verification.

    Attributes:
        wrong: errors of the paper.
        unknown: comparisons that were not possible.
        remarks: harmless differences.
        checked: how many numbers were computed again.
    """

    wrong: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    checked: int = 0

    @property
    def exit_code(self) -> int:
        """1 if something is wrong, 2 if a comparison was not possible, else 0."""
        return 1 if self.wrong else 2 if self.unknown else 0


def verify(paper: Path, runs: Sequence[Path] = ()) -> Verdict:
    """Compute every number of the paper in folder `paper` again, and compare its files.

    Args:
        paper: a folder with a `provenance.json`.
        runs: folders to search for runs that have moved relative to the paper.

    Raises:
        UserError: there is no record, or it is not valid.
    """
    recorded = _read(paper)
    verdict = Verdict()
    found = _locate(paper, recorded, runs, verdict)
    if verdict.wrong:
        _name_numbers(recorded, found, verdict)
        return verdict
    _compare_runs(recorded, found, verdict)
    left_out = [(item[0], item[1]) for item in recorded["left_out"] if len(item) == 2]
    try:
        fresh = (
            run_report(
                next(iter(found.values())),
                index=False,
                evaluations=recorded["choices"].get("evaluations", []),
            )
            if recorded["name"] == REPORT
            else build(list(found.values()), _choices(recorded["choices"]), left_out, index=False)
        )
    except UserError as error:
        verdict.wrong.append(f"the paper cannot be made again: {error}")
        return verdict
    _compare_numbers(recorded["numbers"], jsonable(numbers(fresh)), verdict)
    versions = made_by()
    changed = [
        name for name, version in versions.items() if recorded["made_by"].get(name) != version
    ]
    if changed:
        verdict.remarks.append(
            f"the paper was made with other versions ({', '.join(changed)}): files that are as they"
            " were written are not compared with new ones"
        )
    notes = recorded["choices"].get("notes_file")
    if (
        notes
        and (paper / notes).is_file()
        and _text(paper / notes) != recorded["choices"].get("notes")
    ):
        verdict.remarks.append(
            f"the notes in {paper / notes} were changed since: write the paper anew to take them in"
        )
    _compare_files(paper, recorded, fresh, bool(changed), verdict)
    return verdict


def _read(paper: Path) -> Provenance:
    path = paper / PROVENANCE_NAME
    if not path.is_file():
        raise UserError(
            f"{paper} holds no {PROVENANCE_NAME}: it is not a paper made by this command"
        )
    return read_provenance(path)


def _choices(recorded: RecordedChoices) -> Choices:
    known = {field.name for field in fields(Choices)}
    lists = {
        name: tuple(value) if isinstance(value, list) else value for name, value in recorded.items()
    }
    chosen: dict[str, Any] = {name: value for name, value in lists.items() if name in known}
    return Choices(**chosen)


def _text(file: Path) -> str:
    with explain_os_error(f"read the notes {file}"):
        return read_regular(file, _MAX_NOTES_BYTES).decode("utf-8", errors="replace")


# --- runs ---------------------------------------------------------------------------------


def _locate(
    paper: Path, recorded: Provenance, folders: Sequence[Path], verdict: Verdict
) -> dict[int, Path]:
    """Return the present path of each run by its number; add missing runs to `verdict`."""
    elsewhere: dict[tuple[str, str], Path] = {}
    if folders:
        for there in ResultsAggregator(folders).runs:
            elsewhere[there.path.name, there.config_hash] = there.path
    found = {}
    for run in recorded["runs"]:
        path = paper / run["path"]
        if not (path / CONFIG_NAME).is_file():
            path = elsewhere.get((Path(run["path"]).name, run["config_hash"]), path)
        if (path / CONFIG_NAME).is_file():
            found[run["number"]] = path
        else:
            hint = "" if folders else "; if it was moved, name its folder with --runs"
            verdict.wrong.append(f"run {run['run_id']} has vanished: nothing is at {path}{hint}")
    return found


def _name_numbers(recorded: Provenance, found: Mapping[int, Path], verdict: Verdict) -> None:
    """Add to `verdict` the first number that depends on each missing run."""
    for run in recorded["runs"]:
        if run["number"] not in found:
            resting = [number for number in recorded["numbers"] if run["number"] in number["runs"]]
            if resting:
                first = next((number for number in resting if number["at"]), resting[0])
                verdict.wrong.append(
                    f"{format_count(len(resting), 'number')} {noun(len(resting), 'rests', 'rest')}"
                    f" on {run['run_id']}, for example {first['shown']} ({first['where']})"
                )


def _compare_runs(recorded: Provenance, found: Mapping[int, Path], verdict: Verdict) -> None:
    for run in recorded["runs"]:
        now = run_files(found[run["number"]])
        names = [
            name for name in {**run["files"], **now} if run["files"].get(name) != now.get(name)
        ]
        if names:
            verdict.wrong.append(
                f"run {run['run_id']} has changed since: {', '.join(sorted(names))}"
            )


def _compare_numbers(
    old: Sequence[RecordedNumber], new: Sequence[Mapping[str, Any]], verdict: Verdict
) -> None:
    verdict.checked = len(new)
    differing = [
        f"{a['where']}: {a['shown']} on record, {b['shown']} from the runs"
        + (f" (exactly {a['value']!r} and {b['value']!r})" if a["shown"] == b["shown"] else "")
        for a, b in zip(old, new, strict=False)
        if (a["where"], a["shown"], a["value"]) != (b["where"], b["shown"], b["value"])
    ]
    verdict.wrong += _shorten(differing)
    if len(old) != len(new):
        verdict.wrong.append(
            f"the paper has {format_count(len(old), 'number')}; made again it would have {len(new)}"
        )


def _shorten(items: list[str]) -> list[str]:
    more = len(items) - _SHOWN
    return [*items[:_SHOWN], f"... and {more} more"] if more > 0 else items


# --- files --------------------------------------------------------------------------------


def _compare_files(
    paper: Path, recorded: Provenance, fresh: Paper, other_code: bool, verdict: Verdict
) -> None:
    expected, unavailable = dict(fresh.drawings()), []
    for format_ in recorded["formats"]:
        try:
            expected |= fresh.render(format_, recorded["name"])
        except UserError as error:
            unavailable.append(str(error))
    for name, written in own_files(recorded["files"]).items():
        path = paper / name
        if not path.is_file():
            verdict.remarks.append(f"{name} is no longer there")
            continue
        content = path.read_bytes()
        if content == expected.get(name):
            continue
        untouched = digest(content) == written
        if name not in expected:
            (verdict.remarks if untouched else verdict.unknown).append(
                f"{name} cannot be made again to compare"
                + (f" ({'; '.join(unavailable)})" if unavailable else "")
                + (
                    "; it is as it was written"
                    if untouched
                    else ", and was changed since it was written"
                )
            )
        elif untouched and (other_code or verdict.wrong):
            # Unchanged; the verdict already holds the changed runs or versions.
            continue
        elif other_code and not untouched:
            verdict.unknown.append(
                f"{name} was edited, and was written by other code: write the paper anew to compare"
            )
        elif path.suffix in _TEXT:
            _compare_text(name, content, expected[name], fresh, verdict)
        else:
            verdict.wrong.append(f"{name} is not what the runs give: it was replaced or edited")


def _compare_text(
    name: str, content: bytes, expected: bytes, fresh: Paper, verdict: Verdict
) -> None:
    """Compare a text file: edits of a number are wrong, others are remarks."""
    is_lines = _lines(content)
    be_lines = _lines(expected)
    marked = (
        _lines(_mark_numbers(fresh, name)) if name.endswith((".md", ".html", ".tex")) else be_lines
    )
    where = {number_id: entry.where for entry in fresh.entries for number_id in [entry.number.id]}
    wrong, prose = [], 0
    for tag, a, b, c, d in difflib.SequenceMatcher(
        None, be_lines, is_lines, autojunk=False
    ).get_opcodes():
        if tag == "equal":
            continue
        old, new = "\n".join(be_lines[a:b]), "\n".join(is_lines[c:d])
        lost, added = _compare_items(_DIGITS.findall(old), _DIGITS.findall(new))
        if not lost and not added:
            prose += 1
            continue
        named = (
            _place_of("\n".join(marked[a:b]), lost, where) if len(marked) == len(be_lines) else ""
        )
        wrong.append(
            f"{name}, line {c + 1}: {named or 'a number'}"
            + (f" should be {', '.join(lost)}" if lost else " stands there that no run gave")
            + (f"; found {', '.join(added)}" if added else "; it is gone")
        )
    verdict.wrong += _shorten(wrong)
    if prose:
        verdict.remarks.append(
            f"{name} was edited in {format_count(prose, 'place')}, no number among them; the next "
            "paper overwrites it: keep text in --notes"
        )


def _lines(content: bytes) -> list[str]:
    """Return lines with digests for drawings, which are compared as files of their own."""
    text = content.decode(errors="replace")
    text = re.sub(
        r"<svg\b.*?</svg>",
        lambda match: f"<svg {digest(match[0].encode())}>",
        text,
        flags=re.DOTALL,
    )
    text = re.sub(r'src="data:[^"]*"', lambda match: f"src={digest(match[0].encode())}", text)
    return text.splitlines()


def _mark_numbers(fresh: Paper, name: str) -> bytes:
    """Return the same file with the id of every number around it, on the same lines."""

    def mark(run: Inline) -> Inline:
        if not isinstance(run, Number):
            return run
        return replace(run, shown=f"\ue000{run.id}\ue001{run.shown}\ue002")

    document = map_document(fresh.document, mark)
    files = replace(fresh, document=document).render(Path(name).suffix[1:], Path(name).stem)
    return files[name]


def _compare_items(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    """Return the items of `old` that `new` lacks, and the items that only `new` has."""
    lost, added = [], list(new)
    for item in old:
        if item in added:
            added.remove(item)
        else:
            lost.append(item)
    return lost, added


def _place_of(marked: str, lost: Sequence[str], where: Mapping[str, str]) -> str:
    """Return the place in the paper of the first lost number."""
    for number_id, shown in _MARK.findall(marked):
        if any(item in _DIGITS.findall(shown) for item in lost):
            return f"{where[number_id]}:"
    return ""
