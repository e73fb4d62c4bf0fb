"""Find the user's packages and configuration files of a run, or restore them from its record."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectral_exp.config import trust
from spectral_exp.config.packages import resolve_recorded
from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.git import code_directory
from spectral_exp.core.regular_file import read_regular
from spectral_exp.core.scratch import scratch_folder
from spectral_exp.monitoring.tracking.own_code import MAX_TOTAL_BYTES, content_sha256
from spectral_exp.runs.layout import OWN_CONFIG_NAME, RunPaths
from spectral_exp.runs.record import OwnCode
from spectral_exp.verification.patch import is_inside
from spectral_exp.verification.recorded_code import REMEDY, CodeSource

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass
class OwnPlaces:
    """Where a repetition finds the user's code.

    Attributes:
        packages: values of the setting `packages`.
        config_dir: the folder of configuration files; None if the run has none.
        restored: a folder that holds restored packages, and must come first on Python's module
            search path; None if everything is still in its place.
    """

    packages: list[str] = field(default_factory=list)
    config_dir: Path | None = None
    restored: Path | None = None


@contextlib.contextmanager
def recorded_packages(
    paths: RunPaths, record: Mapping[str, Any], *, is_trusted: bool, is_current: bool
) -> Iterator[OwnPlaces]:
    """Yield the places of the user's packages and configuration files, as they were in a run.

    What is still as it was is used in its place. The rest is restored to a temporary folder from
    git and from the archive in the run.

    Args:
        paths: the paths of the run.
        record: the record of the run.
        is_trusted: whether to allow code that is not in the history of the user's repositories.
        is_current: whether to use the present files, changed or not.

    Raises:
        UserError: the code needs the consent of the user, or the record does not hold it.
    """
    places = OwnPlaces()
    with contextlib.ExitStack() as stack:
        source = CodeSource(stack, (), is_trusted)
        for entry, facts in (record.get("own_code") or {}).items():
            place = _place(paths, entry, facts)
            reason = _why_restore(entry, place, facts, is_current=is_current)
            if reason:
                if places.restored is None:
                    places.restored = stack.enter_context(scratch_folder("own_code"))
                restored = _restore(source, paths, entry, facts, reason, places.restored)
                if entry == OWN_CONFIG_NAME:
                    places.config_dir = restored
                else:
                    # By name, because its former folder may be on the search path too.
                    places.packages.append(entry)
            elif entry == OWN_CONFIG_NAME:
                places.config_dir = place
            else:
                places.packages.append(str(place))
        yield places


def _place(paths: RunPaths, entry: str, facts: OwnCode) -> Path:
    """Return the recorded place of a package. Raises UserError if the record is damaged."""
    place = Path(facts.get("place", ""))
    is_valid = entry == OWN_CONFIG_NAME or (_NAME.fullmatch(entry) and place.stem == entry)
    if not (is_valid and place.is_absolute()):
        raise UserError(
            f"{paths.config_file} is damaged: own_code.{printable(entry, 40)} names no place of "
            "that package"
        )
    return place


def _why_restore(entry: str, place: Path, facts: OwnCode, *, is_current: bool) -> str:
    """Return why the files in a place cannot be used, or "" if they can.

    Raises:
        UserError: the present files are to be used, and the user has none there.
    """
    what = _describe(entry, place)
    is_known = (
        trust.is_known_config_dir(place)
        if entry == OWN_CONFIG_NAME
        else not resolve_recorded([str(place)])[1]
    )
    if is_known and place.exists():
        before = facts.get("sha256")
        is_same = is_current or before in (None, content_sha256(entry, place))
        return "" if is_same else f"the {what} has changed since the run"
    reason = (
        f"the {what} of the run no longer exists"
        if is_known
        else f"the run uses the {what}, which you have not used on this machine"
    )
    if is_current:
        raise UserError(f"{reason}; replace --current-code by --trust-code to run the run's copy")
    return reason


def _describe(entry: str, place: Path) -> str:
    shown = printable(str(place), 200)
    is_folder = entry == OWN_CONFIG_NAME
    return f"folder of configuration files {shown}" if is_folder else f"package {entry} ({shown})"


def _restore(
    source: CodeSource, paths: RunPaths, entry: str, facts: OwnCode, reason: str, folder: Path
) -> Path:
    """Write the recorded files of a package below `folder` and return their place."""
    saved, deleted = facts.get("saved", []), facts.get("deleted", [])
    if saved or deleted or not facts.get("hash"):
        source.require_trust(f"{reason}, and {paths.own_code_file} holds a copy")
    place = Path(facts["place"])
    target = folder / (entry if entry == OWN_CONFIG_NAME else place.name)
    if (commit := facts.get("hash")) and facts.get("committed", 1):
        repository = Path(facts.get("repository") or place)
        tree = source.check_out(commit, [place.parent, repository, code_directory()])
        if not place.is_relative_to(repository):
            raise UserError(f"{paths.config_file} is damaged: {place} is not in {repository}")
        committed = tree / place.relative_to(repository)
        if committed.is_dir():
            shutil.copytree(committed, target, symlinks=True, ignore=shutil.ignore_patterns(".git"))
        elif committed.is_file():
            shutil.copy(committed, target)
    for name, content in _read_archive(paths, saved).items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{commit}: {name} is below a link to another folder; {REMEDY}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    for name in filter(is_inside, deleted):
        (target / name).unlink(missing_ok=True)
    if missing := facts.get("missing"):
        shown = printable(", ".join(missing), 400)
        print(f"note: the record of {entry} lacks {shown}", file=sys.stderr)
    if not target.exists():
        raise UserError(f"{paths.root} holds no copy of the {_describe(entry, place)}; {REMEDY}")
    return target


def _read_archive(paths: RunPaths, names: list[str]) -> dict[str, bytes]:
    """Return the content of files in a run's archive."""
    if not names:
        return {}
    try:
        data = read_regular(paths.own_code_file, 2 * MAX_TOTAL_BYTES)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = {}
            room = MAX_TOTAL_BYTES
            for name in names:
                if not is_inside(name):
                    raise ValueError(f"{name!r} leads out of the archive")
                with archive.open(name) as file:
                    found[name] = file.read(room + 1)
                room -= len(found[name])
                if room < 0:
                    raise ValueError("it is too large")
            return found
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        cause = printable(" ".join(str(error).split()), 200)
        raise UserError(
            f"{paths.own_code_file}, the copy of your code, cannot be read: {cause}; {REMEDY}"
        ) from error
