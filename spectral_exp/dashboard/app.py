"""The addresses of the dashboard and what they answer."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from spectral_exp import __version__
from spectral_exp.core.errors import UserError, require
from spectral_exp.core.json_text import parse_object
from spectral_exp.dashboard import bands, curves, differences, drawing, log_window, run_files
from spectral_exp.dashboard.answers import json_bytes
from spectral_exp.dashboard.completion import complete
from spectral_exp.dashboard.details import diff_answer, run_details, spectrum_answer
from spectral_exp.dashboard.drawing import Drawer
from spectral_exp.dashboard.export import export_view
from spectral_exp.dashboard.group_curves import load_group_curves
from spectral_exp.dashboard.group_tables import compare_command, comparison_answer, groups_answer
from spectral_exp.dashboard.groups import Comparisons, choose_groups
from spectral_exp.dashboard.identity import short_hash
from spectral_exp.dashboard.library import Library, UnknownRunError
from spectral_exp.dashboard.page_files import page_file
from spectral_exp.dashboard.query import Query, View
from spectral_exp.dashboard.run_files import UnknownFileError
from spectral_exp.dashboard.system_curves import AXIS as SYSTEM_AXIS
from spectral_exp.dashboard.system_curves import load_system_curves, system_answer
from spectral_exp.dashboard.system_store import system_bytes
from spectral_exp.dashboard.workers import Workers
from spectral_exp.results import tables
from spectral_exp.runs.marks import update_marks

log = logging.getLogger(__name__)

MAX_WATCHED = 200
_MAX_NOTES_BYTES = 64 << 10
_WATCH_READ_S = 0.1
_INDEX_S = 0.5  # that the first answers wait for the runs that the index knows
_REVALIDATE = "private, no-cache"
_JSON = "application/json"
_FRAMES = "application/octet-stream"


@dataclass
class Site:
    """What the addresses share.

    Attributes:
        library: the runs.
        where: conditions that the page begins with.
        editable: whether runs may be marked.
    """

    library: Library
    where: Sequence[str] = ()
    editable: bool = False
    comparisons: Comparisons = field(init=False)
    drawer: Drawer = field(default_factory=Drawer)
    quick: Workers = field(default_factory=lambda: Workers(2, "quick"))
    slow: Workers = field(default_factory=lambda: Workers(4, "slow"))

    def __post_init__(self) -> None:
        self.comparisons = Comparisons(self.library)

    @property
    def folders(self) -> list[str]:
        """The folders of the runs."""
        return [str(folder) for folder in self.library.folders]


Answer = Callable[[Site, Query, dict[str, str]], Response]


def build_app(site: Site) -> Starlette:
    """Return the application, which anyone who reaches it may use; see `guard`."""
    routes = [
        *(_route(site, path, answer, site.quick) for path, answer in _QUICK.items()),
        *(_route(site, path, answer, site.slow) for path, answer in _SLOW.items()),
        _notes_route(site),
        _route(site, "/{name:path}", _page, site.quick),
    ]
    handlers: dict[Any, Any] = {HTTPException: _http_error, Exception: _failure}
    return Starlette(routes=routes, exception_handlers=handlers)


def _route(site: Site, path: str, answer: Answer, workers: Workers) -> Route:
    async def endpoint(request: Request) -> Response:
        query, names = Query(request.query_params), request.path_params
        found = await _answer_errors(workers.run(lambda: answer(site, query, names)))
        tag = found.headers.get("etag")
        if tag is not None and tag == request.headers.get("if-none-match"):
            return Response(status_code=304, headers={"etag": tag, "cache-control": _REVALIDATE})
        return found

    return Route(path, endpoint, methods=["GET"])


def _notes_route(site: Site) -> Route:
    """Return the address that marks a run; the guard has checked who asks."""

    async def endpoint(request: Request) -> Response:
        key, content = request.path_params["key"], b""
        async for part in request.stream():
            content += part
            if len(content) > _MAX_NOTES_BYTES:
                return _error(413, f"notes hold at most {_MAX_NOTES_BYTES:,} bytes")

        def mark() -> Response:
            update_marks(site.library.path(key), _parse_notes(content))
            return _json({"row": site.library.reload(key)})

        return await _answer_errors(site.quick.run(mark))

    return Route("/api/notes/{key:str}", endpoint, methods=["POST"])


def _parse_notes(content: bytes) -> dict[str, Any]:
    try:
        return parse_object(content)
    except ValueError as error:
        raise UserError(f"the body {error}") from error


async def _answer_errors(answer: Awaitable[Response]) -> Response:
    """Return an answer, or a mistake as an answer."""
    try:
        return await answer
    except (UnknownRunError, UnknownFileError) as error:
        return _error(404, str(error))
    except UserError as error:
        return _error(400, str(error))


async def _http_error(request: Request, error: HTTPException) -> Response:
    return _error(error.status_code, error.detail)


async def _failure(request: Request, error: Exception) -> Response:
    return _error(500, f"the server failed: {type(error).__name__}; its log has the details")


def _error(status: int, sentence: str) -> Response:
    return _json({"error": sentence}, status)


def _json(value: Any, status: int = 200) -> Response:
    return Response(json_bytes(value), status, media_type=_JSON)


# --- the list of runs -----------------------------------------------------------------------------


def _runs(site: Site, query: Query, names: dict[str, str]) -> Response:
    site.library.wait_for_index(_INDEX_S)
    return _json(
        {
            **_list_changes(site.library, query),
            "editable": site.editable,
            "version": __version__,
            "folders": site.folders,
            "where": list(site.where),
            "left_out": [
                {"path": str(path), "reason": reason} for path, reason in site.library.left_out
            ],
        }
    )


def _changes(site: Site, query: Query, names: dict[str, str]) -> Response:
    keys = query.names("watch")
    require(len(keys) <= MAX_WATCHED, "watch", f"{len(keys)} keys", f"<= {MAX_WATCHED} keys")
    return _json(
        {
            **_list_changes(site.library, query),
            "watched": {key: _read_progress(site.library, key, len(keys)) for key in keys},
        }
    )


def _list_changes(library: Library, query: Query) -> dict[str, Any]:
    """Return the runs that changed after the number that the page has, and how many are read."""
    # Counted first: rows that are read meanwhile are then in the changes.
    found, read, is_complete = library.counts()
    changes = library.changes(query.integer("since", 0, 0, 2**53))
    return {
        "seq": changes.seq,
        "reset": changes.is_reset,
        "found": found,
        "read": read,
        "complete": is_complete,
        "now_s": time.time(),
        "runs": changes.rows,
        "removed": changes.removed,
    }


def _read_progress(library: Library, key: str, n_watched: int) -> dict[str, Any] | None:
    """Return how far a run is, or None if it is gone."""
    try:
        path, row = library.path(key), library.row(key)
        with library.store.follower(path, _WATCH_READ_S / n_watched) as follower:
            progress = {
                "step": follower.last_step,
                "generation": follower.generation,
                "entries": follower.n_entries,
                "loading": follower.read_share if follower.is_behind else None,
            }
    except UserError:
        return None
    logs = dict(log_window.log_files(path))
    return {
        **progress,
        "status": row.get("status"),
        "log_bytes": list(logs.values()),
        "system_bytes": system_bytes(path),
    }


# --- groups and curves ----------------------------------------------------------------------------


def _groups(site: Site, query: Query, names: dict[str, str]) -> Response:
    site.library.wait_for_index(_INDEX_S)
    view, comparisons = View.of(query), site.comparisons
    answer = comparisons.quick_answer(view) if query.flag("quick") else comparisons.answer(view)
    form = query.choice("format", ("", "csv", "json", "markdown", "latex", "table"))
    if not form:
        return _json(groups_answer(answer, site.folders))
    if answer.comparison is None:
        raise UserError(answer.problem)
    ordered = answer.comparison.reorder(answer.comparison.best_first())
    chosen = answer.chosen
    text = tables.render_comparisons([ordered], form, chosen.left_out, chosen.archived_note)
    return Response(text, media_type="text/plain", headers=_attachment(f"comparison.{form}"))


def _load_curves(site: Site, query: Query) -> tuple[list[curves.Curve], str, str]:
    metric, axis = query.required("metric"), query.text("x") or "step"
    return curves.load_curves(site.library, query.names("runs"), metric, axis), metric, axis


def _curves(site: Site, query: Query, names: dict[str, str]) -> Response:
    loaded, metric, axis = _load_curves(site, query)
    return Response(curves.curves_answer(loaded, metric, axis, _window(query)), media_type=_FRAMES)


def _system_curves(site: Site, query: Query, names: dict[str, str]) -> Response:
    metric, axis = query.required("metric"), query.choice("x", (SYSTEM_AXIS,))
    loaded = load_system_curves(site.library, query.names("runs"), metric)
    return Response(curves.curves_answer(loaded, metric, axis, _window(query)), media_type=_FRAMES)


def _window(query: Query) -> curves.Window:
    low, high = query.number("lo"), query.number("hi")
    ordered = low is None or high is None or low <= high
    require(ordered, "lo", low, f"<= hi, which is {high}")
    return curves.Window(low, high, query.integer("bins", 1000, 1, curves.MAX_BINS))


def _curves_csv(site: Site, query: Query, names: dict[str, str]) -> Response:
    loaded, metric, axis = _load_curves(site, query)
    portions = _in_workers(site.slow, curves.curves_csv(loaded, metric, axis))
    return StreamingResponse(portions, media_type="text/csv", headers=_attachment("curves.csv"))


async def _in_workers(workers: Workers, portions: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield what an iterator yields, each portion made by a thread when the last one is sent."""
    while (portion := await workers.run(lambda: next(portions, None))) is not None:
        yield portion


def _attachment(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}


# --- groups in depth ------------------------------------------------------------------------------


def _band(site: Site, query: Query, names: dict[str, str]) -> Response:
    metric, axis = query.required("metric"), query.text("x") or "step"
    kind = cast("bands.Kind", query.choice("band", ("interval", "range")))
    answer = site.comparisons.answer(View.of(query))
    groups = [
        load_group_curves(site.library, group, answer.view, metric, axis)
        for group in choose_groups(answer, query.names("groups"))
    ]
    content = bands.bands_answer(groups, metric, axis, _window(query), kind)
    return Response(content, media_type=_FRAMES)


def _difference(site: Site, query: Query, names: dict[str, str]) -> Response:
    answer = site.comparisons.answer(View.of(query))
    a, b = choose_groups(answer, [query.required("a"), query.required("b")])
    n_steps = query.integer("steps", 100, 1, differences.MAX_STEPS)
    found = differences.difference_over_steps(a, b, answer.view.metric, n_steps)
    view = replace(answer.view, baseline=a.label, at=f"step:{found['steps'][-1]}")
    return _json({**found, "command": compare_command(view, site.folders)})


def _compare(site: Site, query: Query, names: dict[str, str]) -> Response:
    answer = site.comparisons.answer(View.of(query))
    ids = query.names("groups")
    found = comparison_answer(answer, ids, site.folders)
    if query.flag("figures"):
        found["figures"] = site.drawer.names(drawing.Request.of(answer, ids))
    return _json(found)


def _figure_file(site: Site, query: Query, names: dict[str, str]) -> Response:
    name, _, form = names["file"].rpartition(".")
    require(form in drawing.FORMATS, "figure", names["file"], "a name that ends with .svg or .pdf")
    answer = site.comparisons.answer(View.of(query))
    theme = query.choice("theme", ("light", "dark"))
    ids = query.names("groups")
    request = drawing.Request.of(answer, ids, name=name, form=form, theme=theme)
    headers = _attachment(names["file"]) if query.flag("download") else {}
    return Response(site.drawer.draw(request), media_type=_FIGURES[form], headers=headers)


_FIGURES = {"svg": "image/svg+xml", "pdf": "application/pdf", "png": "image/png"}


def _export(site: Site, query: Query, names: dict[str, str]) -> Response:
    drawer = site.drawer if query.choice("figures", ("1", "0")) == "1" else None
    page = export_view(
        site.library, site.comparisons, site.folders, query.text("hash"), drawer=drawer
    )
    return Response(page, media_type="text/html", headers=_attachment("dashboard.html"))


def _diff(site: Site, query: Query, names: dict[str, str]) -> Response:
    one, other = (site.library.run(query.required(name)) for name in ("a", "b"))
    return _json(diff_answer(one, other))


def _complete(site: Site, query: Query, names: dict[str, str]) -> Response:
    _, aggregator = site.library.aggregator()
    return _json({"items": complete(query.text("text"), aggregator.runs)})


# --- one run --------------------------------------------------------------------------------------


def _run(site: Site, query: Query, names: dict[str, str]) -> Response:
    key = names["key"]
    return _json(run_details(site.library.run(key), site.library.row(key)))


def _log(site: Site, query: Query, names: dict[str, str]) -> Response:
    path = site.library.path(names["key"])
    files = log_window.log_files(path)
    number = query.integer("file", 0, 0, len(log_window.LOG_NAMES) - 1)
    answer: dict[str, Any] = {"file": number, "names": [name for name, _ in files]}
    if number >= len(files):
        return _json({**answer, "size": 0, "offset": 0, "end": 0, "text": "", "matches": []})
    name = files[number][0]
    wanted, level = query.text("search"), query.choice("level", ("", "warning"))
    if wanted or level:
        after = query.integer("after", 0, 0, 2**53)
        found = log_window.search(path, name, after, wanted, warnings=bool(level))
        return _json({**answer, **found})
    offset = query.integer("offset", -(64 << 10), -(2**53), 2**53)
    size = query.integer("size", 64 << 10, 1, log_window.MAX_WINDOW)
    return _json({**answer, **log_window.read_window(path, name, offset, size)})


def _image(site: Site, query: Query, names: dict[str, str]) -> Response:
    path = site.library.path(names["key"])
    content = run_files.read_image(path, names["plot"], int(names["step"]))
    return _file_response(content, "image/png")


def _file(site: Site, query: Query, names: dict[str, str]) -> Response:
    file, content = run_files.read_text(site.library.path(names["key"]), names["id"])
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in file.name)
    headers = _attachment(name) if query.flag("download") else {}
    return Response(content, media_type="text/plain; charset=utf-8", headers=headers)


def _spectra(site: Site, query: Query, names: dict[str, str]) -> Response:
    return _json(spectrum_answer(site.library.path(names["key"]), query.required("name")))


def _system(site: Site, query: Query, names: dict[str, str]) -> Response:
    return _json(system_answer(site.library, names["key"]))


def _page(site: Site, query: Query, names: dict[str, str]) -> Response:
    found = page_file(names["name"])
    if found is None:
        return _error(404, "there is no such address")
    content, media_type = found
    return _file_response(content, media_type)


def _file_response(content: bytes, media_type: str) -> Response:
    """Return a file that a browser keeps, but asks for again whether it has changed."""
    headers = {"etag": f'"{short_hash(content)}"', "cache-control": _REVALIDATE}
    return Response(content, media_type=media_type, headers=headers)


_QUICK: dict[str, Answer] = {
    "/api/runs": _runs,
    "/api/changes": _changes,
    "/api/complete": _complete,
}
_SLOW: dict[str, Answer] = {
    "/api/groups": _groups,
    "/api/curves": _curves,
    "/api/curves.csv": _curves_csv,
    "/api/system": _system_curves,
    "/api/band": _band,
    "/api/difference": _difference,
    "/api/compare": _compare,
    "/api/figure/{file:str}": _figure_file,
    "/api/diff": _diff,
    "/api/export": _export,
    "/api/run/{key:str}": _run,
    "/api/run/{key:str}/log": _log,
    "/api/run/{key:str}/spectra": _spectra,
    "/api/run/{key:str}/system": _system,
    "/api/run/{key:str}/image/{plot:str}/{step:int}": _image,
    "/api/run/{key:str}/file/{id:str}": _file,
}
