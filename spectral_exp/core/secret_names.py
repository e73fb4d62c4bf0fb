"""Which names stand for passwords, access keys and other secrets, and which only sound like it."""

from __future__ import annotations

import functools
import re
from enum import IntEnum
from itertools import pairwise

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_PLURALS = {
    plural: plural.removesuffix("s")
    for plural in ("apikeys", "auths", "cookies", "credentials", "keys", "logins", "pins")
} | {"passwords": "password", "passphrases": "passphrase", "secrets": "secret", "tokens": "token"}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STRONG = _words(
    "apikey authorization cookie credential credentials jwt kennwort mnemonic otp passcode passphrase"
    " passwd password passwort pincode privkey pw pwd secret totp creds"
)
_GLUED = re.compile(
    r".+(password|passwd|passphrase|apikey|secretkey|accesskey|privatekey|authtoken|accesstoken)"
    r"|(db|ftp|http|imap|key|ldap|mail|mongo|my|mysql|pg|proxy|redis|smtp|sql|ssh|store|trust|user)+pass"
    r"|(access|api|auth|id|refresh|session)token|(access|account|auth|private|secret|sign)key"
    r"|(j|php|asp)?sess(ion)?id"
)
_NUMERIC = _words("kennwort otp passcode passphrase passwd password passwort pin pincode pwd")

# A name that ends or begins so describes a secret and is none: token_file, max_tokens, n_keys.
_ABOUT = _words(
    "algorithm bytes count dim dir directory enabled endpoint env expires expiry field file filename"
    " folder format helper hint kind len length lifetime limit max min mode name path policy"
    " prompt provider rate required scheme size source store timeout ttl type uri url version"
)
_COUNTS = _words("count is has max mean median min n num number per sum total use uses")

# Tokens that a language model reads and writes: eos_token, next_token.
_TEXT_TOKENS = _words(
    "added additional assistant audio batch begin bos byte cached char class cls code completion"
    " consumed context control current decoder delimiter doc document draft each empty encoder end"
    " eod eom eop eos eot eval every extra fim first generated image img input instruction label"
    " language last len mask masked max min modality new newline next noise num of output pad"
    " padding patch per prefix prev previous prompt query reasoning register reserved response"
    " sampled seen sentence sep separator sink space special start stop sub subword suffix system"
    " target task test text thinking tool total train trained training unique unk unknown unused"
    " user val valid validation video vision vocab warmup word"
)
_ACCESS_TOKENS = _words(
    "access api app auth azure bearer bot ci client comet csrf deploy discord gh git github gitlab"
    " gl hf hub huggingface id identity login neptune npm oauth personal private pypi refresh"
    " registry sas secret security service session slack sso telegram wandb web xsrf"
)
_KEY_OWNERS = _words(
    "access account aes anthropic api app auth aws azure client cohere comet consumer deploy"
    " encryption fernet gcp gemini google groq hf hmac hub huggingface license master mistral"
    " neptune openai openrouter pem private replicate rsa secret server service session shared"
    " signing ssh ssl storage subscription tls together wandb xai"
)
# Keys of tables and of attention, where a name in capitals would else be an access key: SORT_KEY.
_TABLE_KEYS = _words(
    "cache column config data dict foreign group hash index join lookup map metric n num object"
    " partition primary public publishable query rng s3 sort state table unique value"
)
# The direction or number of a pass, not a password: forward_pass, low_pass.
_PASSES = _words(
    "all backward band bwd by compile compiler current did double each every extra final first"
    " forward full fwd high is last low max min multi n next no notch num number of one only"
    " optimization per prev render second should single skip test third three to total train"
    " training two val validation warmup"
)
_PIN_OWNERS = _words("account card login security sim user")


class Secrecy(IntEnum):
    """How likely the text under a name is a secret."""

    NONE = 0
    POSSIBLE = 1
    """The value decides: `token` names an access token as well as a piece of text."""
    CERTAIN = 2


def is_secret_name(name: str) -> bool:
    """Whether a key or variable is named like a secret: `hf_token` is, `max_tokens` is not."""
    return secrecy(name) is not Secrecy.NONE


@functools.lru_cache(maxsize=4096)
def secrecy(name: str) -> Secrecy:
    """How likely a text under `name` is a secret."""
    words = _split(name)
    if not words or words[-1] in _ABOUT or words[0] in _COUNTS:
        return Secrecy.NONE
    if name.rpartition(".")[2] in ("PWD", "OLDPWD"):  # the working directory of a shell
        return Secrecy.NONE
    if _is_certain(words) or (words[-1] == "key" and _is_access_key(words, name)):
        return Secrecy.CERTAIN
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last == "token" and before in _ACCESS_TOKENS:
        return Secrecy.CERTAIN
    if last == "token" and before not in _TEXT_TOKENS:
        return Secrecy.POSSIBLE
    if last == "pass" and before not in _PASSES:
        return Secrecy.CERTAIN if before else Secrecy.POSSIBLE
    return Secrecy.POSSIBLE if last in ("auth", "bearer") else Secrecy.NONE


@functools.lru_cache(maxsize=4096)
def is_numeric_secret(name: str) -> bool:
    """Whether even a number under `name` is a secret: a password or a PIN."""
    words = _split(name)
    is_last = bool(words) and (words[-1] in _NUMERIC or words[-1].endswith("password"))
    return is_last and secrecy(name) is Secrecy.CERTAIN


@functools.lru_cache(maxsize=4096)
def describes_secret(name: str) -> bool:
    """Whether a key says something about a secret beside it, such as its place or kind."""
    words = _split(name)
    return bool(words) and (words[-1] in _ABOUT or words == ["target"])


_KEY_ISSUERS = _words("ado anthropic azure gh github gitlab gl openai stripe")


def _is_certain(words: list[str]) -> bool:
    if not _STRONG.isdisjoint(words) or any(_GLUED.fullmatch(word) for word in words):
        return True
    if words[-1] == "pin":
        return len(words) == 1 or words[-2] in _PIN_OWNERS
    if words[-1] in ("pat", "sk") and len(words) > 1:  # personal access tokens, secret keys
        return words[-2] in _KEY_ISSUERS
    pairs = set(pairwise(words))
    # Also inside a name: AWS_ACCESS_KEY_ID, secret_key_base.
    return any((owner, "key") in pairs for owner in ("access", "api", "auth", "private", "secret"))


def _is_access_key(words: list[str], name: str) -> bool:
    if len(words) < 2 or words[-2] in _TABLE_KEYS:
        return False
    is_variable = name == name.upper() and "_" in name
    return words[-2] in _KEY_OWNERS or is_variable


def _split(name: str) -> list[str]:
    """The words of the last part of a dotted name, in lower case and singular, without numbers."""
    words = (word.lower() for word in _WORD.findall(name.rpartition(".")[2]))
    return [_PLURALS.get(word, word) for word in words if not word.isdigit()]
