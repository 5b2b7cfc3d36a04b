"""Secrets that open doors: keys of known providers, private keys, passwords that are said to be passwords."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from burnish.data.private.signs import places

Hit = tuple[int, int, str]
"""Start, end and the rule, such as the provider's name."""

_NEAR = 60
"""Characters before a key in which the word that explains it may stand."""
_ENDS = r"(?![A-Za-z0-9_-])"


@dataclass(frozen=True, slots=True)
class Provider:
    """One entry of providers.yaml: where keys may begin (one of four ways), their shape, and tested examples."""

    name: str
    source: str
    pattern: re.Pattern[str]
    positive: str
    negative: str
    prefix: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    anywhere: tuple[str, ...] = ()
    near: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Providers:
    """All providers, by the way their keys are noticed."""

    all: tuple[Provider, ...]
    by_first: dict[str, tuple[Provider, ...]]
    inside: tuple[tuple[str, Provider], ...]
    anywhere: tuple[tuple[str, Provider], ...]
    near: tuple[tuple[str, Provider], ...]


@cache
def providers() -> Providers:
    """Return the providers of providers.yaml, read once."""
    entries: list[dict[str, Any]] = yaml.safe_load(
        files("burnish.data.private").joinpath("providers.yaml").read_text("utf-8")
    )
    everything = tuple(_provider(entry) for entry in entries)
    by_first: defaultdict[str, list[Provider]] = defaultdict(list)
    for provider in everything:
        for first in sorted({prefix[0] for prefix in provider.prefix}):
            by_first[first].append(provider)
    return Providers(
        everything,
        {first: tuple(those) for first, those in by_first.items()},
        tuple((literal.lower(), provider) for provider in everything for literal in provider.inside),
        tuple((literal.lower(), provider) for provider in everything for literal in provider.anywhere),
        tuple((word, provider) for provider in everything for word in provider.near),
    )


def _provider(entry: dict[str, Any]) -> Provider:
    within_text = "inside" in entry or "anywhere" in entry
    whole = _after_an_escape(entry["pattern"]) if within_text else f"(?:{entry['pattern']}){_ENDS}"
    return Provider(
        name=entry["name"],
        source=entry["source"],
        pattern=re.compile(whole, re.ASCII),
        positive="".join(entry["positive"]),
        negative="".join(entry["negative"]),
        prefix=tuple(entry.get("prefix", ())),
        inside=tuple(entry.get("inside", ())),
        anywhere=tuple(entry.get("anywhere", ())),
        near=tuple(entry.get("near", ())),
    )


def _after_an_escape(pattern: str) -> str:
    """The pattern, its look at the character before satisfied also by a line's end in raw JSON or source."""
    if not pattern.startswith("(?<!"):
        return pattern
    look, rest = pattern[: pattern.index(")") + 1], pattern[pattern.index(")") + 1 :]
    return rf"(?:(?<=\\[nrt])|{look}){rest}"


def provider_keys(text: str, lower: str, words: list[tuple[int, int]]) -> Iterator[Hit]:
    """Yield keys of known providers. `lower` is the text in small letters, `words` where long words are (`signs`)."""
    known = providers()
    around = "\n".join([lower[max(0, start - _NEAR) : end] for start, end in words])
    near = [(word, provider) for word, provider in known.near if word in around]
    for start, end in words:
        for provider in known.by_first.get(text[start], ()):
            match = provider.pattern.match(text, start) if text.startswith(provider.prefix, start) else None
            if match is not None:
                yield start, match.end(), provider.name
                break
        for word, provider in near:
            if provider.pattern.fullmatch(text, start, end) and lower.find(word, max(0, start - _NEAR), start) >= 0:
                yield start, end, provider.name
    noticed = [provider for literal, provider in known.inside if literal in around]
    noticed += [provider for literal, provider in known.anywhere if literal in lower]
    for provider in noticed:
        for match in provider.pattern.finditer(text):
            start, end = match.span("value") if "value" in provider.pattern.groupindex else match.span()
            yield start, end, provider.name


_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_BODY = re.compile(r"(?:[A-Za-z0-9+/=:,.()\s-]|\\[nr])*")


def private_keys(text: str) -> Iterator[Hit]:
    """Yield private keys in PEM, OpenSSH and PGP armour; one that is cut short ends where its letters do."""
    after = 0
    for begin in _BEGIN.finditer(text):
        if begin.start() < after:
            continue
        end = _END.search(text, begin.end())
        body = _BODY.match(text, begin.end())
        after = end.end() if end else body.end() if body else begin.end()
        if re.search(r"[A-Za-z0-9+/]{4}", text[begin.end() : after]):
            yield begin.start(), after, "private-key"
        if end is None:
            return


_IN_ADDRESS = re.compile(r"://(?P<value>[^\s/:@\"']{0,100}:[^\s/\"']{1,200})@(?=[^\s/:@\"'])")


_STANDS_FOR_ONE = {"password", "passwd", "pass", "pwd", "pw", "secret", "token", "apikey", "user", "username"}
"""What documentation writes where a password goes."""


def url_credentials(text: str) -> Iterator[Hit]:
    """Yield the user:password part of web addresses."""
    for match in _IN_ADDRESS.finditer(text):
        password = match["value"].partition(":")[2]
        if not _is_blank(password) and password.lower() not in _STANDS_FOR_ONE:
            yield *match.span("value"), "url-credentials"


_SAID_WORDS = ("passw", "passphrase", "pwd", "key", "token", "secret", "credential")
"""What names of secrets end in, in small letters; `_SAID_END` goes on from there."""
_SAID_END = re.compile(
    r"(?:(?<=passw)(?:or)?d|(?<=credential)s?|(?<!passw)(?<!credential))(?P<name>)\\?[\"']?"
    r"(?:\s{0,3}(?::=|=>|[:=])\s{0,3}|\s{1,3}(?P<is>is|was)\s{1,3})\\?(?P<quote>[\"'`]?)(?P<value>[^\s\"'`,;\\]{6,200})"
)
_STRONG_NAME = re.compile(
    r"(?:password|passwd|passphrase|pwd|api[ _-]?key|secret[ _-]?(?:access[ _-]?)?key|access[ _-]?token"
    r"|auth[ _-]?token|client[ _-]?secret)\Z"
)
_NAME = re.compile(r"(?:token|secret|credentials?|(?:access|private|encryption|signing)[ _-]?key|_key)\Z")
_LONGEST_NAME = len("secret access key")
_NOT_A_WORD = re.compile(r".*(?:[0-9]|[!-/:-@\[-`{-~].*[!-/:-@\[-`{-~].)")
_TWO_WORDS_MIXED = re.compile(r"(?=.*[A-Z])(?=.*[a-z]).*[!-/:-@\[-`{-~].+")
_CODE = re.compile(
    r"[A-Za-z_][A-Za-z_.]*|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[^()]*\w\(.*|[^\[]*\w\[.*|.*\$\{?\w.*|.*%[(s].*|.*\{.*"
)
_HYPHENATED = re.compile(r"[A-Za-z]+(?:[-'/.:][A-Za-z]+)*[.!?:)]*")
_BLANK = ("<", "[", "{", "$", "%", "(", "&", "*", "/", "...", "@", "://")
_LEAST_ENTROPY = 3.3
"""Bits a character: English words have about 3, random letters and digits of length 20 about 4."""


def said_secrets(text: str, lower: str) -> Iterator[Hit]:
    """Yield values that are said to be a password, a key or a token: with "is", ":" or "="."""
    words = [word for word in _SAID_WORDS if word in lower]
    for strong, match in _said(lower, words) if words else ():
        start, end = match.span("value")
        value, quoted = text[start:end], bool(match["quote"])
        if not quoted:
            value = value.rstrip(")]}.>:")
        if len(value) < 6 or _is_blank(value) or (match["is"] and _HYPHENATED.fullmatch(value)):
            continue
        if not quoted and _CODE.fullmatch(value):
            continue
        if _is_no_word(value) if strong else is_random(value):
            yield start, start + len(value), "said"


def _said(lower: str, words: Sequence[str]) -> Iterator[tuple[bool, re.Match[str]]]:
    """Yield in order what follows the name of a secret, and whether the name is one of nothing else."""
    ends = sorted(at + len(word) for word in words for at in places(lower, word))
    after = 0
    for end in ends:
        match = _SAID_END.match(lower, end)
        if match is None:
            continue
        named = match.start("name")
        opening = max(after, named - _LONGEST_NAME)
        strong = _STRONG_NAME.search(lower, opening, named)
        if strong is not None or _NAME.search(lower, opening, named):
            yield strong is not None, match
            after = match.end()


def _is_no_word(value: str) -> bool:
    """Whether a value is more than words: "the password is required" and "password: first_name" hold no password.

    It needs a digit, two signs inside, or a sign inside and letters of both sizes.
    """
    return _NOT_A_WORD.match(value) is not None or _TWO_WORDS_MIXED.match(value) is not None


def is_random(value: str) -> bool:
    """Return whether a value is long, mixes letters and digits, and is as varied as a key."""
    if len(value) < 16 or not re.fullmatch(r"[A-Za-z0-9+/=_.~-]+", value):
        return False
    digits = sum(character.isdigit() for character in value)
    letters = sum(character.isalpha() for character in value)
    return digits >= 2 and letters >= 2 and entropy(value) >= _LEAST_ENTROPY


def entropy(value: str) -> float:
    """Return Shannon's entropy of the characters, in bits a character."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def _is_blank(value: str) -> bool:
    """Whether a value only holds the place of one: <password>, ${TOKEN}, ******."""
    return value.startswith(_BLANK) or "://" in value or len(set(value)) < 3
