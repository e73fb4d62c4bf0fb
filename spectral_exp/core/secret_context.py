"""Find secrets in text that their context names: XML elements, pairs of name and value, accounts,
`.netrc` files, SQL, and sentences.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from spectral_exp.core.secret_names import Secrecy, secrecy
from spectral_exp.core.secret_values import REDACTED, is_hidden_value, replace_group

_QUOTE = r"\\{0,8}[\"']"
_IS = rf"(?:{_QUOTE})?\s{{0,4}}(?:=>?|:)\s{{0,4}}"
_NAME = r"[A-Za-z_$][\w.:-]{0,80}"
_VALUE = (
    rf"(?:(?P<open>{_QUOTE})(?P<quoted>(?:(?!(?P=open))[^\n]){{1,500}})"
    r"|(?P<bare>[^\s,;<>{}\[\]()\"'\\]{1,500}))"
)

_START = r"(?:(?<![\w.])|(?<=\\[nrt]))"
_NAME_KEY = rf"{_START}(?:{_QUOTE})?(?:name|key|variable){_IS}"
_VALUE_KEY = rf"{_START}(?:{_QUOTE})?(?:value|val|content){_IS}"
_NAMED = (
    rf"(?:{_NAME_KEY}(?:{_QUOTE})?(?P<name>{_NAME})"
    rf"|(?<![\w.])(?:{_QUOTE})?type{_IS}(?:{_QUOTE})?(?P<type>password))"
)
_NAME_FIRST = re.compile(
    rf"{_NAMED}(?![\w.:-])(?:(?!{_NAME_KEY}|{_VALUE_KEY})[^<>{{}}\[\]]){{0,80}}{_VALUE_KEY}"
    rf"{_VALUE}",
    re.IGNORECASE,
)
"""`name: HF_TOKEN, value: X`, `key="password" value="X"`."""
_VALUE_FIRST = re.compile(
    rf"{_VALUE_KEY}{_VALUE}(?:(?!{_NAME_KEY}|{_VALUE_KEY})[^<>{{}}\[\]]){{0,60}}{_NAMED}",
    re.IGNORECASE,
)
"""`value: X, name: HF_TOKEN`."""
_ACCOUNT = re.compile(
    rf"(?<!\w)(?:user|user_?name|login|email|secret){_IS}(?:{_QUOTE})?[^\s,;\"'{{}}]{{1,100}}"
    rf"(?:{_QUOTE})?(?:[,; \t]|\\n){{0,9}}(?:\n[ \t]{{0,40}})?(?:{_QUOTE})?"
    rf"\b(?P<name>key|pass|pw){_IS}{_VALUE}",
    re.IGNORECASE,
)
"""`user: me, pass: X`, `login=me key=X`."""
_OWNED_KEY = re.compile(
    rf"(?<!\w)(?P<name>\w{{2,30}})(?:{_IS}\{{|(?:\.\w{{1,20}})?\.(?:login|authenticate)\("
    r"|:[ \t]*\n[ \t]{1,40})"
    rf"(?:(?!\bkey\b)[^{{}}\[\]()]){{0,80}}\bkey{_IS}{_VALUE}",
    re.IGNORECASE,
)
"""`openai: {key: X}`, `wandb.login(key=X)`."""
_ELEMENT = re.compile(
    r"<(?P<tag>[A-Za-z_][\w.:-]{0,80})(?P<attributes>\s[^<>]{0,300})?>"
    r"(?P<quoted><!\[CDATA\[[^\]]{1,2000}\]\]>|[^<>]{1,2000})(?=</)"
)
"""`<password>X</password>`, `<value name="token">X</value>`."""
_ESCAPED_ELEMENT = re.compile(
    r"&lt;(?P<tag>[A-Za-z_][\w.:-]{0,80})(?P<attributes>\s[^<>&]{0,300})?&gt;"
    r"(?P<quoted>[^<>&]{1,2000})(?=&lt;/)"
)
"""The same in escaped XML: `&lt;password&gt;X&lt;/password&gt;`."""
_PLIST = re.compile(r"<key>(?P<name>[^<>]{1,80})</key>\s{0,20}<string>(?P<quoted>[^<>]{1,2000})")
"""`<key>API Key</key><string>X</string>`."""
_ATTRIBUTE_NAME = re.compile(r"\b(?:name|key|id)=\\{0,8}[\"']([^\"'\\]{1,80})")
_BLANK = r"(?:\s|\\{1,8}[nrt]){1,9}"
_NETRC = re.compile(
    r"(?:(?<![\w-])|(?<=\\[nrt]))"
    rf"((?:login|user|account){_BLANK}[^\s=:\\]{{1,200}}{_BLANK}passw(?:or)?d{_BLANK}[\"']?)"
    r"(?P<bare>[^\s\"'\\]{1,500})(?<![:=])(?![^\s\"'\\])",
    re.IGNORECASE,
)
"""`machine host login me password X`."""
_SQL = re.compile(
    r"\b((?:ConvertTo-SecureString(?:\s{1,9}-String)?|"
    r"IDENTIFIED\s{1,9}(?:WITH\s{1,9}\S{1,60}\s{1,9})?BY|PASSWORD)\s{1,9}['\"])"
    r"(?P<quoted>[^'\"\n]{1,500})"
)
"""`IDENTIFIED BY 'X'`, `ConvertTo-SecureString 'X'`."""
_CALL = re.compile(
    rf"\b(?:login|\w{{0,20}}Auth)\(\s{{0,9}}{_QUOTE}[^\"'\n]{{1,200}}{_QUOTE},\s{{0,9}}"
    rf"(?P<open>{_QUOTE})(?P<quoted>(?:(?!(?P=open))[^\n]){{1,500}})"
    rf"|\bSecret(?:Str|Bytes)\(b?(?P<open2>{_QUOTE})"
    rf"(?P<bare>(?:(?!(?P=open2))[^\n]){{1,500}})"
)
"""`login("me", "X")`, `HTTPBasicAuth("me", "X")`, `SecretStr("X")`."""
_LOGIN_CALL = re.compile(
    rf"(?<!\w)login\(\s{{0,9}}(?P<open>{_QUOTE})(?P<quoted>(?:(?!(?P=open))[^\n]){{1,500}})"
)
"""`login("X")`."""
_SENTENCE = re.compile(
    r"(?<![\w-])(?P<name>(?:api|access|secret|private|auth|account|client|license)[ -]"
    r"(?:key|token|secret)|pass(?:word|wd|phrase)|secret|token)"
    r"(?:[ ](?:is|was|provided|given|used|for[ ][^\s:]{1,60}))?"
    r"[ \t]{0,3}[:=]?[ \t]{1,3}(?:is:?[ ])?"
    rf"(?:(?P<open>{_QUOTE}|`)(?P<quoted>(?:(?!(?P=open))[^\n]){{1,500}})"
    r"|(?P<bare>[^\s\"'`<>\\]{1,500}))",
    re.IGNORECASE,
)
"""`the password is X`, `API key provided: X`."""
_END_OF_SENTENCE = ".,:;!?)]}"


def hide_named_around(text: str) -> str:
    """Replace the secrets in a text that an element, pair or sentence names."""
    for hint, expression, hide in _FORMS:
        if hint.search(text):
            text = expression.sub(hide, text)
    return text


def _hide(match: re.Match[str], level: Secrecy) -> str:
    """Return the match, with `REDACTED` in place of its value if that is a secret."""
    group = "quoted" if match.groupdict().get("quoted") is not None else "bare"
    return replace_group(match, group) if is_hidden_value(match[group].strip(), level) else match[0]


def _hide_by_name(match: re.Match[str]) -> str:
    return _hide(match, secrecy(match["name"] or match["type"]))


def _hide_plist(match: re.Match[str]) -> str:
    return _hide(match, secrecy(match["name"].replace(" ", "_")))


def _hide_element(match: re.Match[str]) -> str:
    level = secrecy(match["tag"].rpartition(":")[2])
    if name := _ATTRIBUTE_NAME.search(match["attributes"] or ""):
        level = max(level, secrecy(name[1]))
    return _hide(match, level)


def _hide_of_account(match: re.Match[str]) -> str:
    return _hide(match, Secrecy.POSSIBLE if match["name"].lower() == "key" else Secrecy.PASSWORD)


def _hide_owned_key(match: re.Match[str]) -> str:
    return _hide(match, secrecy(f"{match['name']}.key"))


def _hide_always(match: re.Match[str]) -> str:
    return _hide(match, Secrecy.PASSWORD)


def _hide_if_random(match: re.Match[str]) -> str:
    return _hide(match, Secrecy.POSSIBLE)


def _hide_of_netrc(match: re.Match[str]) -> str:
    # A sentence may have the same form: "the user x password is wrong".
    is_word = match["bare"].rstrip(_END_OF_SENTENCE).isalpha() and match["bare"].islower()
    return match[0] if is_word and len(match["bare"]) < 8 else _hide(match, Secrecy.PASSWORD)


def _hide_in_sentence(match: re.Match[str]) -> str:
    name = match["name"].lower()
    level = Secrecy.UNLIKELY if name == "token" else Secrecy.POSSIBLE
    if match["bare"] is None:
        return _hide(match, level)
    value = match["bare"].rstrip(_END_OF_SENTENCE)
    if not is_hidden_value(value, level):
        return match[0]
    start = match.start("bare") - match.start()
    return match[0][:start] + REDACTED + match[0][start + len(value) :]


def _hint(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.IGNORECASE)


_FORMS: tuple[tuple[re.Pattern[str], re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (_hint("</"), _ELEMENT, _hide_element),
    (_hint("&lt;/"), _ESCAPED_ELEMENT, _hide_element),
    (_hint("</key>"), _PLIST, _hide_plist),
    (_hint("val|content"), _NAME_FIRST, _hide_by_name),
    (_hint("val|content"), _VALUE_FIRST, _hide_by_name),
    (_hint("user|login|email|secret"), _ACCOUNT, _hide_of_account),
    (_hint(r"\bkey\b"), _OWNED_KEY, _hide_owned_key),
    (_hint(r"(?:login|auth|str|bytes)\("), _CALL, _hide_always),
    (_hint(r"login\("), _LOGIN_CALL, _hide_if_random),
    (_hint("passw"), _NETRC, _hide_of_netrc),
    (_hint("password|identified|securestring"), _SQL, _hide_always),
    (_hint("pass|secret|token|key"), _SENTENCE, _hide_in_sentence),
)
"""For each form of secret: a fast pre-test of the text, the form, and the replacement."""
