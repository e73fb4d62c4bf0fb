"""Secrets are found in the forms in which tools write them, and ordinary settings stay as they
are."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectral_exp.core import redact as module
from spectral_exp.core.json_value import jsonable
from spectral_exp.core.redact import (
    REDACTED,
    is_secret_name,
    redact,
    redact_code,
    redact_text,
    with_fields,
    without_secrets,
)
from spectral_exp.core.secret_names import Secrecy, secrecy
from spectral_exp.monitoring.tracking import environment
from tests.conftest import compose, every_in_ci

SECRETS = ("Zq8hunter2XY", "9f86d081884c7d659a2feaa0c55ad015")
LONG_NUMBER = 123456789012
EXPERIMENTS = sorted(path.stem for path in Path("conf/experiment").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the secrets of the environment and of other tests."""
    monkeypatch.setattr(module, "_seen_secrets", set())
    for name in filter(is_secret_name, list(os.environ)):
        monkeypatch.delenv(name)


def _forms(name: str) -> list[str]:
    lines = Path(__file__).with_name(name).read_text().splitlines()
    return [
        line.replace("\\n", "\n").replace("\\t", "\t")
        for line in lines
        if not line.startswith("# ")
    ]


def _surroundings(text: str) -> list[Any]:
    """A text alone, in a log, in a file, in a record, in arguments and in JSON inside a string."""
    lines = [text, f"2026-11-26 INFO train: {text}", f"lr: 1\n{text}\nsteps: 1"]
    return [*lines, {"note": text}, ["run", text], {"a": json.dumps({"b": text})}]


# --- text -----------------------------------------------------------------------------------------


def test_no_form_of_a_secret_leaks() -> None:
    leaking, unstable = [], []
    for form in _forms("hidden_forms.txt"):
        for value in [*_surroundings(form.format(SECRETS[0])), form.format(SECRETS[1])]:
            module._seen_secrets.clear()
            shown = redact_text(value, []) if isinstance(value, str) else redact(value)
            if any(secret in json.dumps(shown) for secret in SECRETS):
                leaking.append((form, value))
            elif isinstance(shown, str) and redact_text(shown, []) != shown:
                unstable.append((form, shown))
    assert leaking == []
    assert unstable == []


def test_no_plain_form_is_changed() -> None:
    changed = []
    for form in _forms("plain_forms.txt"):
        for value in _surroundings(form):
            shown = redact_text(value) if isinstance(value, str) else redact(value)
            if shown != value:
                changed.append((form, shown))
    assert changed == []


def test_text_after_a_secret_stays() -> None:
    for form in _forms("hidden_forms.txt"):
        text = redact_text(f"lr: 1\n{form.format(SECRETS[0])}\nsteps: 1")
        assert text.startswith("lr: 1\n")
        assert text.endswith("\nsteps: 1")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('os.environ["HF_TOKEN"] = "{0}"', 'os.environ["HF_TOKEN"] = "{1}"'),
        ('os.environ.setdefault("HF_TOKEN", "{0}")', 'os.environ.setdefault("HF_TOKEN", "{1}")'),
        ("login(password='{0}', user=me)", "login(password='{1}', user=me)"),
        ('names = ["password", "user_name"]', 'names = ["password", "user_name"]'),
        ('MODEL_KEY = "gpt2-small"', 'MODEL_KEY = "gpt2-small"'),
        ("password = ask(user)[0]", "password = ask(user)[0]"),
        ('url = f"https://me:{{token}}@host"', 'url = f"https://me:{{token}}@host"'),
    ],
)
def test_in_code_only_literals_are_hidden(code: str, expected: str) -> None:
    assert redact_code(code.format(SECRETS[0]), []) == expected.format(SECRETS[0], REDACTED)


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    every_in_ci(4, [
        "://a:b@", "password: a\n", "password: a ", "token=f(", "token: str = ", "name=a ", "value=a ", "name=token,",
        'value="', "user=a,key=", "login a password ", "<password>", "<password a", "<key>", "mysql -a", "curl -u a ",
        "config --a ", "echo a|", "-p ", '("token","', "token%3D", "%3A%2F%2Fa%3A", "password is ", 'token "',
        "wandb login --a ", "openai: {", "<Cookie a=", ";PWD=", ":thin:a/", 'password=\\"', "{password=", "password=$(",
        "password={{", "password: Optional[", "a.token.", "token=a&", "token=a\\n", "b'", "token=`", "Digest ",
    ]),
)  # fmt: skip
def test_long_texts_take_time_in_proportion(unit: str) -> None:
    # With a search of quadratic time this would take hours.
    shown = redact_text(unit * (300_000 // len(unit)) + f"\npassword: {SECRETS[0]}")
    assert SECRETS[0] not in shown


# --- values ---------------------------------------------------------------------------------------

BELOW_A_PASSWORD = st.recursive(
    st.integers(10**5, 10**12) | st.floats(1e5, 1e6),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "db", "value"]), inner, min_size=1, max_size=2)
        | st.tuples(inner)
    ),
    max_leaves=5,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(BELOW_A_PASSWORD, st.sampled_from(["password", "DB_PASS", "pins", "db.pwd", "userPassword"]))
def test_every_number_below_a_password_is_hidden(value: Any, name: str) -> None:
    for shown in (redact({name: value}), without_secrets({name: value})):
        assert not any(character.isdigit() for character in json.dumps(shown))


def test_long_numbers_under_names_of_keys_are_hidden() -> None:
    for name in ("api_key", "secret", "hf_token", "client_secret", "csrf", "account_key"):
        for value in (
            {name: LONG_NUMBER},
            {name: [LONG_NUMBER]},
            {"name": name, "value": LONG_NUMBER},
        ):
            assert str(LONG_NUMBER) not in json.dumps(redact(value)), value
        assert redact({name: 12}) == {name: 12}
    counts = {
        "tokens": LONG_NUMBER,
        "api_tokens": LONG_NUMBER,
        "secret_size": LONG_NUMBER,
        "PRNG_KEY": LONG_NUMBER,
    }
    assert redact(counts) == counts
    assert redact({"password": {"length": 12, "max_attempts": 3}}) == {
        "password": {"length": 12, "max_attempts": 3}
    }


def _records(secret: str) -> list[Any]:
    return [
        {"login": {"user": "me", "pw": secret}}, {"user": "me", "pass": secret}, {"username": "me", "key": secret},
        {"token": {"name": "x", "value": secret}}, {"value": secret, "name": "DB_PASSWORD"}, {"session_id": secret},
        {"openai": {"key": secret}}, {"hub": {"token": secret}}, {"acme_key": secret}, {"cookies": {"a": secret}},
        {"api_key": secret.encode()}, {"password": [bytearray(secret.encode())]}, {"auth": ["me", secret]},
        ["mysql", "-u", "root", f"-p{secret}"], ["sshpass", "-p", secret, "ssh", "-p", "2222"],
        ["/usr/bin/curl", "-u", f"me:{secret}"], ["curl", f"-ume:{secret}"],
        ["curl", "--user", f"me:{secret}"], ["docker", "login", "-p", secret],
        ["wandb", "login", secret], ["redis-cli", "-a", secret], ["run", "--hf-token", secret],
        ["run", "--token", secret],
        argparse.Namespace(db=argparse.Namespace(password=secret)), {"key": "api_key", "value": secret},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "secret", ["Zq8hunter2XY", "9f86d081884c7d659a2feaa0c55ad015", "0123456789abcdef0123"]
)
def test_records_and_arguments(secret: str) -> None:
    for record in _records(secret):
        for redacted in (redact, lambda value: without_secrets(with_fields(value))):
            module._seen_secrets.clear()
            assert secret not in repr(redacted(record)), record


ORDINARY = [
    {"PRNG_KEY": "threefry2x32", "SEED_KEY": "42", "BATCH_KEY": "input_ids", "MODEL_KEY": "meta-llama/Llama-3-8B"},
    {"TEXT_KEY": "content_v2", "CKPT_KEY": "step_1000"}, {"pass@1": "learned", "pass@10": 0.9}, {"encoder_pass": 2},
    {"encoder_pass": "second"}, {"next_token": "abc123def"}, {"key": "Zq8hunter2XY"}, {"n_keys": 123456789},
    {"top": [{"token": "Gloucester", "p": 0.5}, {"token": "state-of-the-art", "p": 0.1}]},
    {"tokens": ["Hello", "Shakespeare", "ROMEO:", "1234567"]}, {"token": {"text": "Hello", "id": 5}},
    {"run_id": "Zm9vYmFyMTIz", "id": "b64Zm9vYmFyMTIzQQ=="}, {"user": "me", "key": "loss"}, {"csrf": "disabled"},
    {"packages": {"PyJWT": "2.8.0", "google-auth": "2.23.4", "cookiecutter": "2.5.0"}}, {"s3": {"key": "a/b-v2.bin"}},
    ["srun", "-p", "gpu-a100", "python", "-u", "train.py"],
    ["docker", "run", "-p", "8080:80", "--user", "1000:1000"], ["psql", "-p", "5432"],
    {"login": {"user": "me", "host": "h1.cluster.org"}}, {"session": {"id": 3}}, {"session_id": "train-01"},
]  # fmt: skip


@pytest.mark.parametrize("value", ORDINARY, ids=str)
def test_ordinary_values_stay(value: Any) -> None:
    assert redact(value) == value
    for text in (json.dumps(value), repr(value)):
        assert redact_text(text) == text


def test_arrays_beside_texts_are_kept() -> None:
    values = ["login", numpy.ones(2), torch.ones(2), "--token", numpy.ones(1)]
    assert without_secrets({"x": values})["x"] is values


def test_only_certain_and_random_secrets_are_hidden_elsewhere() -> None:
    redact(
        {
            "token": "Zq8hunter2XY",
            "secret": "spectral",
            "password": "wave",
            "MODEL_KEY": "kX92mQw77abCdE51fGh2",
        }
    )
    text = "Zq8hunter2XY spectral wave kX92mQw77abCdE51fGh2"
    assert redact_text(text) == text
    redact({"api_key": "Zq8hunter2XY"})
    assert redact_text(text) == f"{REDACTED} spectral wave kX92mQw77abCdE51fGh2"


def test_ordinary_values_of_the_environment_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("MODEL_KEY", "gpt2-small"),
        ("PRNG_KEY", "threefry2x32"),
        ("CI_STEP_TOKEN", "python3"),
    ):
        monkeypatch.setenv(name, value)
    values = {"model": "gpt2-small", "generator": "threefry2x32", "tool": "python3"}
    assert redact(values) == values


def test_names_have_four_levels() -> None:
    assert secrecy("MODEL_KEY") is Secrecy.UNLIKELY
    assert secrecy("token") is Secrecy.POSSIBLE
    assert secrecy("hub.token") is Secrecy.CERTAIN
    assert secrecy("DB_PASS") is Secrecy.PASSWORD
    assert not is_secret_name("MODEL_KEY")


# --- settings of this package ---------------------------------------------------------------------


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_nothing_is_hidden_in_the_settings_of_an_experiment(experiment: str) -> None:
    config = compose(f"+experiment={experiment}")
    assert redact(config) == jsonable(config)


def test_nothing_is_hidden_in_the_recorded_environment() -> None:
    facts = {
        "command": [
            "train",
            "+experiment=wave_rgd",
            "training.max_steps=100",
            "data.text_key=content_v2",
        ],
        "hardware": environment.hardware_facts(),
        "packages": environment.package_versions(),
        "package": environment.package_facts(),
    }
    assert redact(facts) == jsonable(facts)
