"""The demo's data: the same bytes every time, no leak from test to training, and answers that obey the README."""

from __future__ import annotations

import calendar
import importlib.util
import json
import re
import sys
from collections import Counter
from datetime import date, timedelta
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

FOLDER = Path(__file__).parents[2] / "examples" / "flights"
RAW = (FOLDER / "requests.jsonl").read_bytes()
CURRENCIES = {"USD", "EUR", "GBP", "CAD", "AUD", "JPY", "CHF", "INR"}


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flights_generate", FOLDER / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = load_generator()
EXAMPLES = generate.build_examples(7)


class Row(NamedTuple):
    day: date
    split: str
    text: str
    answer: dict[str, Any]
    response: str

    @property
    def parameters(self) -> dict[str, Any]:
        """What the answer says: of a short row, all of it."""
        return self.answer["parameters"] if self.full else self.answer

    @property
    def full(self) -> bool:
        """A whole request; a short row names one part of a request and has no action."""
        return "action" in self.answer


def read_row(line: str) -> Row | None:
    """One line in either format, None where it is not a usable row."""
    try:
        raw = json.loads(line)
        if "messages" in raw:
            question, reply = (message["content"] for message in raw["messages"])
        else:
            question, reply = raw["instruction"], raw["response"]
        assert isinstance(question, str)
        return Row(date.fromisoformat(raw["date"]), raw.get("split", "train"), question, json.loads(reply), reply)
    except (ValueError, KeyError, TypeError, AssertionError):
        return None


LINES = [line.strip() for line in RAW.decode("utf-8").removesuffix("\n").split("\n")]
ROWS = [row for line in LINES if (row := read_row(line))]
HANDWRITTEN_LINES = (FOLDER / "handwritten.jsonl").read_text(encoding="utf-8").splitlines()
HANDWRITTEN = [row for line in HANDWRITTEN_LINES if (row := read_row(line))]
CITIES = json.loads((FOLDER / "cities.json").read_text(encoding="utf-8"))
CODES = {city["code"] for city in CITIES}


def of(split: str) -> list[Row]:
    return [row for row in ROWS if row.split == split]


def pairs(split: str) -> set[frozenset[str]]:
    routes = [row.parameters for row in of(split) if "origin" in row.parameters]
    return {frozenset((route["origin"], route["destination"])) for route in routes}


def repair(text: str) -> str:
    """Undo UTF-8 read as Windows-1252; any other text comes back as it was."""
    try:
        return text.encode("cp1252").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return text


# ---------------------------------------------------------------- an independent reading of the README's date rules

DAY_NAMES = [name.lower() for name in calendar.day_name]
WEEKDAY = r"\b(?:mon|tues?|wed|weds|thu|thurs?|fri|sat|sun|" + "|".join(DAY_NAMES) + r")\b"
MONTH_NAMES = [name.lower() for name in calendar.month_name[1:]]
MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec|" + "|".join(MONTH_NAMES) + ")"
COUNT = {
    word: n
    for n, word in enumerate(
        ["a", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"], 1
    )
} | {"one": 1}
MISSPELT = {
    "tommorow": "tomorrow", "tomorow": "tomorrow", "tommorrow": "tomorrow", "2moro": "tomorrow", "tmrw": "tomorrow",
    "tmr": "tomorrow", "wensday": "wednesday", "wednsday": "wednesday", "thurday": "thursday", "teusday": "tuesday",
    "saterday": "saturday", "febuary": "february", "form": "from", "fomr": "from",
}  # fmt: skip


def next_matching(start: date, matches: Any) -> date:
    return next(day for n in range(1500) if matches(day := start + timedelta(days=n)))


def named_weekday(text: str) -> int | None:
    found = re.search(WEEKDAY, text)
    return next(i for i, name in enumerate(DAY_NAMES) if name.startswith(found[0][:3])) if found else None


def calendar_day(text: str, today: date) -> date | None:
    """A date by number or by month name."""
    if found := re.search(r"\b(\d{4})-(\d\d)-(\d\d)\b", text):
        return date(*map(int, found.groups()))
    day = r"(\d{1,2})(?:st|nd|rd|th)?"
    first = re.search(rf"\b{day}(?: of)? {MONTH}\b(?: (20\d\d)\b(?! ?[$€£¥₹]))?", text)
    second = re.search(rf"\b{MONTH} {day}\b(?:,? (20\d\d)\b(?! ?[$€£¥₹]))?", text)
    slash = re.search(r"(?<![\d/])(\d{1,2})/(\d{1,2})(?![\d/])", text)
    if first:
        number, name, year = first.groups()
    elif second:
        name, number, year = second.groups()
    elif slash:
        number, name, year = slash[2], MONTH_NAMES[int(slash[1]) - 1], None
    else:
        return None
    month = next(i for i, full in enumerate(MONTH_NAMES, 1) if full.startswith(name[:3]))
    if year:
        return date(int(year), month, int(number))
    return next_matching(today, lambda found: (found.month, found.day) == (month, int(number)))


def relative_day(text: str, today: date) -> date | None:
    """A date by distance, by weekday or by number alone."""
    tomorrow = today + timedelta(days=1)
    weekday = named_weekday(text)
    if "day after tomorrow" in text:
        return today + timedelta(days=2)
    if "a week from tomorrow" in text:
        return today + timedelta(days=8)
    if "tomorrow" in text:
        return tomorrow
    if weekday is not None and re.search(rf"a week from {WEEKDAY}|{WEEKDAY} week\b", text):
        return next_matching(tomorrow, lambda day: day.weekday() == weekday) + timedelta(days=7)
    if found := re.search(r"\b(\w+) (day|week)s?'? (?:time|from now|from today)|\bin (\w+) (day|week)s?\b", text):
        count, unit = found[1] or found[3], found[2] or found[4]
        return today + timedelta(days=(int(count) if count.isdigit() else COUNT[count]) * (7 if unit == "week" else 1))
    if re.search(r"\b(today|tonight|this evening)\b", text):
        return today
    if "weekend" in text:
        return next_matching(tomorrow, lambda day: day.weekday() == 5)
    if found := re.search(r"\bthe (\d{1,2})(?:st|nd|rd|th)\b", text):
        return next_matching(tomorrow, lambda day: day.day == int(found[1]))
    return next_matching(tomorrow, lambda day: day.weekday() == weekday) if weekday is not None else None


def meant_day(text: str, today: date) -> date | None:
    """The day that a request names, by the README's table alone."""
    plain = re.sub(r"[a-z0-9]+", lambda word: MISSPELT.get(word[0], word[0]), text.lower().replace("’", "'"))
    return calendar_day(plain, today) or relative_day(plain, today)


BY_HAND = [
    # 2025-07-08 is a Tuesday
    ("2025-07-08", "next Tuesday", "2025-07-15"),
    ("2025-07-08", "on Wednesday", "2025-07-09"),
    ("2025-07-08", "this coming Monday morning", "2025-07-14"),
    ("2025-07-08", "fri", "2025-07-11"),
    ("2025-07-08", "tonight", "2025-07-08"),
    ("2025-07-08", "tomorow", "2025-07-09"),
    ("2025-07-08", "the day after tomorrow", "2025-07-10"),
    ("2025-07-08", "in 13 days", "2025-07-21"),
    ("2025-07-08", "five days from now", "2025-07-13"),
    ("2025-07-08", "in four days' time", "2025-07-12"),
    ("2025-07-08", "in a week", "2025-07-15"),
    ("2025-07-08", "two weeks from today", "2025-07-22"),
    ("2025-07-08", "a week from tomorrow", "2025-07-16"),
    ("2025-07-08", "a week from Friday", "2025-07-18"),
    ("2025-07-08", "Tuesday week", "2025-07-22"),
    ("2025-07-08", "this weekend", "2025-07-12"),
    ("2025-07-08", "July 8", "2025-07-08"),
    ("2025-07-08", "7/7", "2026-07-07"),
    ("2025-07-08", "on the 15th of July", "2025-07-15"),
    ("2025-07-08", "Tue 15 jul", "2025-07-15"),
    ("2025-07-08", "on the 8th", "2025-08-08"),
    # month ends, year ends, leap days, Saturdays
    ("2024-02-28", "tomorrow", "2024-02-29"),
    ("2024-02-29", "in 2 days", "2024-03-02"),
    ("2025-12-31", "Jan 2nd", "2026-01-02"),
    ("2025-12-31", "2 December 2026", "2026-12-02"),
    ("2027-12-29", "next Saturday", "2028-01-01"),
    ("2024-10-05", "this weekend", "2024-10-12"),
    ("2026-01-31", "the 30th", "2026-03-30"),
    ("2028-02-28", "2028-11-03", "2028-11-03"),
]


@pytest.mark.parametrize(("today", "phrase", "expected"), BY_HAND)
def test_the_checker_reads_a_phrase_as_a_person_would(today: str, phrase: str, expected: str) -> None:
    assert meant_day(phrase, date.fromisoformat(today)) == date.fromisoformat(expected)


@given(
    today=st.dates(date(2024, 1, 1), date(2028, 12, 31)),
    kind=st.sampled_from(sorted(generate.DATE_KINDS)),
    rng=st.randoms(use_true_random=False),
)
def test_every_phrase_the_generator_can_write_means_the_day_it_says(today: date, kind: str, rng: Any) -> None:
    mention = generate.DATE_KINDS[kind](rng, today)
    for phrase in (mention.when, mention.day, mention.short):
        assert meant_day(phrase, today) == mention.target, phrase


# ------------------------------------------------------------------------------------------------------- the file


def test_the_same_seed_gives_the_committed_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["generate.py", "--out", str(tmp_path / "again.jsonl")])
    generate.main()
    assert (tmp_path / "again.jsonl").read_bytes() == RAW
    assert "".join(generate.build_lines(8)).encode() != RAW


def test_the_file_has_the_size_the_readme_promises() -> None:
    distinct = {(row.day, repair(row.text), row.response) for row in of("train") if row.full}
    assert len(LINES) == 3648
    assert len(distinct) == 1290 + 25
    assert sum(not row.full for row in of("train")) == 2150
    assert all(row.full for row in of("test") + HANDWRITTEN)
    assert len(of("test")) == len({row.text for row in of("test")}) == 132
    assert len({row.day for row in of("train")}) == 430
    assert len({row.day for row in of("test")}) == 12
    assert len({row.day for row in of("test")} & {row.day for row in of("train")}) == 6
    assert {row.day.weekday() for row in of("train")} == set(range(7))


def test_both_formats_are_about_half() -> None:
    formats = Counter("messages" in line.split(":", 2)[1] for line in LINES if read_row(line))
    assert 0.45 < formats[True] / formats.total() < 0.55


@pytest.mark.parametrize("rows", [ROWS, HANDWRITTEN], ids=["requests", "handwritten"])
def test_every_answer_is_compact_json_with_known_codes_and_its_keys_in_order(rows: list[Row]) -> None:
    for row in rows:
        assert json.dumps(row.answer, separators=(",", ":")) == row.response
        route, day, price = ["origin", "destination"], ["departure_date"], ["max_price", "currency"]
        if row.full:
            assert list(row.answer) == ["action", "parameters"]
            assert row.answer["action"] == "search_flights"
            assert list(row.parameters) in (route + day, route + day + price)
        else:
            assert list(row.parameters) in (route, day, price)
        if "origin" in row.parameters:
            assert {row.parameters["origin"], row.parameters["destination"]} <= CODES
            assert row.parameters["origin"] != row.parameters["destination"]
        if "departure_date" in row.parameters:
            assert 0 <= (date.fromisoformat(row.parameters["departure_date"]) - row.day).days <= 400
        if "currency" in row.parameters:
            assert type(row.parameters["max_price"]) is int
            assert row.parameters["currency"] in CURRENCIES


@pytest.mark.parametrize("rows", [ROWS, HANDWRITTEN], ids=["requests", "handwritten"])
def test_every_answer_has_the_day_that_its_request_names(rows: list[Row]) -> None:
    dated = [row for row in rows if "departure_date" in row.parameters]
    wrong = [row for row in dated if str(meant_day(repair(row.text), row.day)) != row.parameters["departure_date"]]
    assert wrong == []


@pytest.mark.parametrize("rows", [ROWS, HANDWRITTEN], ids=["requests", "handwritten"])
def test_every_request_names_both_cities_and_the_price(rows: list[Row]) -> None:
    names = {city["code"]: [city["city"], city["code"], *city["aliases"]] for city in CITIES}
    for row in rows:
        text = repair(row.text).replace("’", "'").replace("'", "").lower()
        for end in row.parameters.keys() & {"origin", "destination"}:
            assert any(name.replace("'", "").lower() in text for name in names[row.parameters[end]]), row
        if amount := row.parameters.get("max_price"):
            written = (str(amount), f"{amount:,}", f"{amount / 1000:g}k")
            assert any(re.search(rf"(?<![\d.,]){re.escape(form)}(?!\d)", text) for form in written), row


@pytest.mark.parametrize(("split", "expected"), [("train", 0.25), ("test", 0.2)])
def test_some_whole_requests_name_no_price(split: str, expected: float) -> None:
    full = [row for row in of(split) if row.full]
    assert sum("currency" not in row.parameters for row in full) / len(full) == pytest.approx(expected, abs=0.03)


def test_every_city_is_trained_often_at_both_ends_and_every_currency_at_all() -> None:
    full = [example for example in EXAMPLES if example.split == "train" and example.family]
    rows = [json.loads(example.answer)["parameters"] for example in full]
    origins, destinations = (Counter(row[end] for row in rows) for end in ("origin", "destination"))
    assert min(origins[code] + destinations[code] for code in CODES) >= 10
    assert min(origins[code] for code in CODES) >= 5
    assert min(destinations[code] for code in CODES) >= 5
    currencies = Counter(row.get("currency") for row in rows)
    assert min(currencies[currency] for currency in CURRENCIES) >= 3


def test_every_other_name_of_a_city_occurs_in_training() -> None:
    texts = " ".join(repair(row.text).replace("’", "'").lower() for row in of("train")).replace("'", "")
    for city in CITIES:
        for alias in city["aliases"]:
            plain = alias.replace("'", "").lower()
            assert re.search(rf"\b{re.escape(plain)}\b", texts), alias


# --------------------------------------------------------------------------------------------------------- no leak


def test_no_sentence_pattern_is_in_both_splits() -> None:
    families, skeletons = (
        {split: {getattr(e, field) for e in EXAMPLES if e.split == split and e.family} for split in ("train", "test")}
        for field in ("family", "skeleton")
    )
    assert len(families["train"]) >= 60
    assert len(families["test"]) >= 20
    assert families["train"].isdisjoint(families["test"])
    assert skeletons["train"].isdisjoint(skeletons["test"])


def test_the_readme_counts_the_patterns_and_cities_right() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    trained, tested = (
        len({e.family for e in EXAMPLES if e.split == split and e.family}) for split in ("train", "test")
    )
    assert f"({trained} in training, {tested} others in test)" in readme
    assert f"{len(CITIES)} cities" in readme


def test_no_city_pair_is_in_both_splits_and_the_famous_one_in_neither() -> None:
    assert pairs("train").isdisjoint(pairs("test"))
    assert frozenset({"NYC", "LHR"}) not in pairs("train") | pairs("test")


def test_no_test_or_handwritten_request_looks_like_a_training_request() -> None:
    trained = [generate.shingles(repair(row.text)) for row in of("train")]
    for row in of("test") + HANDWRITTEN:
        pieces = generate.shingles(row.text)
        assert max(generate.likeness(pieces, other) for other in trained) < 0.6, row.text


# -------------------------------------------------------------------------------------------------------- the dirt


def test_the_dirt_is_there_in_the_promised_amount() -> None:
    keys = Counter((row.day, row.text, row.response) for row in of("train"))
    assert sum(1 for line in LINES if line and not read_row(line)) == 12
    assert sum(count - 1 for count in keys.values()) == 35
    assert sum(1 for _, text, _ in keys if repair(text) != text) == 25
    assert sum(1 for line in LINES if not line) == 4
    assert RAW.count(b"\r\n") == 6
    contact = r"\S+@\S+\.\w+|(?:\d[ .-]?|\(\d{3}\) )\d{2,4}[ .-]\d{2,}"
    assert sum(1 for _, text, _ in keys if re.search(contact, hide_facts(text))) == 30 + 1
    assert sum(1 for _, text, _ in keys if passes_luhn(text)) == 1


def hide_facts(text: str) -> str:
    """The request without its dates, years and amounts, which are no phone numbers."""
    return re.sub(r"\d{4}-\d\d-\d\d|\b20\d\d\b(?! \d)|(?<=[a-z] )20\d\d\b|\d{1,3},\d{3}", "", text)


def passes_luhn(text: str) -> bool:
    found = re.search(r"\b(?:\d{4} ){3}\d{4}\b", text)
    if not found:
        return False
    digits = [int(digit) for digit in reversed(found[0].replace(" ", ""))]
    return sum(digit if i % 2 == 0 else sum(divmod(digit * 2, 10)) for i, digit in enumerate(digits)) % 10 == 0


def test_near_duplicates_are_the_planted_ones_and_no_others() -> None:
    distinct = sorted({(row.day, repair(row.text), row.response) for row in of("train") if row.full})
    pieces = [(key, generate.shingles(key[1])) for key in distinct]
    alike = [
        (left, right)
        for (left, a), (right, b) in combinations(pieces, 2)
        if generate.likeness(a, b) >= generate.NEAR_DUPLICATE
    ]
    assert len(alike) == 25
    assert all((left[0], left[2]) == (right[0], right[2]) for left, right in alike)


# ------------------------------------------------------------------------------------------------------ handwritten


def test_the_handwritten_requests_are_72_with_the_first_one_from_the_seed() -> None:
    assert len(HANDWRITTEN) == len(HANDWRITTEN_LINES) == len({row.text for row in HANDWRITTEN}) == 72
    assert len({row.day for row in HANDWRITTEN}) == 9
    first = HANDWRITTEN[0]
    assert first.text == "Find me flights from New York to London next Tuesday under $800"
    assert first.response == (
        '{"action":"search_flights","parameters":{"origin":"NYC","destination":"LHR",'
        '"departure_date":"2025-07-15","max_price":800,"currency":"USD"}}'
    )
