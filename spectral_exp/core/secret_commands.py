"""Find secrets on command lines, in text and in argument lists: `mysql -pX`, `curl -u me:X`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from spectral_exp.core.secret_names import Secrecy, is_secret_name, secrecy, words
from spectral_exp.core.secret_values import (
    REDACTED,
    is_hidden_number,
    is_hidden_value,
    is_hidden_word,
    replace_group,
)

_PASSWORD_FLAGS = {
    **dict.fromkeys(
        words(
            "7z 7za cqlsh mariadb mariadb-dump mongo mongodump mongoexport mongoimport mongorestore"
            " mongosh mysql mysqladmin mysqldump mysqlimport mysqlsh psql sshpass twine"
        ),
        "-p",
    ),
    **dict.fromkeys(words("bcp sqlcmd unzip zip"), "-P"),
    **dict.fromkeys(words("ldapadd ldapdelete ldapmodify ldapsearch ldapwhoami"), "-w"),
    "redis-cli": "-a",
    "ssh-keygen": "-N",
}
"""Program -> the option that takes a password."""
_LOGIN_FLAGS = dict.fromkeys(words("az buildah docker helm nerdctl oc podman skopeo"), "-p")
"""The same for programs in which only the subcommand `login` takes a password."""
_USER_FLAGS = {
    **dict.fromkeys(("curl", "http", "https", "lftp"), ("-u", "-U", "-a")),
    "smbclient": ("-U",),
}
"""Program -> the options that take a user name and a password, separated by a sign."""
_SERVICES = (
    "wandb", "comet", "neptune", "clearml", "dagshub", "kaggle",
    "hf", "huggingface-cli", "vault",
)  # fmt: skip
"""Programs whose subcommand `login` takes an access token."""
_SIGNS = re.compile(r"[:%].")
_LETTERS_AND_DIGITS = re.compile(r"(?=.{6})(?=\D*\d)[\w-]*[A-Za-z][\w-]*")
_PORT = re.compile(r"\d{1,5}")
_USER_OPTIONS = ("--user", "--proxy-user")
_LOGIN = re.compile(r"[^\s:]+:\S+")
_IDS = re.compile(r"\d+:\d+")

_QUOTE = r"\\{0,8}[\"']"
_GAP = r"(?:[\"'\\]{0,9}(?:[ \t,]|\\\n){1,9})[\"'\\]{0,9}"
_VALUE = r"(?:(?!=)[^\s\"'\\,;]+)"
_PROGRAMS = "|".join(
    sorted(map(re.escape, {*_PASSWORD_FLAGS, *_LOGIN_FLAGS, *_USER_FLAGS}), key=len, reverse=True)
)
_PROGRAM = rf"(?<![\w.-])(?:{_PROGRAMS})(?![\w.:/-])"
_COMMAND = re.compile(rf"({_PROGRAM})((?:(?!&&|{_PROGRAM})[^\n|;])*)")
_FLAG = re.compile(
    rf"(?<![\w-])(?P<flag>-(?:[A-Za-z]{{1,6}}(?=[uU]\b))?[A-Za-z])(?:{_GAP}|=)?(?!-)"
    rf"(?P<open>{_QUOTE})?"
    rf"(?P<value>(?(open)[^\"'\\\n]+|{_VALUE}))"
)
_OPTION = re.compile(
    r"(?<![\w-])(?P<name>--?[A-Za-z][\w.-]{0,60})(?P<gap>[ \t]+)(?!-)"
    rf"(?:(?P<open>{_QUOTE})(?P<quoted>(?:(?!(?P=open))[^\n]){{1,500}})|(?P<bare>[^\s\"'\\]+))"
)
_LOGIN_OPTION = re.compile(
    rf"(?<![\w-])(--(?:proxy-)?user(?:{_GAP}|=[\"']?))(?![\d]+:\d)"
    r"([^\s:\"'\\,]{1,200}:[^\s\"'\\]+)"
)
_SETTING = re.compile(
    r"(?<![\w-])((?:setenv|setx|set\s{1,4}-\w{1,3}|ENV|ARG|configure[\"',\s]{1,6}set"
    rf"|config(?:{_GAP}--?\w{{1,20}}){{0,3}}(?:{_GAP}set)?){_GAP}|[Ee]nv:)"
    rf"(?P<name>[A-Za-z_/][\w./:-]{{0,100}})(?P<gap>{_GAP})(?P<value>{_VALUE})"
)
_SERVICE_LOGIN = re.compile(
    rf"(?<![\w-])((?:{'|'.join(_SERVICES)}){_GAP}"
    rf"(?:auth{_GAP})?login(?:{_GAP}--?[\w-]{{1,30}}(?:=[^\s\"']{{1,100}})?){{0,4}}{_GAP})"
    rf"({_VALUE})"
)
_PIPED = re.compile(
    r"(\becho\s+(?:-n\s+)?)(\\{0,8}\"[^\"\n|]+\"|'[^'\n|]+'|[^\s|\"']+)"
    r"(?=\s*\|[^\n|]{0,80}(?:--password-stdin|sudo\s+-S|\blogin\b))"
)
_COOKIE = re.compile(
    rf"(?<![\w-])((?:-b|--cookie)(?:{_GAP}|=[\"']?)[\w.-]{{1,60}}=)([^\s;\"'\\]{{6,}})"
)
_PASS_ARGUMENT = re.compile(r"(-pass(?:in|out)?\s+pass:)([^\s\"']+)")


def hide_arguments(text: str) -> str:
    """Replace the secrets of command lines in a text."""
    text = _COMMAND.sub(_hide_in_command, text)
    text = _SETTING.sub(_hide_setting, text)
    if "login" in text:
        text = _SERVICE_LOGIN.sub(_hide_second, text)
    if "echo" in text:
        text = _PIPED.sub(rf"\g<1>{REDACTED}", text)
    text = _PASS_ARGUMENT.sub(rf"\g<1>{REDACTED}", text)
    text = _COOKIE.sub(_hide_second, text)
    text = _OPTION.sub(_hide_option, text)
    return _LOGIN_OPTION.sub(rf"\g<1>{REDACTED}", text)


def hidden_arguments(items: Sequence[Any]) -> Iterator[tuple[int, str]]:
    """Yield (position, replacement) of each secret in a list of arguments or in a pair."""
    # Comparing a string with an array may raise.
    texts = [item if isinstance(item, str) else "" for item in items]
    if not any(texts):
        return
    for position, value in enumerate(items[1:]):
        if texts[position] and _is_named_secret(texts[position], value, len(items)):
            yield position + 1, REDACTED
    yield from _hidden_logins(texts)
    yield from _hidden_flags(texts)


def _hidden_logins(texts: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield access tokens after the name of a service: `wandb login X`."""
    for position in range(len(texts) - 2):
        service, command, token = texts[position : position + 3]
        if service in _SERVICES and command == "login" and is_hidden_value(token, Secrecy.POSSIBLE):
            yield position + 2, REDACTED


def _hidden_flags(texts: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield passwords after a one-letter option of a known program: `mysql -pX`."""
    program = ""
    is_login = "login" in texts
    for position, text in enumerate(texts):
        name = text.rpartition("/")[2]
        if name in _PASSWORD_FLAGS or name in _LOGIN_FLAGS or name in _USER_FLAGS:
            program = name
        elif program and text.startswith("-"):
            value = text[2:] or "".join(texts[position + 1 : position + 2])
            is_hidden = _is_secret_argument(program, text[:2], value, is_login)
            if is_hidden and value != REDACTED:
                yield (position, text[:2] + REDACTED) if text[2:] else (position + 1, REDACTED)
            program = "" if is_hidden and program not in _USER_FLAGS else program


def _is_named_secret(name: str, value: Any, n_items: int) -> bool:
    """Return whether a value is a secret because of the preceding item, an option or a name."""
    level = secrecy(name.lstrip("-"))
    is_option = name.startswith("-") and "=" not in name
    if not is_option and not (n_items == 2 and level >= Secrecy.CERTAIN):
        return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        return is_hidden_number(value, level)
    if not isinstance(value, str):
        return False
    if is_option:
        is_login = name in _USER_OPTIONS and _LOGIN.fullmatch(value) and not _IDS.fullmatch(value)
        return bool(is_login) or _is_hidden_option(value, level)
    return is_hidden_value(value, level) and not is_secret_name(value)


def _is_hidden_option(value: str, level: Secrecy) -> bool:
    """Return whether the value of an option is a secret; `--token` never names a token of text."""
    if is_hidden_word(value, level):
        return True
    return level is Secrecy.POSSIBLE and _LETTERS_AND_DIGITS.fullmatch(value) is not None


def _is_secret_argument(program: str, flag: str, value: str, is_login: bool) -> bool:
    if value.startswith("-") or not any(map(str.isalnum, value)):
        return False
    if flag in _USER_FLAGS.get(program, ()):
        return _SIGNS.search(value) is not None and not _IDS.fullmatch(value)
    if flag == _PASSWORD_FLAGS.get(program):
        return program != "psql" or not _PORT.fullmatch(value)
    return is_login and flag == _LOGIN_FLAGS.get(program)


def _hide_in_command(match: re.Match[str]) -> str:
    program, rest = match[1], match[2]
    is_login = "login" in rest
    for option in _FLAG.finditer(rest):
        if _is_secret_argument(program, "-" + option["flag"][-1], option["value"], is_login):
            if option["value"] == REDACTED:
                break
            start, end = option.span("value")
            return f"{program}{rest[:start]}{REDACTED}{rest[end:]}"
    return match[0]


def _hide_option(match: re.Match[str]) -> str:
    group = "quoted" if match["open"] else "bare"
    is_hidden = _is_hidden_option(match[group], secrecy(match["name"].lstrip("-")))
    return replace_group(match, group) if is_hidden else match[0]


def _hide_setting(match: re.Match[str]) -> str:
    name = re.split(r"[/:]", match["name"])[-1]
    is_hidden = is_hidden_value(match["value"], secrecy(name))
    return replace_group(match, "value") if is_hidden else match[0]


def _hide_second(match: re.Match[str]) -> str:
    is_hidden = is_hidden_value(match[2], Secrecy.POSSIBLE)
    return replace_group(match, 2) if is_hidden else match[0]
