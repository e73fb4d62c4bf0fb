"""An archive with the records of runs, to be published beside a paper.

From the folder that is extracted, `compare`, `report`, `paper` and the dashboard give the numbers
of the original runs. The same runs always make the same bytes.
"""

from __future__ import annotations

import errno
import io
import json
import lzma
import math
import os
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from spectral_exp.core.errors import UserError
from spectral_exp.core.json_files import json_bytes
from spectral_exp.core.json_text import MAX_BYTES, parse_object
from spectral_exp.core.regular_file import open_run_file, refuse_link
from spectral_exp.core.timestamps import seconds_since_epoch
from spectral_exp.core.wording import format_count
from spectral_exp.runs.find import LeftOut, find_runs
from spectral_exp.runs.index import facts_of
from spectral_exp.runs.layout import (
    CONFIG_NAME,
    EVALUATIONS_NAME,
    LOGS_FOLDER,
    METRICS_NAME,
    METRICS_SUMMARY_NAME,
    NOTES_NAME,
    RESULTS_NAME,
    SWEEP_NAME,
    RunPaths,
)
from spectral_exp.runs.load import Facts
from spectral_exp.runs.lock import is_running
from spectral_exp.runs.marks import NO_MARKS, read_marks
from spectral_exp.runs.metric_lines import (
    MAX_LINE_BYTES,
    RESERVED,
    LineSplitter,
    metric_number,
    parse_entry,
)
from spectral_exp.runs.metrics_summary import MetricFileSummary, summarize_metrics
from spectral_exp.runs.published import Publication
from spectral_exp.runs.training_record import recorded_patch_crc32

SUFFIX = ".tar.xz"

_BLOCK = 1 << 18
_IN_MEMORY = 8 << 20
_UNREADABLE = b"unreadable"  # for a line that readers report as such


@dataclass
class Packed:
    """What an archive holds.

    Attributes:
        n_runs: number of runs.
        n_files: number of files.
        removed: kind -> number of what was removed from the records.
        left_out: path and reason of each folder and file that is not in the archive.
        remaining: sentences on what may still name a machine or a person.
    """

    n_runs: int = 0
    n_files: int = 0
    removed: Mapping[str, int] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Source:
    """A run, and its folder in the archive."""

    path: Path
    name: PurePosixPath
    facts: Facts


def pack_runs(
    folders: Sequence[Path], file: BinaryIO, *, with_metrics: bool = True, running: bool = False
) -> Packed:
    """Write the archive of the runs in and below some folders.

    Args:
        folders: whose names are those of the folders in the archive.
        file: takes the archive.
        with_metrics: whether the archive holds every logged value, or only a summary of each
            metric.
        running: whether runs in progress are packed as far as they are.

    Raises:
        UserError: a folder does not exist, holds no run that can be packed, or a run is in
            progress.
    """
    packed = Packed()
    sources = _find(folders, packed, running=running)
    publication = Publication(_records(source.path) for source in sources)
    with (
        lzma.open(file, "wb", preset=9 | lzma.PRESET_EXTREME) as compressed,
        _Archive(compressed, packed, publication) as archive,
    ):
        for sweep, name in _sweeps(sources).items():
            if content := _read_object(sweep / SWEEP_NAME, packed.left_out):
                archive.add_json(name / SWEEP_NAME, publication.sweep(content))
        for source in sources:
            _add_run(archive, source, publication, with_metrics=with_metrics)
    packed.n_runs = len(sources)
    packed.removed = +publication.anonymizer.removed
    packed.remaining = archive.remaining()
    return packed


def _find(folders: Sequence[Path], packed: Packed, *, running: bool) -> list[_Source]:
    """Return the runs to pack, sorted by their names in the archive."""
    found = find_runs(folders)
    packed.left_out += found.left_out
    names = _names(folders)
    sources = []
    for path, facts in zip(found.runs, facts_of(found.runs, None), strict=True):
        if "unusable" in facts:
            packed.left_out.append((path, str(facts["unusable"])))
            continue
        if not running and is_running(path):
            raise UserError(
                f"{path} is in progress; wait for its end, or add --running to pack what it has "
                "recorded so far"
            )
        folder = next(one for one in names if path.is_relative_to(one))
        sources.append(
            _Source(path, PurePosixPath(names[folder], path.relative_to(folder).as_posix()), facts)
        )
    if not sources:
        places = ", ".join(map(str, folders))
        reasons = "".join(f"\n  {path}: {reason}" for path, reason in packed.left_out)
        raise UserError(
            f"there is no run to pack below {places}" + (f"; left out:{reasons}" * bool(reasons))
        )
    return sorted(sources, key=lambda source: source.name)


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """Return the name in the archive of each folder, outer folders first."""
    names: dict[Path, str] = {}
    for folder in sorted(set(folders), key=lambda folder: (len(folder.parts), folder)):
        own = Path(os.path.abspath(folder)).name or "runs"  # noqa: PTH100 - keeps names of links
        name, number = own, 2
        while name in names.values():
            name, number = f"{own}_{number}", number + 1
        names[folder] = name
    return names


def _sweeps(sources: Sequence[_Source]) -> dict[Path, PurePosixPath]:
    """Return the folders around the runs that hold the record of a sweep, with their names."""
    found = {}
    for source in sources:
        above = zip(source.path.parents, source.name.parents, strict=False)
        for folder, name in above:
            if name.parts and os.path.lexists(folder / SWEEP_NAME):
                found[folder] = name
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


def _records(run: Path) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """Return the records of a run; what cannot be read is reported when it is packed."""
    paths, unused = RunPaths(run), list[LeftOut]()
    return (
        _read_object(paths.config_file, unused) or {},
        _read_object(paths.results_file, unused) or {},
        [_parse(line) for line in _lines(_read(paths.evaluations_file, unused))],
    )


# --- files of a run -------------------------------------------------------------------------------


def _add_run(
    archive: _Archive, source: _Source, publication: Publication, *, with_metrics: bool
) -> None:
    """Add the records of a run; those that cannot be read are left out."""
    paths, left_out = RunPaths(source.path), archive.packed.left_out
    with_metrics &= paths.metrics_file.exists() or not paths.metrics_summary_file.exists()
    if config := _read_object(paths.config_file, left_out):
        patch = recorded_patch_crc32(paths, source.facts["record"].get("git") or {})
        content = publication.config(config, patch, with_metrics=with_metrics)
        archive.add_json(source.name / CONFIG_NAME, content)
    if results := _read_object(paths.results_file, left_out):
        archive.add_json(source.name / RESULTS_NAME, publication.results(results))
    if evaluations := _lines(_read(paths.evaluations_file, left_out)):
        lines = [_evaluation_line(_parse(line), publication) for line in evaluations]
        archive.add(source.name / EVALUATIONS_NAME, b"".join(lines))
    marks, _ = read_marks(source.path)
    if marks != NO_MARKS:
        archive.add_json(source.name / NOTES_NAME, publication.marks(marks))
    logs = source.name / LOGS_FOLDER
    if with_metrics:
        _add_metrics(archive, paths, logs / METRICS_NAME)
    else:
        summary = _summary(paths, left_out)
        if summary != MetricFileSummary():
            archive.add_json(logs / METRICS_SUMMARY_NAME, summary.content())


def _summary(paths: RunPaths, left_out: list[LeftOut]) -> MetricFileSummary:
    try:
        _refuse_links(paths.metrics_summary_file)
        _refuse_links(paths.metrics_file)
        return summarize_metrics(paths, [])
    except OSError as error:
        left_out.append((paths.metrics_file, f"cannot be read: {error.strerror}"))
        return MetricFileSummary()


def _add_metrics(archive: _Archive, paths: RunPaths, name: PurePosixPath) -> None:
    """Add a metrics file with its numbers; lines that are no entries stay so."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as lines:
        try:
            with os.fdopen(_open(paths.metrics_file), "rb") as file:
                _copy_numbers(file, lines)
        except FileNotFoundError:
            return
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
            archive.packed.left_out.append((paths.metrics_file, reason))
            return
        size = lines.tell()
        lines.seek(0)
        archive.add_file(name, lines, size)


def _copy_numbers(file: BinaryIO, copy: IO[bytes]) -> None:
    """Copy a metrics file up to its present size, without entries that are no metrics."""
    rest, splitter = os.fstat(file.fileno()).st_size, LineSplitter()
    while rest > 0 and (block := file.read(min(rest, _BLOCK))):
        rest -= len(block)
        copy.writelines(_numbers_line(line) + b"\n" for line in splitter.split(block))
    if splitter.rest:
        copy.write(_numbers_line(splitter.rest))


def _numbers_line(line: bytes) -> bytes:
    """Return a line with its step, its time and its numbers."""
    if not line or line.isspace():
        return b""
    entry = None if len(line) > MAX_LINE_BYTES else parse_entry(line)
    if entry is None:
        return _UNREADABLE
    kept = {
        key: value
        for key, value in entry.items()
        if metric_number(value) is not None or (key in RESERVED and _is_time(key, value))
    }
    return json.dumps(kept).encode()


def _is_time(key: str, value: Any) -> bool:
    return key == "timestamp" and not math.isnan(seconds_since_epoch(value))


def _evaluation_line(entry: Any, publication: Publication) -> bytes:
    made = publication.evaluation(entry) if isinstance(entry, Mapping) else None
    return _UNREADABLE + b"\n" if made is None else json.dumps(made).encode() + b"\n"


def _lines(content: bytes | None) -> list[bytes]:
    return [line for line in (content or b"").split(b"\n") if line]


def _parse(line: bytes) -> Any:
    """Return the JSON in a line, or None."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _read_object(file: Path, left_out: list[LeftOut]) -> dict[str, Any] | None:
    """Return the JSON object in a file of a run; None, and add the reason, if there is none."""
    content = _read(file, left_out)
    try:
        return None if content is None else parse_object(content)
    except ValueError as error:
        left_out.append((file, str(error)))
        return None


def _read(file: Path, left_out: list[LeftOut]) -> bytes | None:
    """Return the content of a file of a run; None, and add the reason, if it cannot be read."""
    try:
        with os.fdopen(_open(file), "rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise OSError(errno.EFBIG, f"it holds more than {MAX_BYTES:,} bytes", str(file))
    except FileNotFoundError:
        return None
    except OSError as error:
        left_out.append((file, f"cannot be read: {error.strerror}"))
        return None
    return content


def _open(file: Path) -> int:
    """Open a file of a run; neither it nor its folder inside the run may be a link."""
    _refuse_links(file)
    return open_run_file(file, os.O_RDONLY)


def _refuse_links(file: Path) -> None:
    if file.parent.name == LOGS_FOLDER:
        refuse_link(file.parent)
    refuse_link(file)


# --- the archive ----------------------------------------------------------------------------------


class _Archive:
    """Writes an archive whose bytes depend on names and contents only."""

    def __init__(self, file: IO[bytes], packed: Packed, publication: Publication) -> None:
        self.packed = packed
        self._anonymizer = publication.anonymizer
        self._remaining: dict[str, list[PurePosixPath]] = {}
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *error: Any) -> None:
        self._tar.__exit__(*error)

    def add_json(self, name: PurePosixPath, content: Mapping[str, Any]) -> None:
        """Add a JSON file."""
        self.add(name, json_bytes(content))

    def add(self, name: PurePosixPath, content: bytes) -> None:
        """Add a file, and note what may still name a machine or a person in it."""
        for word in self._anonymizer.remaining(content.decode(errors="replace")):
            self._remaining.setdefault(word, []).append(name)
        self.add_file(name, io.BytesIO(content), len(content))

    def add_file(self, name: PurePosixPath, content: IO[bytes], size: int) -> None:
        """Add a file of a size that is known."""
        member = tarfile.TarInfo(str(name))
        member.size, member.mode = size, 0o644
        self._tar.addfile(member, content)
        self.packed.n_files += 1

    def remaining(self) -> list[str]:
        """Return sentences on what may still name a machine or a person."""
        return [
            f"{word} may name a machine or a person; it stands in "
            f"{format_count(len(names), 'file')}, such as {names[0]}"
            for word, names in sorted(self._remaining.items())
        ]
