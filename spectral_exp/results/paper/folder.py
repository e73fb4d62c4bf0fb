"""The folder of a paper: its own files, and writing without the loss of any others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError, explain_os_error
from spectral_exp.core.json_files import read_json, write_json_atomic
from spectral_exp.core.scratch import scratch_folder
from spectral_exp.results.paper.provenance import digest
from spectral_exp.runs.layout import PROVENANCE_NAME
from spectral_exp.runs.output_file import refuse_loss

FIGURES = "figures"
_NAME = re.compile(rf"(?:{FIGURES}/)?\w[\w.-]*")


class Folder:
    """A folder that holds, or will hold, a paper. Reading and checking change nothing.

    Raises:
        UserError: `path` is a file or belongs to a run's training, or its `provenance.json` is
            damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise UserError(f"--output {path} is a file; name a folder")
        if (path / FIGURES).is_symlink():
            raise UserError(
                f"{path / FIGURES} is a link, which may lead anywhere; choose another folder with"
                " --output"
            )
        # Which of the other files are ours, the record knows.
        refuse_loss(path / PROVENANCE_NAME, force=True, is_default=True)
        self.record: dict[str, Any] = (
            read_json(path / PROVENANCE_NAME) if (path / PROVENANCE_NAME).exists() else {}
        )

    @property
    def files(self) -> dict[str, str]:
        """The files that this program wrote here: name and SHA-256."""
        return own_files(self.record.get("files"))

    def write(
        self, files: Mapping[str, bytes], record: Mapping[str, Any], *, force: bool = False
    ) -> list[Path]:
        """Write `files` and the record, and remove own files that are no longer part of the paper.

        Everything is first written to a temporary folder. The first record lists the old files as
        well as the new ones, so that an interrupted write can be repeated.

        Raises:
            UserError: a foreign or edited file would be overwritten, unless `force`.
        """
        self._refuse_losses(files, force)
        old = {**own_files(self.record.get("replaces")), **self.files}
        remedy = "choose another folder with --output, or free space"
        with explain_os_error(f"write the paper to {self.path}", remedy):
            self.path.mkdir(parents=True, exist_ok=True)
            with scratch_folder("paper", self.path) as draft:
                for name, content in files.items():
                    place = draft / name
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(content)
                write_json_atomic(self.path / PROVENANCE_NAME, {**record, "replaces": old})
                for name in files:
                    (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                    (draft / name).replace(self.path / name)
            self._remove([name for name in old if name not in files])
            write_json_atomic(self.path / PROVENANCE_NAME, record)
        return [self.path / name for name in sorted(files)] + [self.path / PROVENANCE_NAME]

    def is_edited(self, name: str) -> bool:
        """Return whether the file exists and differs from what was written."""
        path = self.path / name
        known = {self.files.get(name), own_files(self.record.get("replaces")).get(name)}
        return path.is_file() and digest(path.read_bytes()) not in known

    def _refuse_losses(self, files: Mapping[str, bytes], force: bool) -> None:
        if force:
            return
        lost = [
            name
            for name in files
            if self.is_edited(name) and (self.path / name).read_bytes() != files[name]
        ]
        if not lost:
            return
        ours = [name for name in lost if name in self.files]
        if ours:
            raise UserError(
                f"{', '.join(ours)} in {self.path} was edited since it was written, and would be"
                " overwritten; keep your text in a file for --notes, choose another --output, or"
                " overwrite with --force"
            )
        raise UserError(
            f"{', '.join(lost)} in {self.path} was not written by this command; choose another"
            " --output or overwrite with --force"
        )

    def _remove(self, names: list[str]) -> None:
        for name in names:
            # An edited file belongs to its author.
            if not self.is_edited(name):
                (self.path / name).unlink(missing_ok=True)
        figures = self.path / FIGURES
        if figures.is_dir() and not any(figures.iterdir()):
            figures.rmdir()


def own_files(recorded: object) -> dict[str, str]:
    """Return the recorded files that lie in the folder or are figures; a record may name others."""
    files = recorded.items() if isinstance(recorded, dict) else ()
    return {name: str(value) for name, value in files if _NAME.fullmatch(name)}
