"""What looks like a secret. Rather too much is taken for one than too little."""

from __future__ import annotations

import re

__all__ = ["MASK", "is_name_of_secret", "without_known_secrets", "without_secrets"]

MASK = "***"

# Parts of the names of parameters, fields and headers whose values are not shown.
_NAMES = (
    "apikey", "auth", "bearer", "client", "cookie", "credential", "header", "key", "passphrase", "passwd", "password",
    "pwd", "secret", "session", "signature", "token",
)  # fmt: skip
_LONGEST_NAME = 100  # characters: what is longer is no name
# `user:password@` in an address, which a `Path` writes with one slash. To the last @: a password may hold one.
_IN_ADDRESS = re.compile(r"(:/+)\S*@")
# Keys of services, by how they begin; and JSON Web Tokens.
_KNOWN = re.compile(
    r"(?<![A-Za-z0-9])(?:[spr]k-|[spr]k_(?:live|test)_|gh[a-z]_|github_pat_|glpat-|xox[a-z]-|xapp-|hf_|gsk_|r8_|AKIA|"
    r"ASIA|AIza|ya29\.|eyJ)\S{6,}"
)
_SCHEME = re.compile(r"(?i:\bbearer)\s+\S+|(?i:\bbasic)\s+\S+[A-Z0-9]\S*|-----BEGIN[\s\S]*")
_WHOLE_LINE = re.compile(r"(?i)((?:authorization|cookie)[\"']?\s*[:=]\s*)[^\r\n]+")
_LABELLED = re.compile(
    r"(?i)((?:key|token|secret|password|passwd|passphrase|pwd|auth|session|sessionid|session_id|credentials?)[\"']?\s*"
    r"(?:[:=]|=>)\s*)(?:\"[^\"]*\"?|'[^']*'?|(?!\*\*\*)[^\s,;&]+)"
)
_WORD = re.compile(r"[^\s\"'<>(),;:]+")
_LONG = re.compile(r"[A-Za-z0-9+/_-]{20,}={0,2}")
_HEX = re.compile(r"[0-9A-Fa-f-]{20,}")
_CHANGES = re.compile(r"[a-z](?=[A-Z0-9])|[0-9](?=[A-Za-z])|[A-Z](?=[0-9])")
# Such changes for each character. Random text has three times as many; a long name in CamelCase is taken for that.
_RANDOM = 0.13


def is_name_of_secret(name: str) -> bool:
    """Whether what is called that is not to be shown."""
    word = name[:_LONGEST_NAME].lower().replace("-", "").replace("_", "")
    return len(name) <= _LONGEST_NAME and any(part in word for part in _NAMES)


def without_secrets(text: str) -> str:
    """`text` with `***` for each part that looks like a secret: keys of services, tokens, long random text, what
    stands behind `password=` and its like, the user and the password in an address."""
    text = _IN_ADDRESS.sub(rf"\g<1>{MASK}@", text)
    for pattern in (_KNOWN, _SCHEME):
        text = pattern.sub(MASK, text)
    for pattern in (_WHOLE_LINE, _LABELLED):
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return _WORD.sub(_without_random, text)


def without_known_secrets(text: str) -> str:
    """The same for names that somebody chose: long random text may be what tells one from another, and stays."""
    return _IN_ADDRESS.sub(rf"\g<1>{MASK}@", _SCHEME.sub(MASK, _KNOWN.sub(MASK, text)))


def _without_random(found: re.Match[str]) -> str:
    word = found[0]
    return MASK if any(map(_is_random, _LONG.findall(word))) else word


def _is_random(text: str) -> bool:
    return _HEX.fullmatch(text) is not None or len(_CHANGES.findall(text)) >= max(3.0, _RANDOM * len(text))
