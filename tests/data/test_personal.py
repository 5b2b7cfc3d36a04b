"""Personal data is found by rules; prices, dates, codes and answers are not taken for it."""

from __future__ import annotations

import json
import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.data.private.payments import IBAN_LENGTH, luhn, mod97
from burnish.data.private.replace import redact

FOUND = {
    "[EMAIL]": [
        "ann@example.com", "ann.b+tag@mail.example.co.uk", "o'neil_7@ex-ample.org", "jürgen@müller.example",
        "x@sub.domain.museum",
    ],
    "[PHONE]": [
        "555-0123", "212-555-0123", "(415) 555-2671", "415.555.2671", "415 555 2671", "1-800-555-0199", "2125550123",
        "+1 212 555 0123", "+12125550123", "+1 (212) 555-0123", "+44 20 7946 0958", "+442079460958",
        "0044 20 7946 0958",
        "020 7946 0958", "07700 900123", "+33 6 12 34 56 78", "06 12 34 56 78", "+49 (0)30 123456", "0171 1234567",
        "+49 171/1234567", "+61 2 5550 1234", "(02) 5550 1234", "+91 98765 43210", "+81 3-1234-5678",
        "212-555-0123 ext. 45",
        "+1\u00a0212\u2011555\u20110123", "+971 50 123 4567", "+34 612 345 678", "+55 11 91234-5678", "213-456-7890",
    ],
    "[CARD]": [
        "4111 1111 1111 1111", "4111-1111-1111-1111", "4111111111111111", "5555555555554444", "2223003122003222",
        "378282246310005", "3782 822463 10005", "30569309025904", "6011111111111117", "3530111333300000",
        "6759649826438453",
        "6200000000000005", "4222222222222",
    ],
    "[IBAN]": [
        "DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "GB82 WEST 1234 5698 7654 32",
        "gb82west12345698765432",
        "NO93 8601 1117 947", "MT84MALT011000012345MTLCAST001S", "FR14 2004 1010 0505 0001 3M02 606",
    ],
    "[SECRET]": [
        "AKIAIOSFODNN7EXAMPLE", "ghp_" + "a1B2" * 9, "github_pat_" + "a1B2c3" * 10, "glpat-abcdefghij0123456789",
        "sk-" + "Ab1" * 16, "sk-proj-" + "Ab1_" * 12, "sk-ant-api03-" + "Ab1-" * 12, "hf_" + "AbCd" * 9,
        "AIza" + "SyA1b" * 7, "xoxb-123456789012-abcdefABCDEF", "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
        "npm_" + "a1B2" * 9,
        "pypi-AgEIcHlwaS5vcmc" + "CJDEyMzQ1Njc4" * 4, "SG." + "a1B2" * 5 + "." + "c3D4" * 10, "AC" + "0a1b" * 8,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in FOUND.items() for value in values])
@pytest.mark.parametrize(
    "around", ["{}", "Hi, write to {} please.", "({})", '{{"note": "{}"}}', "a:{}, b", "{}\nthanks"]
)
def test_personal_data_becomes_a_placeholder_and_what_is_around_it_stays(kind: str, value: str, around: str) -> None:
    redacted = redact(around.format(value))
    assert redacted.text == around.format(kind)
    assert redacted.counts == {kind.strip("[]"): 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("my password is hunter2!", "my password is [SECRET]"),
        ("API_KEY=abc123def", "API_KEY=[SECRET]"),
        ('{"password": "p4ssw0rd"}', '{"password": "[SECRET]"}'),
        ("https://bob:s3cret@host.example/x", "https://[SECRET]@host.example/x"),
        ("call me at 9175550144", "call me at [PHONE]"),
        ("my number is 917 456 0144, thanks", "my number is [PHONE], thanks"),
        ("Tel. 4567 8901", "Tel. [PHONE]"),
        ("+44 20 7946 0958 12 July", "[PHONE] 12 July"),
        ("+1 212 555 0123 2 adults", "[PHONE] 2 adults"),
        ("ann@example.com/212-555-0123", "[EMAIL]/[PHONE]"),
        ("a@b.example, c@d.example", "[EMAIL], [EMAIL]"),
    ],
)
def test_what_stands_around_a_value_tells_what_it_is(text: str, expected: str) -> None:
    assert redact(text).text == expected


@pytest.mark.parametrize(
    "text",
    [
        "under $800", "€1,050", "1.2k", "180k yen", "1,234,567.89", "between 500-1000 dollars", "1000-1500 EUR",
        "12000000",
        "2025-07-15", "2025-07-15 to 2025-07-20", "07/15/2025", "07-15-2025", "15.07.2025", "20250715", "15 07 2025",
        "2025-07-15T10:00:00+01:00", "2025-07-15 10:30", "at 10:30:15", "call before 2025-07-15",
        "text me on 07-15-2025",
        "flight BA 117", "BA0117 and LH 2034", "seat 12A, gate 40", "ISBN 978-3-16-148410-0", "ISBN 0-306-40615-2",
        "order 4158675309", "order_id: 4155550123", "1752537600",
        "1752537600000",
        "4111 1111 1111 1112", "1234567812345678", "DE89370400440532013001", "ZZ89370400440532013000", "AB12 people",
        "the password is required", "api key: [SECRET]", "what is the secret?", "@home", "a@b", "not.an.email@",
        "v1.2.3-rc.4",
        "sk-short", "eyJust kidding", "https://host.example:8080/x", "room 555", "555 people", "5 55 01 23",
        "100 200 300",
        "PNR: X7K9Q2", "for 2 adults and 1 child, 3 bags", "0800", "zip 94105-1234",
    ],
)  # fmt: skip
def test_prices_dates_codes_and_wrong_checksums_stay(text: str) -> None:
    redacted = redact(text)
    assert redacted.text == text
    assert not redacted.counts


codes = st.text(string.ascii_uppercase, min_size=3, max_size=3)
days = st.dates().map(lambda day: day.isoformat())
prices = st.integers(0, 99_999) | st.floats(0, 99_999, allow_nan=False).map(lambda price: round(price, 2))
answers = st.fixed_dictionaries(
    {
        "action": st.just("search_flights"),
        "parameters": st.fixed_dictionaries(
            {"origin": codes, "destination": codes, "departure_date": days},
            optional={"return_date": days, "max_price": prices, "currency": codes, "adults": st.integers(1, 9)},
        ),
    }
)


@given(answer=answers, compact=st.booleans())
def test_an_answer_with_codes_dates_and_prices_stays_byte_for_byte(answer: dict[str, object], compact: bool) -> None:
    text = json.dumps(answer, separators=(",", ":") if compact else None)
    assert redact(text).text == text


@given(
    left=days,
    right=days,
    price=prices,
    word=st.sampled_from(["from", "call me", "text", "phone", "$", "€", "no.", "#"]),
)
def test_requests_with_dates_and_prices_stay(left: str, right: str, price: float, word: str) -> None:
    text = f"{word} {left} until {right} for {price}"
    assert redact(text).text == text


def test_a_number_that_is_replaced_in_json_becomes_a_string() -> None:
    text = '{"phone": 2125550123, "note": "call \\"5550123\\"", "list": [4111111111111111]}'
    redacted = json.loads(redact(text).text)
    assert redacted["phone"] == "[PHONE]"
    assert redacted["list"] == ["[CARD]"]


@given(text=st.text(max_size=60) | st.text("0123456789+-(). @:abcdeDE[]", max_size=60))
def test_redacting_twice_finds_nothing_more(text: str) -> None:
    assert not redact(redact(text).text).counts


def test_every_planted_value_in_long_text_is_found() -> None:
    chance = random.Random(3)
    words = ["please", "book", "a", "flight", "from", "Paris", "to", "Rome", "on", "2025-07-15", "under", "800"]
    planted: list[str] = []
    text: list[str] = []
    for _ in range(400):
        text += chance.choices(words, k=5)
        planted.append(chance.choice([value for values in FOUND.values() for value in values]))
        text.append(planted[-1] + ",")
    redacted = redact(" ".join(text))
    assert sum(redacted.counts.values()) == 400
    assert not [value for value in planted if value in redacted.text]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "a" * 200_000,
        "1" * 200_000,
        "a@" * 50_000,
        "a@" + "a." * 50_000,
        "+1 " * 50_000,
        "+1" + " 1" * 100_000,
        "-----BEGIN " * 20_000,
        "0 " * 100_000,
        "call " * 40_000,
        "password " * 20_000 + " " * 50_000,
        "://a:" * 40_000,
    ],
)
def test_long_runs_take_no_long_time(text: str) -> None:
    assert len(redact(text).text) > 0


def test_luhn_by_hand() -> None:
    # 7992739871 with every second digit doubled, from the right of the number with its check digit, adds up to 67.
    assert luhn("79927398713")
    assert not any(luhn(f"7992739871{digit}") for digit in "012456789")


def test_mod_97_by_hand() -> None:
    # GB82 WEST 1234 5698 7654 32 is the example of ISO 13616: 3214282912345698765432161182 mod 97 = 1.
    assert 3214282912345698765432161182 % 97 == 1
    assert mod97("GB82WEST12345698765432")
    assert not mod97("GB83WEST12345698765432")


def test_iban_lengths_are_those_of_known_examples() -> None:
    assert (IBAN_LENGTH["DE"], IBAN_LENGTH["NO"], IBAN_LENGTH["MT"], IBAN_LENGTH["FR"]) == (22, 15, 31, 27)
    assert all(15 <= length <= 34 for length in IBAN_LENGTH.values())
