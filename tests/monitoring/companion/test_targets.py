"""Trackers and addresses as users name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.monitoring import Companion
from spectral_exp.monitoring.companion.addresses import check_addresses, describe_address
from spectral_exp.monitoring.companion.targets import Target, parse_target, parse_targets


@pytest.fixture(autouse=True)
def _all_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.parametrize(
    ("text", "kind", "where"),
    [
        ("tensorboard", "tensorboard", ""),
        ("tensorboard:logs/all", "tensorboard", "logs/all"),
        ("wandb", "wandb", "spectral_exp"),
        ("wandb:me/project", "wandb", "me/project"),
        ("mlflow:http://localhost:5000", "mlflow", "http://localhost:5000"),
        ("mlflow:sqlite:///ml.db", "mlflow", "sqlite:///ml.db"),
        ("trackio:some-project", "trackio", "some-project"),
    ],
)
def test_trackers_by_name(text: str, kind: str, where: str) -> None:
    assert parse_target(text) == Target(kind, where)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tensorbord", "did you mean tensorboard"),
        ("", "mirrors= must be tensorboard or tensorboard:FOLDER"),
        ("tensorboard:s3://bucket", "tensorboard:FOLDER"),
        ("wandb:a/b/c", "wandb:ENTITY/PROJECT"),
        ("wandb:a b", "wandb:ENTITY/PROJECT"),
        ("mlflow", "mlflow:http://HOST:5000"),
        ("mlflow:file:///x", "mlflow:http://HOST:5000"),
        ("mlflow:http://", "mlflow:http://HOST:5000"),
        ("trackio:../../x", "trackio:PROJECT"),
    ],
)
def test_what_is_no_tracker_is_refused_with_what_is(text: str, problem: str) -> None:
    with pytest.raises(SettingError, match=problem):
        parse_target(text)


def test_a_wrong_tracker_is_reported_under_the_name_of_its_flag() -> None:
    with pytest.raises(SettingError, match=r"^--to=foo must be tensorboard or"):
        parse_targets(["tensorboard", "foo"], "--to")


def test_a_missing_library_or_key_is_refused_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError, match="wandb:p has no API key: run `wandb login`"):
        parse_target("wandb:p")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    assert parse_target("wandb:p")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs trackio, which is missing: pip install .*trackio"):
        Companion(tmp_path, ["trackio"])
    assert not Companion(tmp_path, ["trackio"], enabled=False).enabled


def test_passwords_are_neither_shown_nor_part_of_the_file_name() -> None:
    one = parse_target("mlflow:http://user:hunter22@host:5000")
    assert "hunter22" not in str(one)
    assert one.file_name == parse_target("mlflow:http://host:5000").file_name
    assert one.file_name != parse_target("mlflow:http://host:5001").file_name
    assert len(parse_targets(["trackio", "trackio:spectral_exp", "tensorboard"])) == 2


@pytest.mark.parametrize("setting", ["mirrors", "alerts"])
def test_a_text_in_place_of_a_list_is_refused(tmp_path: Path, setting: str) -> None:
    with pytest.raises(SettingError, match=rf"{setting}=.* must be a list"):
        Companion(tmp_path, **{setting: "tensorboard"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "address", ["webhook:ftp://x", "webhook:", "webhook:http://", "webhook:http://x:y", "hook.com"]
)
def test_what_is_no_address_is_refused_without_its_secret(address: str) -> None:
    with pytest.raises(SettingError, match=r"^alerts\[2\]=\S* must be webhook:") as error:
        check_addresses(["webhook:https://host/secret", "webhook:https://host/secret", address])
    assert "host/secret" not in str(error.value)


def test_addresses_are_described_without_their_secrets() -> None:
    assert describe_address("webhook:https://user:pw@host/secret?x=y") == "webhook at host"
    assert describe_address("tgram://secret/id") == "tgram"
