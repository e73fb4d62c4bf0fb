"""Classify names: those of passwords, access keys and other secrets, and those similar to them."""

from __future__ import annotations

import functools
import re
from enum import IntEnum
from itertools import pairwise

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def words(text: str) -> frozenset[str]:
    """Return the set of words in a text."""
    return frozenset(text.split())


_STRONG = words(
    "apikey authorization cookie cred credential credentials creds csrf csrfmiddlewaretoken"
    " csrftoken jwt kennwort mnemonic otp passcode passkey passphrase passwd password passwort"
    " pincode privkey psw pswd pw pwd secret totp xsrf"
)
_GLUED = re.compile(
    r".+(password|passwd|passphrase|apikey|secretkey|accesskey|privatekey|authtoken|accesstoken)"
    r"|(access|api|auth|id|refresh|session)token|(access|account|auth|private|secret|sign)key"
    r"|(j|php|asp)?sess(ion)?id"
)
_PASSWORDS = words(
    "kennwort otp passcode passphrase passwd password passwort pin pincode psw pswd pw pwd totp"
)
_PASS_OWNERS = (
    "account|admin|app|auth|bind|client|db|email|ftp|host|http|imap|jdbc|key|ldap|login|mail"
    "|mariadb|mongo|my|mysql|net|pg|pgsql|pop|postgres|proxy|rabbitmq|redis|repo|root|secret|server"
    "|service|sftp|smtp|sql|ssh|ssl|store|sudo|svc|trust|user|vault|vnc|vpn|web|wifi"
)
_GLUED_PASS = re.compile(rf"(?:{_PASS_OWNERS}){{1,4}}pass|.+(?:password|passwd|passphrase)")
_SPLIT_PASS = frozenset(_PASS_OWNERS.split("|"))

# A name with such an end or beginning describes a secret or counts: token_file, max_tokens, n_keys.
_DESCRIPTIONS = words(
    "age algorithm at attempts bytes chars class count created date dim dir directory domain"
    " enabled endpoint env expired expires expiry field file filename flag folder format helper"
    " hint kind len length lifetime limit manager max min mode name names path pattern policy"
    " prefix prompt provider rate regex required rules scheme scope size source status storage"
    " store strength suffix time timeout ttl type types updated uri url valid validator version"
)
_COUNTS = words("count is has max mean median min n num number per sum total")

# Tokens that a language model reads and writes: eos_token, next_token.
_TEXT_TOKENS = words(
    "added additional assistant audio batch begin bos byte cached char class cls code completion"
    " consumed context control current decoder delimiter doc document draft each empty encoder end"
    " eod eom eop eos eot eval every extra fim first generated image img input instruction label"
    " language last len mask masked max min modality new newline next noise num of output pad"
    " padding patch per prefix prev previous prompt query reasoning register reserved response"
    " sampled seen sentence sep separator sink space special start stop sub subword suffix system"
    " target task test text thinking tool total train trained training unique unk unknown unused"
    " user val valid validation video vision vocab warmup word"
)
_ACCESS_TOKENS = words(
    "access airflow api app auth aws azure bearer bitbucket bot ci clearml client cloudflare"
    " codecov comet csrf dagshub databricks deploy discord docker gh git github gitlab gl heroku"
    " hf hub huggingface id identity jenkins jira job jupyter kaggle kube kubernetes login mlflow"
    " neptune ngrok notion npm oauth oidc openai personal private pypi refresh registry replicate"
    " sas secret security sentry service session slack sso stripe telegram tracking twitter upload"
    " vault vercel wandb web webhook xsrf"
)
_KEY_OWNERS = words(
    "access account aes airtable algolia amplitude anthropic anyscale api app assemblyai auth aws"
    " azure bugsnag clearml client cloudflare cohere comet consumer credential credentials dagshub"
    " databricks datadog deepgram deepl deepseek deploy digitalocean elevenlabs encryption fernet"
    " firebase gcp gemini github gitlab google groq heroku hf hmac hub huggingface instrumentation"
    " kaggle labelbox langchain langfuse langsmith license linode mailgun mapbox master mistral"
    " mixpanel neptune newrelic openai openrouter paypal pem perplexity pinecone posthog private"
    " qdrant replicate roboflow rsa runpod secret sendgrid sentry serpapi serper server service"
    " session shared signing slack snowflake ssh ssl storage stripe subscription supabase tavily"
    " tls together twilio vercel vultr wandb weaviate xai"
)
# Owners of keys that may also be names of things.
_DOUBTFUL_OWNERS = words("app client consumer server session shared storage together")
# Keys of tables and of attention, which are not secrets.
_TABLE_KEYS = words(
    "cache column config data dict foreign group hash index join lookup map metric n num object"
    " partition primary public publishable query rng s3 sort state table unique value"
)
# The direction or number of a pass, not a password: forward_pass, low_pass.
_PASSES = words(
    "all backward band bwd by compile compiler current did double each every extra final first"
    " forward full fwd high is last low max min multi n next no notch num number of one only"
    " optimization per prev render second should single skip test third three to total train"
    " training two val validation warmup"
)
_PIN_OWNERS = words("account card login security sim user")
_KEY_ISSUERS = words("ado anthropic azure gh github gitlab gl openai stripe")
_PAIRS = frozenset(
    {(owner, "key") for owner in ("access", "api", "auth", "private", "secret")}
    | {("access", "signature"), ("string", "data")}
)
"""Words of secrets anywhere in a name: AWS_ACCESS_KEY_ID, secret_key_base, stringData."""
_WITH_PLURALS = _STRONG | _PASSWORDS | words("auth bearer key login pin token")


class Secrecy(IntEnum):
    """The likelihood that the value of a name is a secret."""

    NONE = 0
    UNLIKELY = 1
    """Only values that look generated are secrets: `MODEL_KEY` is usually the name of a model."""
    POSSIBLE = 2
    """Ordinary words are not secrets: `token` may name an access token or a piece of text."""
    CERTAIN = 3
    PASSWORD = 4
    """Even a short number is a secret."""


def is_secret_name(name: str) -> bool:
    """Return whether a name is that of a secret: `hf_token` is, `max_tokens` is not."""
    return secrecy(name) >= Secrecy.POSSIBLE


@functools.lru_cache(maxsize=4096)
def secrecy(name: str) -> Secrecy:
    """Return the likelihood that the value of `name`, which may be dotted, is a secret."""
    above, _, own = name.rpartition(".")
    parts = _split(own)
    if not parts or _is_description(parts[-1]) or parts[0] in _COUNTS:
        return Secrecy.NONE
    if own in ("PWD", "OLDPWD") or ("@" in own and parts == ["pass"]):  # a folder; pass@1
        return Secrecy.NONE
    if _is_password(parts):
        return Secrecy.PASSWORD
    if _is_certain(parts):
        return Secrecy.CERTAIN
    last, before = parts[-1], parts[-2] if len(parts) > 1 else ""
    if last == "key":
        return _secrecy_of_key(before, _split(above)[-1:])
    if last == "token":
        return _secrecy_of_token(before, _split(above)[-1:])
    if last == "pass":
        return Secrecy.NONE if before in _PASSES else Secrecy.POSSIBLE
    if last in ("auth", "bearer", "sas") or parts[-2:] == ["session", "id"]:
        return Secrecy.POSSIBLE
    return Secrecy.UNLIKELY if parts == ["login"] else Secrecy.NONE


@functools.lru_cache(maxsize=4096)
def describes_secret(name: str) -> bool:
    """Return whether a key describes a secret beside it, such as its location or type."""
    parts = _split(name)
    return bool(parts) and (
        _is_description(parts[-1]) or parts[0] in _COUNTS or parts == ["target"]
    )


@functools.lru_cache(maxsize=4096)
def counts_tokens(name: str) -> bool:
    """Return whether a number under `name` is a number of tokens, as in `api_tokens`."""
    return name.lower().endswith("tokens")


def _is_description(word: str) -> bool:
    return word in _DESCRIPTIONS or (word[-1] == "s" and word[:-1] in _DESCRIPTIONS)


def _is_password(parts: list[str]) -> bool:
    last, before = parts[-1], parts[-2] if len(parts) > 1 else ""
    if last == "pin":
        return not before or before in _PIN_OWNERS
    if last == "pass":
        return before in _SPLIT_PASS
    return last in _PASSWORDS or _GLUED_PASS.fullmatch(last) is not None


def _is_certain(parts: list[str]) -> bool:
    if not _STRONG.isdisjoint(parts) or any(_GLUED.fullmatch(word) for word in parts):
        return True
    if parts[-1] in ("pat", "sk") and len(parts) > 1:  # personal access tokens, secret keys
        return parts[-2] in _KEY_ISSUERS
    if parts[-3:] == ["client", "key", "data"]:  # of a kubeconfig file
        return True
    return not _PAIRS.isdisjoint(pairwise(parts))


def _secrecy_of_key(owner: str, above: list[str]) -> Secrecy:
    if not owner:
        return Secrecy.POSSIBLE if not _KEY_OWNERS.isdisjoint(above) else Secrecy.NONE
    if owner in _TABLE_KEYS:
        return Secrecy.NONE
    if owner in _DOUBTFUL_OWNERS:
        return Secrecy.POSSIBLE
    return Secrecy.CERTAIN if owner in _KEY_OWNERS else Secrecy.UNLIKELY


def _secrecy_of_token(owner: str, above: list[str]) -> Secrecy:
    if owner in _ACCESS_TOKENS or (not owner and not _ACCESS_TOKENS.isdisjoint(above)):
        return Secrecy.CERTAIN
    return Secrecy.NONE if owner in _TEXT_TOKENS else Secrecy.POSSIBLE


def _split(name: str) -> list[str]:
    """Return the words of a name without numbers, in lower case, those of secrets in singular."""
    parts = (word.lower() for word in _WORD.findall(name) if not word.isdigit())
    return [word[:-1] if word[:-1] in _WITH_PLURALS and word[-1] == "s" else word for word in parts]
