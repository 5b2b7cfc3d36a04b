"""Values replaced by others of the same shape and kind, the same for the same value over the whole corpus.

A surrogate is drawn from HMAC-SHA256 of the value's canonical form under a key, so processes that have the key agree
without talking to each other, and nobody without it can tell which value a surrogate stands for. Where there is a range
that belongs to nobody (test cards, 555-01xx phones, example.org, 198.18.0.0/15), the surrogate lies in it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

from burnish.data.private.crypto import BASE58, BECH32, base58_version, bech32_check, checksum
from burnish.data.private.invented import invented
from burnish.data.private.kinds import Found, Kind
from burnish.data.private.payments import luhn_sum, remainder97

_TOKEN_LETTERS = "abcdefghijkmnpqr"
"""Sixteen letters for four bits each. No digits: a token must never look like a number."""


class Draw:
    """A stream of small numbers that depends on a key, a kind and a text, and on nothing else."""

    def __init__(self, key: bytes, kind: Kind, text: str) -> None:
        """Start the stream. `key` is any secret; 32 random bytes are best."""
        self._seed = hmac.new(key, f"{kind}\0{text}".encode("utf-8", "surrogatepass"), hashlib.sha256)
        self._bytes = b""
        self._block = 0

    def below(self, limit: int) -> int:
        """Return a number from 0 to limit - 1, at most 2^24 of them."""
        if len(self._bytes) < 4:
            block = self._seed.copy()
            block.update(self._block.to_bytes(4, "big"))
            self._bytes += block.digest()
            self._block += 1
        number, self._bytes = int.from_bytes(self._bytes[:4], "big"), self._bytes[4:]
        return number % limit

    def shaped(self, text: str) -> str:
        """Return the text with each ASCII letter and digit, and each other letter, drawn anew, size and class kept."""
        return "".join(self._like(character) for character in text)

    def _like(self, character: str) -> str:
        if character.isdigit():
            return str(self.below(10))
        if character.isupper():
            return chr(ord("A") + self.below(26))
        return chr(ord("a") + self.below(26)) if character.isalpha() else character


def draw_for(key: bytes, kind: Kind, value: str) -> Draw:
    """Return the stream of a value, the same for all ways to write it."""
    return Draw(key, kind, canonical(kind, value))


def canonical(kind: Kind, value: str) -> str:
    """Return what is the same in all ways to write a value: case of mailboxes, separators of numbers."""
    if kind in (Kind.CARD, Kind.SSN, Kind.PHONE):
        digits = "".join(character for character in value if character.isdigit())
        return _without_prefix(digits) if kind is Kind.PHONE else digits
    if kind in (Kind.IBAN, Kind.NATIONAL_ID, Kind.MAC):
        return re.sub(r"[\W_]", "", value).upper()
    return value.strip() if kind in (Kind.SECRET, Kind.CRYPTO) else " ".join(value.casefold().split())


def _without_prefix(digits: str) -> str:
    """The digits of a phone number without 00, and without North America's 1 that is often left out."""
    digits = digits.removeprefix("00")
    return digits[1:] if len(digits) == 11 and digits[0] == "1" else digits


def token(draw: Draw, characters: int = 16) -> str:
    """Return letters that stand for a value: 4 bits each, 64 bits by default."""
    return "".join(_TOKEN_LETTERS[draw.below(16)] for _ in range(characters))


def hashed(key: bytes) -> Callable[[Found, str], str]:
    """Return the action that writes [EMAIL#letters]: the same letters for the same value under the same key (the salt)."""
    _refuse_empty(key)
    return lambda item, value: f"[{item.kind}#{token(draw_for(key, item.kind, value))}]"


def surrogate(key: bytes) -> Callable[[Found, str], str]:
    """Return the action that writes an invented value of the same kind and shape."""
    _refuse_empty(key)
    return lambda item, value: _MAKERS[item.kind](draw_for(key, item.kind, value), value, item, key)


def _refuse_empty(key: bytes) -> None:
    if len(key) < 16:
        raise ValueError(
            f"the key has {len(key)} bytes; a guessed key gives the values away: use 16 random bytes or more"
        )


Maker = Callable[[Draw, str, Found, bytes], str]


_SHORTEST_LOCAL = 4


def _email(draw: Draw, value: str, _: Found, __: bytes) -> str:
    local = value.rpartition("@")[0]
    kept = "".join(character if character.isascii() else "a" for character in local.lower())
    # Of one or two letters there are too few to tell people apart.
    return f"{draw.shaped(kept if len(kept) >= _SHORTEST_LOCAL else 'aaaaaa')}@example.org"


def _spread(digits: str, value: str) -> str:
    """Put digits into the places of a value's digits, its separators kept."""
    left = iter(digits)
    return "".join(next(left) if character.isdigit() else character for character in value)


_NANP = re.compile(r"(?:(?:\+|00)?1)?[2-9]\d{9}\Z", re.ASCII)
_EXTENSION = re.compile(r"\s?(?:x|ext\.?)\s?\d+\Z")
_COUNTRY = re.compile(r"(?:\+|00)(?:1|7|20|27|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|\d{3})", re.ASCII)


def _phone(draw: Draw, value: str, _: Found, __: bytes) -> str:
    extension = _EXTENSION.search(value)
    number, rest = (value[: extension.start()], extension[0]) if extension else (value, "")
    plain = re.sub(r"[^\d+]", "", number)
    digits = plain.lstrip("+")
    if _NANP.fullmatch(plain):
        area = f"{2 + draw.below(8)}{draw.below(9)}{draw.below(10)}"
        new = f"{digits[:-10]}{area}55501{draw.below(100):02}"
    elif len(digits) == 7 and digits.startswith("555"):
        new = f"55501{draw.below(100):02}"
    else:
        country = _COUNTRY.match(plain)
        kept = len(country[0].lstrip("+")) + 1 if country else 2 if digits.startswith("0") else 1
        new = digits[:kept] + draw.shaped(digits[kept:])
    return _spread(new, number) + re.sub(r"\d+", lambda m: draw.shaped(m[0]), rest)


_TEST_RANGES = (
    (re.compile(r"3[47]"), "378282"), (re.compile(r"3(?:0|6|8|9)"), "305693"), (re.compile(r"35|2131|1800"), "353011"),
    (re.compile(r"4"), "411111"), (re.compile(r"5[1-5]|2"), "555555"), (re.compile(r"60|64|65"), "601111"),
    (re.compile(r"62"), "620000"), (re.compile(r""), "675964"),
)  # fmt: skip
"""First digits of a network, and the first six of the test numbers that it publishes."""


def _card(draw: Draw, value: str, _: Found, __: bytes) -> str:
    digits = re.sub(r"\D", "", value)
    prefix = next(test for start, test in _TEST_RANGES if start.match(digits))
    body = prefix + draw.shaped("0" * (len(digits) - 7))
    return _spread(body + str(-luhn_sum(body + "0") % 10), value)


def _iban(draw: Draw, value: str, _: Found, __: bytes) -> str:
    plain = value.replace(" ", "").upper()
    account = draw.shaped(plain[4:])
    check = 98 - remainder97(f"{account}{plain[:2]}00")
    made = iter(f"{plain[:2]}{check:02}{account}")
    written = "".join(character if character == " " else next(made) for character in value)
    return written if value.upper() == value else written.lower()


def _ssn(draw: Draw, value: str, _: Found, __: bytes) -> str:
    # Numbers that begin with 9 are not issued, and with 10 to 49 in the middle they are no tax number either.
    return _spread(f"9{draw.below(100):02}{10 + draw.below(40)}{draw.below(10000):04}", value)


def _ip(draw: Draw, value: str, _: Found, __: bytes) -> str:
    if ":" in value:
        groups = [f"{draw.below(1 << 16):x}" for _ in range(6)]
        return ":".join(["2001", "db8", *groups])
    return f"198.{18 + draw.below(2)}.{draw.below(256)}.{draw.below(256)}"


def _mac(draw: Draw, value: str, _: Found, __: bytes) -> str:
    made = iter("02" + "".join(f"{draw.below(16):x}" for _ in range(10)))  # 02: given locally, to no maker
    written = "".join(next(made) if character.isalnum() else character for character in value)
    return written.upper() if value.upper() == value else written


def _wallet(draw: Draw, value: str, _: Found, __: bytes) -> str:
    if value[:2] == "0x":
        return "0x" + "".join(f"{draw.below(16):x}" for _ in range(40))
    if value[:3].lower() == "bc1":
        values = [0, *(draw.below(32) for _ in range(32))]
        values[-1] &= 0b10000  # 32 groups of five bits hold the 160 bits of a hash exactly
        return "bc1" + "".join(BECH32[number] for number in values + bech32_check(values))
    version = base58_version(value) if set(value) <= set(BASE58) else None
    if version is None:  # of another family, whose checks are not made: the beginning, and letters of its alphabet
        kept, letters = (value.index("1") + 1, BECH32) if re.match("[a-zA-Z]{3,5}1", value) else (2, BASE58)
        return value[:kept] + "".join(letters[draw.below(len(letters))] for _ in value[kept:])
    payload = bytes([version, *(draw.below(256) for _ in range(20))])
    number, text = int.from_bytes(payload + checksum(payload), "big"), ""
    while number:
        number, rest = divmod(number, 58)
        text = BASE58[rest] + text
    leading = len(payload) - len(payload.lstrip(b"\0"))
    return "1" * leading + text


def _birth(draw: Draw, value: str, _: Found, __: bytes) -> str:
    """Another day and month of the same year: digits of four stay, the others become 1 to 12."""
    days = re.sub(r"(?<!\d)\d{1,2}(?!\d)", lambda m: str(1 + draw.below(12)).zfill(len(m[0]))[-2:], value)
    if re.fullmatch(r"\d{8}", value):
        days = f"{value[:4]}{1 + draw.below(12):02}{1 + draw.below(12):02}"
    return days


def _coordinates(draw: Draw, value: str, _: Found, __: bytes) -> str:
    """The same whole degrees, other decimals (or minutes below 60)."""
    if "°" in value and "." not in value.split("°")[0]:
        return re.sub(r"(?<=[°'′’ ])\d\d(?=[.'′’\"″”])", lambda _: f"{10 + draw.below(50)}", value)
    return re.sub(r"(?<=\.)\d+", lambda m: draw.shaped(m[0]), value)


_PREFIX = re.compile(r"(?:[A-Za-z0-9]{1,10}[_-]){1,3}|[A-Za-z]{4}")


def _secret(draw: Draw, value: str, item: Found, _: bytes) -> str:
    if item.rule == "private-key":
        return re.sub(r"(?<![-\w ])[A-Za-z0-9+/=]{4,}", lambda m: draw.shaped(m[0]), value)
    known = _PREFIX.match(value) if item.rule not in ("said", "url-credentials", "") else None
    kept = known.end() if known and len(value) - known.end() >= 12 else 0
    return value[:kept] + draw.shaped(value[kept:])


def _url(draw: Draw, value: str, _: Found, __: bytes) -> str:
    scheme = re.match(r"https?://", value, re.IGNORECASE)
    return f"{scheme[0] if scheme else 'www.'}example.org/{draw.shaped('aaaaaaaa')}"


def _person(_: Draw, value: str, item: Found, key: bytes) -> str:
    """Word by word, so that "Ann Smith" and "Ms. Smith" share their last name."""
    names = invented()
    words = value.split()
    made: list[str] = []
    for i, word in enumerate(words):
        those = names.first_names if i == 0 and len(words) > 1 else names.last_names
        made.append(those[draw_for(key, item.kind, word.strip(".,")).below(len(those))])
    return " ".join(made)


def _place(draw: Draw, _: str, __: Found, ___: bytes) -> str:
    return invented().places[draw.below(len(invented().places))]


def _company(draw: Draw, _: str, __: Found, ___: bytes) -> str:
    return invented().companies[draw.below(len(invented().companies))]


_MAKERS: dict[Kind, Maker] = {
    Kind.EMAIL: _email, Kind.PHONE: _phone, Kind.CARD: _card, Kind.IBAN: _iban, Kind.SSN: _ssn, Kind.IP: _ip,
    Kind.MAC: _mac, Kind.CRYPTO: _wallet, Kind.DATE_OF_BIRTH: _birth, Kind.COORDINATES: _coordinates,
    Kind.SECRET: _secret, Kind.URL: _url, Kind.NATIONAL_ID: lambda draw, value, _, __: draw.shaped(value),
    Kind.PERSON: _person, Kind.PLACE: _place, Kind.ORGANISATION: _company,
}  # fmt: skip
