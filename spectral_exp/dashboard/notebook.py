"""Runs in a notebook: the page of the dashboard with its data, in a frame below the cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlencode

from spectral_exp.core.errors import require
from spectral_exp.core.wording import format_count
from spectral_exp.dashboard.packages import require_packages
from spectral_exp.runs.index import index_file
from spectral_exp.runs.output_file import write_output

THEMES = ("auto", "light", "dark")

_MIN_HEIGHT = 200  # CSS pixels

# The page has no access to the notebook around it; it may save charts and copy texts.
_FRAME = (
    '<iframe title="{title}" sandbox="allow-scripts allow-downloads" allow="clipboard-write" '
    'width="100%" height="{height}" style="border: 1px solid #8884; border-radius: 4px" '
    'srcdoc="{page}">{fallback}</iframe>'
)

# What is inside of a frame is shown where frames are left out.
_NO_FRAME = (
    "The {summary} is not shown here. In Jupyter trust the notebook (File, Trust Notebook) or run "
    "the cell again; elsewhere open the file that show(...).save('runs.html') writes."
)


class Snapshot:
    """A view of runs at one moment, which a notebook shows below its cell.

    Attributes:
        page: the HTML file.
    """

    def __init__(self, page: str, summary: str, height: int) -> None:
        self.page = page
        self._summary = summary
        self._height = height

    def save(self, file: str | Path) -> None:
        """Write the HTML file, in place of an earlier one.

        Raises:
            UserError: the file cannot be written, or belongs to a run.
        """
        write_output(Path(file), self.page.encode(), "file", force=True)

    def __repr__(self) -> str:
        return f"<{self._summary}>"

    def _repr_html_(self) -> str:
        return _FRAME.format(
            title=_in_attribute(self._summary),
            height=self._height,
            page=_in_attribute(self.page),
            fallback=_NO_FRAME.format(summary=self._summary),
        )


def show(
    *folders: str | Path,
    where: str | Sequence[str] = (),
    metric: str | None = None,
    baseline: str | None = None,
    view: str | None = None,
    theme: str = "auto",
    height: int = 640,
    figures: bool = False,
) -> Snapshot:
    """Return a view of the runs below some folders, for a notebook.

    It is a copy of what is in the folders now, and works without a server. A single run directory
    is shown in depth.

    Args:
        folders: folders of runs, or a run directory.
        where: conditions that the runs meet, such as `optimizer=rgd`.
        metric: metric of the table.
        baseline: label of the group that the others are compared with.
        view: another view, as "Copy the address" in the dashboard returns it; excludes `where`,
            `metric` and `baseline`.
        theme: light, dark, or auto for that of the system; the frame cannot ask the notebook.
        height: of the frame in CSS pixels.
        figures: whether the comparison of the groups has its figures, which take some seconds to
            draw; a view of a comparison always has them.

    Raises:
        UserError: a folder is missing, a condition or the view cannot be understood, or the
            packages of the dashboard are not installed.
    """
    require_packages()
    from spectral_exp.dashboard.drawing import Drawer
    from spectral_exp.dashboard.export import export_view
    from spectral_exp.dashboard.groups import Comparisons
    from spectral_exp.dashboard.library import Library
    from spectral_exp.dashboard.series_store import SeriesStore

    paths = [Path(folder) for folder in folders]
    require(bool(paths), "folders", "none", "at least one folder")
    for path in paths:
        require(path.is_dir(), "folders", path, "folders that exist")
    require(theme in THEMES, "theme", theme, f"one of {', '.join(THEMES)}")
    require(height >= _MIN_HEIGHT, "height", height, f">= {_MIN_HEIGHT}")
    library = Library(paths, SeriesStore(), index_file())
    library.read_all()
    rows = library.changes(0).rows
    conditions = [where] if isinstance(where, str) else list(where)
    choices = {"where": conditions, "metric": metric, "baseline": baseline}
    fragment = _fragment(view, {name: value for name, value in choices.items() if value})
    if not fragment:
        is_run = len(rows) == 1 and paths[0].samefile(rows[0]["path"])
        fragment = f"#/run/{rows[0]['key']}" if is_run else "#/runs?"
    drawer, names = Drawer(), [str(path) for path in paths]
    figure_drawer = drawer if figures or fragment.startswith("#/compare") else None
    try:
        page = export_view(library, Comparisons(library), names, fragment, theme, figure_drawer)
    finally:
        drawer.end()
    return Snapshot(page, f"dashboard of {format_count(len(rows), 'run')}", height)


def _fragment(view: str | None, choices: Mapping[str, object]) -> str:
    """Return the part of the address for a view or for choices; "" for neither."""
    if view is not None:
        require(not choices, "view", view, "given without where, metric and baseline")
        return "#" + view.partition("#")[2]
    return f"#/runs?{urlencode(choices, doseq=True)}" if choices else ""


def _in_attribute(text: str) -> str:
    """Return a text for an attribute in double quotes."""
    return text.replace("&", "&amp;").replace('"', "&quot;")
