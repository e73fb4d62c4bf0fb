"""Find secrets by their shape alone: private keys, access tokens, logins in URLs.

Every expression here takes time linear in the length of any text.
"""

from __future__ import annotations

import base64
import binascii
import re

from spectral_exp.core.secret_names import secrecy
from spectral_exp.core.secret_values import REDACTED, is_hidden_value, is_placeholder, replace_group

_PRIVATE_KEY = re.compile(
    r"-----BEGIN ([A-Z0-9 ]{0,40})PRIVATE KEY( BLOCK)?-----.*?"
    r"(-----END \1PRIVATE KEY( BLOCK)?-----|\Z)",
    re.DOTALL,
)
_KNOWN_TOKEN = re.compile(
    r"(?<![A-Za-z0-9_])(?:"
    r"gh[opsru]_[A-Za-z0-9]{16,}|github_pat_\w{20,}|glpat-[\w-]{16,}|gl[a-z]{2,5}-[\w-]{20,}"
    r"|(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{16,}|sk-(?=[\w-]{0,200}\d)[\w-]{16,}"
    r"|gsk_[A-Za-z0-9]{20,}"
    r"|hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}|r8_[A-Za-z0-9]{20,}|nvapi-[\w-]{20,}"
    r"|lsv2_\w{20,}|xai-[A-Za-z0-9]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,}|ya29\.[\w-]{16,}"
    r"|xox[a-z]-[\w-]{10,}|xapp-[\w-]{16,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}"
    r"|dop_v1_[a-f0-9]{32,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|(?<!-)eyJ[\w-]{8,}\.eyJ[\w-]{4,}(?:\.[\w-]*)?"
    r"|AGE-SECRET-KEY-1[A-Z0-9]{20,}"
    r")"
)
_WEBHOOK = re.compile(
    r"(?<=://)(hooks\.slack\.com/(?:services|workflows)/"
    r"|(?:[a-z]+\.)?discord(?:app)?\.com/api/webhooks/)[\w/-]+"
)
_USER = r"[^/@\s:\"'<>()\[\]{}]"
_URL_LOGIN = re.compile(
    rf"(?<=://)(?:{_USER}{{0,200}}:(?!\d{{1,5}}/)[^@\s\"'<>]{{0,500}}|{_USER}{{1,500}})(?=@)",
)
_URL_QUERY = re.compile(r"([?&#;])([\w.%-]{1,80})=([^&;\s\"'<>#\\]+)")
_SIGNED = {"sig", "signature", "key", "code", "hmac", "x-amz-credential", "x-goog-credential"}
_ENCODED_LOGIN = re.compile(
    r"(%3A%2F%2F(?:[\w.+~-]|%(?!2F|3A|40)[0-9A-F]{2}){0,200}%3A)"
    r"((?:[\w.+~!$*-]|%(?!2F|40)[0-9A-F]{2}){1,500})(?=%40)",
    re.IGNORECASE,
)
_ENCODED = re.compile(
    r"(?<!%)(?<!%[0-9A-F])([A-Za-z_][\w.-]{0,80})"
    r"((?:%(?:25)?22)?%(?:25)?(?:3D|3A)(?!%2F%2F)(?:%20|\+)?(?:%(?:25)?22)?)"
    r"((?:[\w.~+/*!$-]|%(?!(?:25)?(?:20|22|26|2C|3B|3F|5D|7D))[0-9A-F]{2}){1,500})",
    re.IGNORECASE,
)
_ORACLE_LOGIN = re.compile(r"(:thin:[\w.-]{1,100}/)[^@\s]{1,200}(?=@)")
_COOKIE_OBJECT = re.compile(r"(<Cookie [^=\s<>]{1,100}=)[^\s<>]+(?= for )")
_SHELL_PWD = re.compile(r"(;\s{0,3}PWD=)([^;\s\"'/\\][^;\s\"']*)")
_DIGEST = re.compile(
    r"(\bDigest[ \t][^\n]{0,500}?\bresponse=\\{0,8}[\"']?)[^\s\"'\\,]{1,200}", re.IGNORECASE
)
_BEARER = re.compile(r"\b(bearer)[ \t]+([\w.~+/=-]{8,})(?![\w.~+/=-]|\s?:)", re.IGNORECASE)
_BASIC = re.compile(r"\b(basic)\s+([A-Za-z0-9+/_-]{6,}={0,2})(?![\w=])", re.IGNORECASE)
_BEARER_WORDS = {"authentication", "authorization", "credential", "credentials", "required"}


def hide_shapes(text: str) -> str:
    """Replace the secrets in a text that have a known shape, under any name."""
    if "PRIVATE KEY" in text:
        text = _PRIVATE_KEY.sub(REDACTED, text)
    text = _KNOWN_TOKEN.sub(REDACTED, text)
    if "://" in text:
        text = _WEBHOOK.sub(rf"\g<1>{REDACTED}", text)
        text = _URL_LOGIN.sub(_hide_login, text)
    if ":thin:" in text:
        text = _ORACLE_LOGIN.sub(rf"\g<1>{REDACTED}", text)
    if "%" in text:
        text = _ENCODED_LOGIN.sub(rf"\g<1>{REDACTED}", text)
        text = _ENCODED.sub(_hide_encoded, text)
    if "=" in text:
        text = _URL_QUERY.sub(_hide_parameter, text)
        text = _SHELL_PWD.sub(rf"\g<1>{REDACTED}", text)
        text = _COOKIE_OBJECT.sub(rf"\g<1>{REDACTED}", text)
    if "response=" in text:
        text = _DIGEST.sub(rf"\g<1>{REDACTED}", text)
    text = _BEARER.sub(_hide_bearer, text)
    return _BASIC.sub(_hide_basic, text)


def _hide_login(match: re.Match[str]) -> str:
    # ssh://git@host names an account; a login without a password in front of a website is a token.
    scheme = match.string[max(0, match.start() - 8) : match.start() - 3]
    if is_placeholder(match[0].partition(":")[2]):
        return match[0]
    return REDACTED if ":" in match[0] or scheme.endswith(("http", "https")) else match[0]


def _hide_parameter(match: re.Match[str]) -> str:
    name, value = match[2], match[3]
    is_signature = name.lower() in _SIGNED or name.lower().endswith(("-signature", "_signature"))
    is_hidden = (is_signature and not is_placeholder(value)) or is_hidden_value(
        value, secrecy(name)
    )
    return replace_group(match, 3) if is_hidden else match[0]


def _hide_encoded(match: re.Match[str]) -> str:
    is_hidden = is_hidden_value(match[3], secrecy(match[1]))
    return replace_group(match, 3) if is_hidden else match[0]


def _hide_bearer(match: re.Match[str]) -> str:
    return match[0] if match[2].lower() in _BEARER_WORDS else f"{match[1]} {REDACTED}"


def _hide_basic(match: re.Match[str]) -> str:
    try:
        login = base64.b64decode(match[2] + "==", altchars=b"-_" if "-" in match[2] else None)
    except (binascii.Error, ValueError):
        return match[0]
    return f"{match[1]} {REDACTED}" if b":" in login and login.isascii() else match[0]
