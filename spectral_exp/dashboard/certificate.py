"""The certificate of an exact resume, which `verify_resume` leaves in a run, in words."""

from __future__ import annotations

from pathlib import Path

from spectral_exp.core.foreign_text import printable
from spectral_exp.core.json_text import parse_object
from spectral_exp.dashboard.run_files import open_inside
from spectral_exp.runs.layout import CERTIFICATE_NAME

_MAX_BYTES = 1 << 20
_MAX_LINES = 20
_VERDICTS = {
    "identical": "a resume continues bit for bit",
    "diverged": "a resume diverges",
}


def certificate_verdict(run: Path) -> str | None:
    """Return what the certificate of a run says, or None if there is no readable one."""
    return _VERDICTS.get(str(_read(run).get("verdict")))


def certificate_text(run: Path) -> str | None:
    """Return the certificate of a run as a few lines, or None if there is no readable one."""
    verdict = certificate_verdict(run)
    if verdict is None:
        return None
    record = _read(run)
    lines = [f"{verdict[:1].upper()}{verdict[1:]}."]
    for name, words in (
        ("divergences", "diverged"),
        ("compared", "compared"),
        ("not_compared", "not compared"),
    ):
        values = record.get(name)
        for value in (values if isinstance(values, list) else ())[:_MAX_LINES]:
            lines.append(f"{words}: {printable(value)}")
    return "\n".join(lines)


def _read(run: Path) -> dict[str, object]:
    try:
        with open_inside(run, CERTIFICATE_NAME) as file:
            return parse_object(file.read(_MAX_BYTES))
    except (OSError, ValueError):
        return {}
