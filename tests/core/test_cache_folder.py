"""The folder of files that can be computed again."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectral_exp.core.cache_folder import cache_folder
from spectral_exp.core.errors import UserError


def test_our_own_variable_is_first_then_the_standard_one_then_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("SPECTRAL_EXP_CACHE", "~/elsewhere")
    assert cache_folder() == tmp_path / "elsewhere"
    monkeypatch.delenv("SPECTRAL_EXP_CACHE")
    assert cache_folder() == tmp_path / "caches" / "spectral_exp"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "spectral_exp"


def test_without_a_home_the_error_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPECTRAL_EXP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UserError, match="set SPECTRAL_EXP_CACHE to a writable folder"):
        cache_folder()
