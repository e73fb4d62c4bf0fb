"""Secrets are found by name in any container and by shape in any text; similar names and values
stay."""

from __future__ import annotations

import argparse
import dataclasses
import json
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

from spectral_exp.core import redact as module
from spectral_exp.core.json_value import CIRCULAR
from spectral_exp.core.redact import REDACTED, is_secret_name, redact, redact_text, without_secrets
from spectral_exp.monitoring import CheckpointManager, ConfigTracker, MetricsLogger
from spectral_exp.monitoring.checkpoint.state import KeptConfig
from tests.conftest import every_in_ci

SECRET = "Zq8hunter2XY"


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets that one test has met do not help another."""
    monkeypatch.setattr(module, "_seen_secrets", set())


# --- names ----------------------------------------------------------------------------------------

SECRET_NAMES = [
    "token", "hf_token", "HF_TOKEN", "authToken", "access_token", "refreshToken", "tokens",
    "api_tokens", "HF_TOKEN_2", "password", "db.password", "passwords", "api_key", "apikey",
    "API-KEY", "apiKeys", "api_keys", "X-Api-Key", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID",
    "client_secret", "secrets", "credentials", "WANDB_API_KEY", "privateKey", "DB_PASS", "db_pass",
    "smtp_pass", "SSHPASS", "PGPASSWORD", "MYSQL_PWD", "OPENAI_KEY", "openai_key", "ANTHROPIC_KEY",
    "MY_SERVICE_KEY", "AccountKey", "SharedAccessKey", "encryption_key", "ssh_key", "master_key",
    "Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "sessionid", "passphrase",
    "passcode", "pin", "user_pin", "jwt", "otp", "auth", "basic_auth", "GITHUB_TOKEN",
    "SLACK_BOT_TOKEN", "db_password1", "secret_key_base", "data/hub@x.api_key",
]  # fmt: skip
PLAIN_NAMES = [
    "max_tokens", "tokenizer", "tokens_per_s", "n_tokens", "eos_token", "token_embedding", "key",
    "seed", "next_token", "class_token", "token_bytes", "pad_token", "mask_token", "bos_token_id",
    "token_id", "token_dropout", "special_tokens", "stop_tokens", "train_tokens", "tokens_seen",
    "num_tokens", "min_tokens", "key_dim", "n_keys", "num_key_value_heads", "qk_norm", "query_key",
    "sort_key", "SORT_KEY", "primary_key", "public_key", "cache_key", "bypass", "passes", "n_pass",
    "forward_pass", "backward_pass", "low_pass", "high_pass", "passthrough", "compass", "secretary",
    "author", "authors", "keyboard", "monkey", "token_file", "password_file", "pin_memory", "PWD",
    "OLDPWD", "SSH_AUTH_SOCK", "AWS_WEB_IDENTITY_TOKEN_FILE", "kv_heads", "keys", "tokenization",
    "cookies_path", "max_password_length",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", [*PLAIN_NAMES, ""])
def test_plain_names(name: str) -> None:
    assert not is_secret_name(name)


# --- containers -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Settings:
    lr: float = 0.1
    api_key: str = SECRET


class Pair(NamedTuple):
    user: str
    password: str


class Attributes:
    """As the attrs library makes them."""

    __attrs_attrs__ = (types.SimpleNamespace(name="lr"), types.SimpleNamespace(name="api_key"))

    def __init__(self) -> None:
        self.lr, self.api_key = 0.1, SECRET


class Shown:
    """An object that is recorded by its text."""

    def __repr__(self) -> str:
        return f"Shown(lr=0.1, api_key='{SECRET}', pad_token='<pad>')"


CONTAINERS: dict[str, Any] = {
    "mapping": {"api_key": SECRET},
    "namespace": argparse.Namespace(api_key=SECRET),
    "simple namespace": types.SimpleNamespace(hub=types.SimpleNamespace(api_key=SECRET)),
    "data class": {"train": Settings()},
    "named tuple": [Pair("me", SECRET)],
    "attrs": Attributes(),
    "object": {"part": Shown()},
    "OmegaConf": OmegaConf.create({"hub": {"api_key": SECRET, "list": [{"password": SECRET}]}}),
    "list": {"api_key": [SECRET, SECRET]},
    "plural": {"api_keys": SECRET, "passwords": (SECRET,)},
    "nested": {"tokens": {"hf": SECRET, "more": {"x": [SECRET]}}},
    "set": {"secrets": {SECRET}},
    "variables": {"env": [{"name": "HF_TOKEN", "value": SECRET}]},
    "pairs": {"headers": [("Authorization", SECRET), ["X-Api-Key", SECRET]]},
    "options": {"command": ["train", "--password", SECRET, f"--token={SECRET}"]},
    "overrides": [
        f"+data.extra={{api_key:{SECRET}}}",
        f"hub.password='{SECRET} x'",
        f"++a.passwords=[{SECRET},b]",
    ],
    "key": {f"https://me:{SECRET}@host": 1},
    "elsewhere": {"api_key": SECRET, "note": f"logged in with {SECRET}"},
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = json.dumps(redact({"x": CONTAINERS[name]}))
    monkeypatch.setattr(module, "_seen_secrets", set())
    kept = repr(KeptConfig().of({"x": CONTAINERS[name]}))
    for shown in (plain, kept):
        assert SECRET not in shown
        assert REDACTED in shown


def test_files_of_a_run_hold_no_secrets(tmp_path: Path) -> None:
    config = {"hub": {"api_key": SECRET}, "objects": [Settings(), Shown()]}
    ConfigTracker(tmp_path).save_config(config, overrides=[f"a.password={SECRET}"], notes=config)
    ConfigTracker(tmp_path).save_results(
        {"loss": 1.0}, error=f"cannot log in: https://me:{SECRET}@host"
    )
    model = nn.Linear(1, 1)
    CheckpointManager(tmp_path, save_interval=1).save_checkpoint(
        1,
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        [],
        config,
        extra={"state": {"api_key": SECRET}},
    )
    with MetricsLogger(tmp_path, log_interval=1) as logger:
        logger.log_metrics(
            1, {"loss": 1.0, "api_key": SECRET, "note": f"password={SECRET}", "tokens": 5}
        )
        logger.log_message(f"logged in with {SECRET}")
        assert logger.load_metrics()[0]["tokens"] == 5
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 5
    assert SECRET.encode() not in b"".join(written)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["error"] == f"cannot log in: https://me:{REDACTED}@host"


def test_numbers_are_secrets_only_under_passwords() -> None:
    numbers = {"token": 5, "tokens": 10**9, "api_key": 1.5, "secret": True, "password": False}
    assert redact(numbers) == numbers
    assert redact({"password": 1234, "pin": 1234, "max_pin": 3}) == {
        "password": REDACTED, "pin": REDACTED, "max_pin": 3,
    }  # fmt: skip


def test_ordinary_research_text_stays() -> None:
    value = {
        "token": "the", "tokens": ["the", " cat", "sat"], "top": [{"token": " wonderful", "p": 0.5}],
        "pad_token": "<pad>", "next_token": "abcdef123", "class_token": "learned", "budget": {"tokens": "10B"},
        "loss": [1, 2.5, None, True, "text=x"], "key": "val_loss", "sort_key": "learning_rate", "n_keys": 4,
        "commit": "3cd44cc9b09116bae99e1d715e16b9a79a8a97cf", "url": "s3://bucket/folder", "git": "ssh://git@host/x",
        "fp": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "auth": "none",
        "text": "unexpected token: something, basic training of bearer tokens; key=value12345",
        "password": None, "hub": {"token": "${oc.env:HF_TOKEN}"}, "tokenizer": {"_target_": "spectral_exp.data.Bytes"},
        "_target_": "spectral_exp.data.TokenData",
    }  # fmt: skip
    assert redact(value) == value


def test_values_without_secrets_are_returned_as_they_are() -> None:
    state = nn.Linear(2, 2).state_dict()
    value = {"weights": state, "list": [1, "x"], "ordered": OrderedDict(a=1)}
    assert without_secrets(value) is value
    assert hasattr(without_secrets({"weights": state, "password": "x"})["weights"], "_metadata")


def test_a_cycle_ends() -> None:
    node = types.SimpleNamespace(api_key=SECRET)
    node.parent = node
    assert redact(node) == {"api_key": REDACTED, "parent": CIRCULAR}


# --- text -----------------------------------------------------------------------------------------

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIB{0}\n{0}\n-----END RSA PRIVATE KEY-----"
TEXTS = [
    '{{"api_key": "{0}"}}', '{{"a": {{"tokens": {{"hf": "{0}"}}}}}}', '{{\\"api_key\\": \\"{0}\\"}}',
    "{{'password': '{0}', 'x': 1}}", "Settings(lr=0.1, api_key='{0}')", "Namespace(tokens={{'hf': '{0}'}})",
    "api_key: {0}\nlr: 1", "passwords:\n  - {0}\n  - a{0}\nlr: 2", "a:\n  tokens:\n    hf: {0}\n  b: 1",
    "a:\n  api_keys:\n  - {0}\n  b: 1", "key: |\n  x\npassword: |\n  {0}\n  {0}\n", "password: correct {0} battery",
    "+data.extra={{api_key:{0}}}", "x={{a:{{password:{0}}}}}", "DB_PASS={0}", "export PGPASSWORD={0}; run",
    "password = {0}", "password='it''{0}'", 'password="a\\"{0}"', 'api_key="""{0}"""', "password=a,{0}",
    "login with (password={0})", "train --password {0}", "train --api-key={0} x", "curl -u me:{0} host",
    "['--password', '{0}']", "[('api_key', '{0}')]", "Authorization: Bearer {0}", "authorization=Basic {0}==",
    "curl -H 'Authorization: token {0}' https://host", "Bearer {0}", "Cookie: a={0}; b=2", "Set-Cookie: sid={0}",
    "https://me:{0}@host/x", "https://{0}@github.com/x", "postgres://u:{0}@h:1/db", "redis://:{0}@h",
    "https://h/x?X-Amz-Signature={0}&a=1", "https://h?a=1&sig={0}", "https://h/?token={0}", "https://h#access_token={0}",
    "https://h/?key={0}", "AccountName=x;AccountKey={0}==;E=1", "https://hooks.slack.com/services/T0/B0/{0}", PEM,
    "-----BEGIN OPENSSH PRIVATE KEY-----\\n{0}", "a secret_key={0}.", "<a password='{0}'>", "X-Api-Key: {0}",
]  # fmt: skip
TOKENS = [
    "ghp_0123456789abcdefghijABCDEFGHIJ012345", "github_pat_11ABCDEFG0123456789_abcdefghij",
    "sk-proj-abc123def456ghi789jkl",
    "hf_abcdefghijKLMNOPQRSTuvwxyz0123", "AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE", "xoxb-123456789012-abcdefghij",
    "glpat-abcdefghij0123456789", "AIzaSyA0123456789abcdefghijklmnopqrstuv", "npm_abcdefghijklmnopqrstuvwxyz0123456789",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "sk_live_0123456789abcdefABCDEF", "ya29.a0AfH6SMBx0123456789", "SG.abcdefghijklmnop.qrstuvwxyz0123456789",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_texts(text: str) -> None:
    shown = redact_text(text.format(SECRET))
    assert SECRET not in shown
    assert REDACTED in shown
    assert redact_text(shown) == shown


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("text", ["{}", "x={}", "'{}'", "a ({}), b", "https://host/{}/x"])
def test_known_shapes(token: str, text: str) -> None:
    shown = redact_text(text.format(token))
    assert token not in shown
    assert REDACTED in shown


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.recursive(
    st.sampled_from([SECRET, "x", 1, None, f"password={SECRET}", f"a: {{b: {SECRET}}}"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "lr", "items", "note", "api_key", "b.c"]), inner, max_size=3),
    ),
))  # fmt: skip
def test_any_nesting_below_a_secret_name_is_hidden(value: Any) -> None:
    redacted = redact({"credentials": value, "plain": 1})
    assert SECRET not in json.dumps(redacted)
    assert redact(redacted) == redacted


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet="abz019 =:,;'\"{}[]()\\\n-_.@/<>", max_size=60))
def test_any_text_is_stable_and_keeps_its_lines_without_secrets(text: str) -> None:
    assert redact_text(text, []) == text
    shown = redact_text(f"{text}\npassword={SECRET}", [])
    assert SECRET not in shown
    assert redact_text(shown, []) == shown


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    every_in_ci(
        4,
        [
            "a", "a=", "a-", "eyJaaaaaaaaa-", "://a:", "\\", "((", ")", "token={", "a:\n", "password=", "sk-", "' ", "-- ",
            "x,",
        ],
    ),
)  # fmt: skip
def test_long_texts_take_time_in_proportion(unit: str) -> None:
    # With a search of quadratic time this would take hours.
    shown = redact_text(unit * (500_000 // len(unit)) + f"\npassword: {SECRET}")
    assert SECRET not in shown


# --- where they come from -------------------------------------------------------------------------


def test_values_of_the_environment_are_hidden_in_every_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DB_PASS", 'p@ss "word/1')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/usr")
    monkeypatch.setenv("SOME_TOKEN", "true")
    for text in (
        'x p@ss "word/1',
        "https://h/p%40ss%20%22word%2F1/x",
        json.dumps({"a": 'p@ss "word/1'}),
    ):
        assert "ss" not in redact_text(text).replace("https", "")
    assert redact({"folder": "/usr", "flag": "true"}) == {"folder": "/usr", "flag": "true"}


@pytest.mark.parametrize(
    "names", [("Name", "Value"), ("name", "val"), ("variable", "value"), ("KEY", "VALUE")]
)
def test_a_list_of_variables_hides_their_values(names: tuple[str, str]) -> None:
    name, value = names
    assert redact([{name: "API_KEY", value: "q7Zr9KdT2mXw"}]) == [
        {name: "API_KEY", value: REDACTED}
    ]
