"""Small files of a run that other packages write and that must survive a power cut."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from spectral_exp.core import files
from spectral_exp.runs import layout

log = logging.getLogger(__name__)


class UnsyncedFiles:
    """The files of Hydra, of the tokenizer and the log, which are written without `atomic_writer`.

    `sync` makes those changed since its last call survive a power cut. For one thread at a time.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._synced: dict[Path, int] = {}

    def sync(self) -> None:
        """A storage that fails is logged as a warning."""
        try:
            new = [
                self._sync_folder(self.root / name)
                for name in (layout.HYDRA_FOLDER, layout.TOKENIZER_FOLDER, "")
            ]
            if any(new):
                files.fsync_directory(self.root.parent)
        except OSError as error:
            log.warning(
                "cannot make the files of %s survive a power cut: %s",
                self.root,
                error.strerror or error,
            )

    def _sync_folder(self, folder: Path) -> bool:
        """Synchronize the changed files of a folder. Return whether there are new ones."""
        if not folder.is_dir():
            return False
        found = [path for path in folder.iterdir() if path.is_file() and not path.is_symlink()]
        new = not self._synced.keys() >= set(found)
        for path in found:
            # Another process may be replacing the run's notes, through a temporary file.
            with contextlib.suppress(FileNotFoundError):
                changed_ns = path.stat().st_mtime_ns
                if self._synced.get(path) != changed_ns:
                    files.fsync_path(path)
                    self._synced[path] = changed_ns
        if new:
            files.fsync_directory(folder)
        return new
