"""Invented personal data to plant: how people write it, not how the detectors look for it.

Each canary is a value and a sentence it could stand in. Phone numbers come from phonenumbers' examples of 40 countries
with other last digits, in international and national writing, so national writing without a telling word is among them.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable
from typing import NamedTuple

import phonenumbers

from burnish.data.private.crypto import BASE58, BECH32, bech32_check, checksum
from burnish.data.private.invented import invented
from burnish.data.private.keys import providers
from burnish.data.private.kinds import Kind
from burnish.data.private.payments import luhn_sum, remainder97


class Canary(NamedTuple):
    """A planted value, its kind, and the sentence that holds it once."""

    kind: Kind
    value: str
    sentence: str


Chance = random.Random


def canary(kind: Kind, chance: Chance) -> Canary:
    """Return one canary of a kind. Raises KeyError for kinds that are not planted (see `PLANTED`)."""
    value = _VALUES[kind](chance)
    return Canary(kind, value, chance.choice(_SENTENCES[kind]).format(value))


_SENTENCES: dict[Kind, tuple[str, ...]] = {
    Kind.EMAIL: ("You can write to {}.", "{} has not been answered yet.", "Contact: {}", "He forwarded it to <{}>, I think."),
    Kind.PHONE: ("Please call {} after five.", "Phone: {}", "{} is my mobile.", "We can be reached at {}.", "Try {} instead."),
    Kind.CARD: ("I paid with {}.", "Card number: {}", "Charge {} again, please.", "It says {} was declined."),
    Kind.IBAN: ("Transfer it to {}.", "IBAN: {}", "The account {} is mine.", "Refund to {}, please."),
    Kind.SSN: ("My SSN is {}.", "Social security number {}.", "The form says {} on top.", "SSN: {}"),
    Kind.NATIONAL_ID: ("My passport number is {}.", "Passport no. {}", "Driver's license number: {}"),
    Kind.IP: ("The request came from {}.", "Host {} does not answer.", "IP address: {}", "Ping {} and see."),
    Kind.MAC: ("The device {} is offline.", "MAC address: {}", "Block {} on the router."),
    Kind.CRYPTO: ("Send it to {}.", "Wallet: {}", "The payment to {} is late."),
    Kind.COORDINATES: ("GPS: {}", "The coordinates are {}.", "Location {} on the map."),
    Kind.DATE_OF_BIRTH: ("Date of birth: {}", "She was born on {}.", "DOB {}", "I was born {} in Leeds."),
    Kind.SECRET: ("The key is {} until Monday.", "Use {} for now.", "export TOKEN={}", 'client = Client("{}")'),
}  # fmt: skip

_REGIONS = (
    "US", "GB", "DE", "FR", "IT", "ES", "NL", "BE", "AT", "CH", "SE", "NO", "DK", "FI", "PL", "CZ", "PT", "GR", "IE", "HU",
    "RO", "BG", "HR", "SK", "SI", "LT", "LV", "EE", "AU", "NZ", "CA", "IN", "JP", "BR", "MX", "ZA", "IL", "TR", "SG", "AE",
)  # fmt: skip
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def _digits(chance: Chance, count: int) -> str:
    return "".join(chance.choice(string.digits) for _ in range(count))


def _hex(chance: Chance, count: int) -> str:
    return "".join(chance.choice("0123456789abcdef") for _ in range(count))


def _email(chance: Chance) -> str:
    first, last = chance.choice(invented().first_names).lower(), chance.choice(invented().last_names).lower()
    host = chance.choice(invented().places).lower()
    local = chance.choice((f"{first}.{last}", f"{first[0]}{last}", f"{first}{chance.randint(1, 99)}", f"{first}+shop"))
    return f"{local}@{host}.{chance.choice(('example', 'com', 'co.uk', 'org', 'de', 'info'))}"


def _phone(chance: Chance) -> str:
    example = phonenumbers.example_number_for_type(
        chance.choice(_REGIONS), phonenumbers.PhoneNumberType.FIXED_LINE_OR_MOBILE
    )
    while example is None:
        kind = chance.choice((phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE))
        example = phonenumbers.example_number_for_type(chance.choice(_REGIONS), kind)
    national = str(example.national_number)
    example.national_number = int(national[:-3] + _digits(chance, 3))
    styles = (phonenumbers.PhoneNumberFormat.INTERNATIONAL, phonenumbers.PhoneNumberFormat.E164)
    return phonenumbers.format_number(example, chance.choice((*styles, phonenumbers.PhoneNumberFormat.NATIONAL)))


def _card(chance: Chance) -> str:
    start, length = chance.choice(
        (("4", 16), ("51", 16), ("2221", 16), ("34", 15), ("36", 14), ("6011", 16), ("3528", 16))
    )
    body = start + _digits(chance, length - len(start) - 1)
    digits = body + str(-luhn_sum(body + "0") % 10)
    if length != 16 or chance.random() < 0.4:
        return digits
    return chance.choice((" ", "-")).join(digits[i : i + 4] for i in range(0, 16, 4))


def _iban(chance: Chance) -> str:
    country, shape = chance.choice(
        (("DE", "d18"), ("FR", "d10,a11,d2"), ("GB", "A4,d14"), ("NL", "A4,d10"), ("NO", "d11"), ("ES", "d20"))
    )
    letters = {"d": string.digits, "A": string.ascii_uppercase, "a": string.digits + string.ascii_uppercase}
    account = "".join(chance.choice(letters[part[0]]) for part in shape.split(",") for _ in range(int(part[1:])))
    plain = f"{country}{98 - remainder97(f'{account}{country}00'):02}{account}"
    return plain if chance.random() < 0.5 else " ".join(plain[i : i + 4] for i in range(0, len(plain), 4))


def _ssn(chance: Chance) -> str:
    area = chance.choice((chance.randint(1, 665), chance.randint(667, 899)))
    return f"{area:03}-{chance.randint(1, 99):02}-{chance.randint(1, 9999):04}"


def _document(chance: Chance) -> str:
    return chance.choice(("", "X", "AB")) + _digits(chance, chance.randint(7, 9))


def _ip(chance: Chance) -> str:
    if chance.random() < 0.3:
        return ":".join(_hex(chance, 4) for _ in range(8))
    return ".".join(str(chance.randint(1, 254)) for _ in range(4))


def _mac(chance: Chance) -> str:
    pairs = chance.choice((":", "-")).join(_hex(chance, 2) for _ in range(6))
    return pairs.upper() if chance.random() < 0.5 else pairs


def _wallet(chance: Chance) -> str:
    way = chance.randrange(3)
    if way == 0:
        return "0x" + _hex(chance, 40)
    if way == 1:
        values = [0, *(chance.randrange(32) for _ in range(31)), 0]
        return "bc1" + "".join(BECH32[value] for value in values + bech32_check(values))
    payload = bytes([5, *(chance.randrange(256) for _ in range(20))])
    number, text = int.from_bytes(payload + checksum(payload), "big"), ""
    while number:
        number, rest = divmod(number, 58)
        text = BASE58[rest] + text
    return text


def _coordinates(chance: Chance) -> str:
    return f"{chance.uniform(-89, 89):.{chance.randint(4, 6)}f}, {chance.uniform(-179, 179):.{chance.randint(4, 6)}f}"


def _birth(chance: Chance) -> str:
    year, month, day = chance.randint(1940, 2010), chance.randint(1, 12), chance.randint(1, 28)
    name = _MONTHS[month - 1]
    return chance.choice(
        (
            f"{year}-{month:02}-{day:02}",
            f"{month}/{day}/{year}",
            f"{day:02}.{month:02}.{year}",
            f"{day} {name} {year}",
            f"{name} {day}, {year}",
        )
    )


def _secret(chance: Chance) -> str:
    """Another key of a provider: letters and digits at the end of its example's long runs drawn anew, by their class."""
    example = chance.choice([provider for provider in providers().all if provider.prefix]).positive

    def like(character: str) -> str:
        if character.isdigit():
            return chance.choice("023456789")
        return chance.choice("ACDEF" if character.isupper() else "acdef")

    # All alphabets of keys have these letters and digits; the first sixteen may be a prefix or hold a checked part.
    return re.sub(r"(?<=[A-Za-z0-9]{16})[A-Za-z0-9]{1,12}", lambda match: "".join(map(like, match[0])), example)


_VALUES: dict[Kind, Callable[[Chance], str]] = {
    Kind.EMAIL: _email, Kind.PHONE: _phone, Kind.CARD: _card, Kind.IBAN: _iban, Kind.SSN: _ssn,
    Kind.NATIONAL_ID: _document, Kind.IP: _ip, Kind.MAC: _mac, Kind.CRYPTO: _wallet, Kind.COORDINATES: _coordinates,
    Kind.DATE_OF_BIRTH: _birth, Kind.SECRET: _secret,
}  # fmt: skip
PLANTED = tuple(_VALUES)
"""The kinds that can be planted: all that rules find."""
