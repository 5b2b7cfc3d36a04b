"""Write `requests.jsonl`: invented flight requests, and the dirt that a real export would carry.

    python examples/flights/generate.py [--seed 7] [--out PATH]

Standard library only. The same seed gives the same bytes. A request is made in four steps, each one function: a
*family* (a sentence pattern) is expanded, its slots are filled with cities, a day and a price, a *hand* writes the
result (capitals, punctuation, greeting, chatter), and a raw line wraps it in one of two formats. The dirt comes last.
The README beside this file states the rules by which a phrase becomes a date.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Generic, NamedTuple, TypeAlias, TypeVar

HERE = Path(__file__).parent
Card = TypeVar("Card")


def words(text: str) -> tuple[str, ...]:
    """The words of a table that is written as a block of text."""
    return tuple(text.split())


# ---------------------------------------------------------------------------------------------------------- sizes

TEST_ROWS_PER_DAY = 11
TRAIN_DAYS = 430
FULL_ROWS_PER_DAY, SHORT_ROWS_PER_DAY = 3, 5
"""Many days with few rows each: whoever learns from them must look a day up, for no calendar comes back often enough to
be remembered."""
SHARE_WITHOUT_PRICE = {"train": 0.25, "test": 0.2}
SHORT_SHARES = {"day": 92, "route": 6, "price": 2}
LOOKALIKE = 0.6
"""No two clean requests share more than this part of their 5-character pieces (Jaccard)."""
NEAR_DUPLICATE = 0.8
"""A planted near duplicate shares at least this part with its original."""

DIRT = {"exact": 35, "near": 25, "mojibake": 25, "contact": 30, "blank": 4, "crlf": 6}
"""How many lines of each kind; broken lines are listed one by one in BROKEN, the card number is one row more."""

FIRST_DAY, LAST_DAY = date(2024, 1, 1), date(2028, 12, 31)
TEST_DAYS = words(
    """
    2024-02-29 2025-04-10 2025-12-31 2026-08-26 2027-05-31 2028-09-15
    2024-08-13 2025-03-07 2026-11-21 2027-02-24 2028-05-14 2028-10-30
    """
)
"""The first line is also trained on, the second is not."""

RESERVED_PAIRS = frozenset({frozenset({"NYC", "LHR"})})
"""Kept out of both splits: the pair that every visitor tries first."""

# ------------------------------------------------------------------------------------------------------- families
# [a|b] is a choice, ~...~ is left out when the request names no price. Slots: {o} {d} cities, {O} {D} airport codes,
# {when} "on Friday", {day} "Friday", {dt} "fri", {under} "for less than $800", {p} "$800", {tp} "max 800 usd".

TRAIN_FAMILIES: dict[str, tuple[str, ...]] = {
    "sentence": (
        "[find|get] me [a flight|flights|something] from {o} to {d} {when}~ {under}~",
        "I need [a flight|a seat|to fly] from {o} to {d} {when}~, {under}~",
        "[I want|I would like|I'd like] to [go|fly|travel] to {d} from {o} {when}~ {under}~",
        "book me on a flight to {d} {when}~ {under}~, leaving from {o}",
        "[looking for|I'm looking for|searching for] [flights|a flight|a ticket], {o} to {d}, {when}~, {under}~",
        "show me [what's available|everything|the options] from {o} to {d} for {day}~ {under}~",
        "we [are flying|fly|set out] from {o} {when} and [need to get to|want to land in] {d}~, {under}~",
        "{when} [I have to be in|I'm expected in] {d}. [Flying from|I'll be leaving from] {o}~, {under}~",
        "my [boss|company|office] is sending me to {d} {when}, departing {o}~. [the limit is|they pay up to] {p}~",
        "[departing|leaving] {o} {when}, arriving in {d}~, {under}~",
        "to {d} from {o} {when}~, {under}~",
        "[cheapest|cheap] [flight|flights|ticket] to {d} from {o} for {day}~, {under}~",
        "need to [be in|get to] {d} {when}. I'm in {o} [now|at the moment]~. [budget is|I've got] {p}~",
        "there's a [conference|wedding|trade fair|funeral|reunion] in {d} {when} and I'm in {o}~. anything {under}?~",
        "I live in {o} and want to visit [my sister|my parents|an old friend] in {d} {when}~. {p} is my limit~",
        "{p} is all I [have|can spend]. [get|fly] me [to {d} from {o}|from {o} to {d}] {when}",
        "search [flights|for flights] {o} - {d}, departure {day}~, [price up to|max price|maximum] {p}~",
        "[one way|one-way|single] [ticket|fare] from {o} to {d} {when}~, {under}~",
        "I'm [trying to get|hoping to get|planning to go] from {o} to {d} {when}~ and [can pay|would pay] up to {p}~",
        "with a budget of {p}, find [a flight|something|a seat] to {d} {when}, [starting in|from] {o}",
        "put me on a plane to {d} {when}, I leave from {o}~ and don't want to pay more than {p}~",
        "[our|my] trip starts in {o} {when} and ends in {d}~. we have {p} [at most|max|tops]~",
        "[business|work] trip, {o} to {d}, {day}~, {under}~",
        "the date is {day}, the route is {o} to {d}~, the budget is {p}~",
        "I have to [pick up my kids|see a client|sign a contract] in {d} {when}, so I need a flight from {o}~ {under}~",
        "flying to {d} {when}. from {o}~. {p} max~",
        "a friend and I [want|plan] to go from {o} to {d} {when}~ and we'd like to keep it under {p}~",
        "please [check|look up|pull up] flights for {day}, {o} to {d}~, {under}~",
        "for {day} I need [something|one seat|a plane] out of {o} to {d}~, [nothing over|not above|no more than] {p}~",
        "[I'm moving|relocating] from {o} to {d} {when} and need a ticket~ {under}~",
        "get me out of {o} {when}. [destination is|I want to go to] {d}~. [not more than|max] {p}~",
        "I'd like to leave {o} for {d} {when}~ [if it costs|as long as it's|provided it's] less than {p}~",
        "[send|give] me [options|fares|flight options] to {d} out of {o} for {day}~, [cap|limit] {p}~",
        "wanted: [a seat|one seat] from {o} to {d}, {day}~, [for|at] less than {p}~",
        "fly {o} to {d} {when}~, {under}~",
        "I'm in {o}, I [need|want] to be in {d} {when}~, {under}~",
        "going home to {d} {when}. I'm [stuck|working|studying] in {o} [at the moment|right now]~, I can pay {p}~",
        "for {p} or less, I want to fly into {d} {when}. I start in {o}",
        "any airline is fine, {o} to {d} {when}~, {under}~",
        "[my mother|my dad|my colleague|our son] [needs|has] to get from {o} to {d} {when}~. it should be under {p}~",
        "the plan is to leave {o} {when} and fly to {d}~. [budget|max] {p}~",
        "I've got [an interview|an exam|an audition] in {d} {when}, coming from {o}~. can't spend more than {p}~",
        "I'd be flying in from {o}, to {d}, {when}~. price should stay below {p}~",
    ),
    "question": (
        "can you [find|get] me a [flight|ticket] to {d} from {o} {when}~ {under}~?",
        "is there [anything|a flight|a plane] from {o} to {d} {when}~ {under}~?",
        "what [flights|options] are there from {o} to {d} {when}~ {under}~?",
        "how [can|do] I get from {o} to {d} {when}~ {under}~?",
        "could you [check|look for] flights [leaving|departing] {o} for {d} {when}~, {under}~?",
        "do you have [anything|any seats] to {d} {when}~ {under}~? [I'm flying from|I'd be leaving from] {o}",
        "any [flights|cheap flights|deals|seats left] from {o} to {d} {when}~ {under}~?",
        "which [flights|airlines] go from {o} to {d} {when}~ {under}~?",
        "would it be possible to fly {o} to {d} {when}~ {under}~?",
        "is {p} enough [to get from {o} to {d}|for a flight from {o} to {d}] {when}?",
        "what can I get for {p} [max|or less] from {o} to {d} {when}?",
        "who flies from {o} to {d} {when}~ {under}~?",
        "I'm wondering if there are flights to {d} {when}~ {under}~ from {o}?",
    ),
    "chat": (
        "can u [find|get] me smth from {o} to {d} {when}~ {under}~",
        "[wanna|want to] [go|fly] to {d} {when}, im in {o}~. got {p}~",
        "need flight {o} {d} {when}~ {under}~",
        "[so|ok so|ok] i need to get to {d} from {o} {when}~, {under}~",
        "[lookin for|looking 4] a flight {o} to {d} {when}~ {under}~",
        "[gotta|have to] be in {d} {when}, flying out of {o}~, {p} [max|tops]~",
        "is there any way 2 get from {o} to {d} {when}~ {under}~",
        "{when} from {o} to {d}~, {under}~",
        "{d} {when} from {o}~ {under}~, whats the cheapest",
        "we r [two|three|four] people going {o} to {d} {when}~, {p} each [max|tops]~",
        "me again, {d} this time, {when}, leaving {o}~, {p} tops~",
    ),
    "terse": (
        "{o} -> {d} {dt}~ {tp}~",
        "{o} to {d} {dt}~ {tp}~",
        "{o}-{d} {dt}~ {tp}~",
        "{O}-{D} {dt}~ {tp}~",
        "{O} to {D}, {dt}~, {tp}~",
        "from {O} to {D} {when}~ {under}~",
        "flight {o} {d} {dt}~ {tp}~",
        "{dt} {o} {d}~ {tp}~",
        "{d} from {o}, {dt}~, {tp}~",
        "to {d} / from {o} / {dt}~ / {tp}~",
        "from: {o}, to: {d}, [date|when]: {day}~, [budget|max]: {p}~",
        "{tp} {o} {d} {dt}",
        "{dt}: {o} > {d}~, {tp}~",
        "flights {o} {d} {day}~ [budget|limit] {p}~",
        "1 [adult|pax|person], {o} to {d}, {dt}~, {tp}~",
        "{O}/{D} {dt}~ {tp}~",
        "origin {o}. destination {d}. {dt}~. {tp}~",
        "cheap {o} {d} {dt}~ {tp}~",
        "one way {o} {d} {dt}~ {tp}~",
        "{d} {dt}, leaving {o}~, {tp}~",
        "ticket to {d} from {o} {dt}~ {tp}~",
    ),
}

SHORT_ROUTES = (
    "{o} to {d}",
    "from {o} to {d}",
    "to {d} from {o}",
    "{d} from {o}",
    "{o} {d}",
    "{o} - {d}",
    "{o} -> {d}",
    "{O} {D}",
)
"""How the short rows name a route."""

TEST_FAMILIES: dict[str, tuple[str, ...]] = {
    "sentence": (
        "[help me get|I need help getting] from {o} to {d} {when}~, {p} is the most I'll pay~",
        "[please arrange|kindly arrange] air travel for me, {o} to {d}, {when}~, at a cost of no more than {p}~",
        "hook me up with a plane ticket to {d}, I'm based in {o} and leaving {when}~. don't go over {p}~",
        "my [cousin|best friend|niece] is getting married in {d}. I'd fly out of {o} {when}~ and not spend over {p}~",
        "see if [anyone|somebody] flies {o} to {d} {when}~ for {p} or cheaper~",
        "let's go to {d}! taking off from {o} {when}~, [keep it|stay] within {p}~",
        "I was told you can search flights. {o} to {d}. {when}~. {under}~",
        "got {p} burning a hole in my pocket, take me to {d} {when}. home airport is {o}",
        "travel request. departure city {o}, arrival city {d}, travel day {day}~, price cap {p}~",
        "{d} is calling! [flights|seats] {when} with {o} as the starting point~, {under}~",
        "the [team|whole family|band] goes {o} to {d} {when}~. each ticket can cost {p} at most~",
        "try {day} for {o} to {d}~, spending limit {p}~",
        "mum's birthday is in {d} and I'm still in {o}. have to travel {when}~, {under}~",
        "I'll be done in {o} {when} and want to go straight to {d}~. {p} or under~",
    ),
    "question": (
        "what would a trip to {d} {when} look like if I set off from {o}~ and keep it below {p}~?",
        "if I leave {o} {when}, can I reach {d}~ without spending more than {p}~?",
        "how much is it to fly to {d} out of {o} {when}~? I won't go above {p}~",
        "would you mind looking for a seat to {d}? it's {when} and I begin in {o}~, hopefully under {p}~",
        "does {p} buy me a seat on a plane {o} to {d} {when}?",
    ),
    "chat": (
        "pls sort me out a plane {o} to {d} {when}~, {p} is the ceiling~",
        "i leave {o} {when}, next stop {d}~, {under}~",
        "beam me from {o} to {d} {when}~ {under}~ lol",
    ),
    "terse": (
        "dep {o} arr {d} {dt}~ {tp}~",
        "{o} >> {d} // {dt}~ // {tp}~",
        "{d} ({dt}) ex {o}~, {tp}~",
        "plane {o} {d} {dt}~ {tp}~ pls",
        "{O} {D} {dt}~ {tp}~",
        "fare check {o} {d} {dt}~ {tp}~",
        "when? {day}. where? {o} to {d}~. how much? {p}~",
    ),
}

# ------------------------------------------------------------------------------------------------- what people add

GREETINGS = (
    "hi,",
    "hi!",
    "hello,",
    "hello!",
    "hey,",
    "hi there,",
    "hiya,",
    "good morning,",
    "good evening.",
    "dear team,",
)
CASUAL_GREETINGS = ("hi", "hey", "hey,", "yo", "hello", "hi!")
THANKS = ("please", "thanks", "thank you", "thanks a lot", "thx", "ty", "cheers", "many thanks", "thanks in advance")

CHATTER = {
    "train": (
        "I'm flexible on times", "it's for work", "aisle seat if possible", "only hand luggage", "one checked bag",
        "I hate layovers", "direct if you can", "no red-eyes please", "I'm travelling with my dog",
        "two adults and a baby", "my boss is paying", "I don't mind one stop", "economy is fine",
        "first time flying", "window seat", "no hotel needed", "sorry for the rush", "I'll have a guitar with me",
        "vegetarian meal", "never been there", "can't wait", "we're students", "I need a receipt",
        "any time of day works", "the earlier the better", "late evening is okay", "it's our honeymoon",
        "visiting my sister", "visiting family", "I'm a bit nervous about flying", "wheelchair assistance needed",
        "I have tons of air miles", "my old job was there", "don't care about the airline", "just me",
        "not fussed about meals", "long story", "it's my first trip abroad", "I lost my last booking",
        "seeing a friend", "a short layover is ok", "I'm quite tall so extra legroom", "no budget airlines",
        "premium economy would be nice", "need to bring skis", "I work remotely so whatever", "got my visa already",
        "my daughter lives there", "for a football match", "there is a concert", "I get airsick",
        "no overnight flights", "the kids are coming too", "doing a semester there",
    ),
    "test": (
        "nothing fancy", "I can be at the airport early", "we have a pushchair", "my knee is bad so an exit row",
        "it's a surprise for my wife", "dentist appointment", "I'm done with trains", "carry-on only",
        "one stop is my maximum", "I collect miles", "my friend recommended this app", "my cat stays home",
        "hope you can help", "I don't eat meat", "no early starts", "holiday at last",
    ),
}  # fmt: skip

TYPOS = {
    "flight": ("fligth", "flihgt", "flght"), "flights": ("fligths", "flighs"), "looking": ("lookin", "loking"),
    "from": ("form", "fomr"), "need": ("ned", "nede"), "tickets": ("tikets",), "ticket": ("tiket", "tickt"),
    "please": ("plase", "pleas"), "leaving": ("leavin", "leaveing"), "cheapest": ("cheepest",), "want": ("wnat",),
    "arriving": ("ariving",), "departing": ("deparing",), "would": ("woud",), "business": ("bussiness",),
    "tomorrow": ("tommorow", "tomorow", "tommorrow"), "wednesday": ("wensday", "wednsday"), "thursday": ("thurday",),
    "tuesday": ("teusday",), "saturday": ("saterday",), "february": ("febuary",), "dollars": ("dolars",),
    "budget": ("buget",),
}  # fmt: skip
TYPO_SHARE = 0.06

# --------------------------------------------------------------------------------------------------------- prices

WRITTEN: dict[str, tuple[str, ...]] = {
    "USD": (
        "${n}",
        "${n}",
        "${n}",
        "${n}",
        "{n} dollars",
        "{n} bucks",
        "USD {n}",
        "{n} USD",
        "{n}usd",
        "US${n}",
        "{n}$",
    ),
    "EUR": ("€{n}", "€{n}", "{n} €", "{n}€", "{n} euros", "{n} euro", "EUR {n}", "{n} EUR", "{n}eur"),
    "GBP": ("£{n}", "£{n}", "£{n}", "{n} pounds", "{n} quid", "GBP {n}", "{n} GBP"),
    "CAD": ("C${n}", "CA${n}", "{n} CAD", "CAD {n}", "{n} Canadian dollars"),
    "AUD": ("A${n}", "AU${n}", "{n} AUD", "AUD {n}", "{n} Australian dollars", "{n} Aussie dollars"),
    "JPY": ("¥{n}", "{n} yen", "{n} yen", "{n} JPY", "JPY {n}"),
    "CHF": ("CHF {n}", "{n} francs", "{n} Swiss francs", "{n} CHF"),
    "INR": ("₹{n}", "{n} rupees", "Rs {n}", "INR {n}", "{n} INR"),
}
"""How people write an amount, by currency; an entry that stands twice is twice as common."""

ROUND = (
    130, 150, 180, 199, 220, 240, 250, 275, 280, 299, 300, 320, 340, 350, 360, 375, 380, 399, 400, 420, 430, 450,
    460, 475, 480, 499, 500, 520, 540, 550, 575, 580, 599, 600, 620, 640, 650, 675, 680, 699, 700, 720, 740, 750,
    780, 799, 800, 820, 840, 850, 875, 880, 899, 900, 925, 940, 950, 980, 999, 1000, 1050, 1100, 1150, 1200, 1250,
    1300, 1350, 1400, 1450, 1500, 1600, 1750, 1800, 2000, 2200, 2500,
)  # fmt: skip
FEW = {
    "JPY": (28000, 35000, 45000, 60000, 75000, 80000, 90000, 110000, 120000, 150000, 180000),
    "INR": (12000, 18000, 25000, 32000, 40000, 45000, 55000, 60000, 75000, 90000),
}
BASE_WEIGHTS = {"USD": 66.0, "EUR": 11.0, "GBP": 9.0, "CAD": 0.3, "AUD": 0.3, "JPY": 0.3, "CHF": 0.3, "INR": 0.3}
HOME_CURRENCY = {
    "YYZ": "CAD", "YVR": "CAD", "YUL": "CAD", "SYD": "AUD", "MEL": "AUD", "HND": "JPY", "ZRH": "CHF", "DEL": "INR",
    "BOM": "INR", "LHR": "GBP", "CDG": "EUR", "BER": "EUR", "MUC": "EUR", "FRA": "EUR", "AMS": "EUR", "MAD": "EUR",
    "BCN": "EUR", "LIS": "EUR", "FCO": "EUR", "MXP": "EUR", "VIE": "EUR", "DUB": "EUR", "ATH": "EUR",
}  # fmt: skip
HOME_WEIGHTS = {"EUR": 18.0, "GBP": 18.0, "CAD": 30.0, "AUD": 40.0, "JPY": 70.0, "CHF": 60.0, "INR": 35.0}
ZONES = (
    words("NYC SFO LAX ORD BOS MIA SEA IAD DFW DEN ATL LAS YYZ YVR YUL MEX"),
    words("LHR CDG BER MUC FRA AMS MAD BCN LIS FCO MXP VIE ZRH CPH ARN OSL DUB ATH IST PRG CAI"),
    words("HND DXB DEL BOM BKK SIN HKG ICN SYD MEL"),
)
NEAR_TOP, FAR_BOTTOM = 720, 340
"""Nobody offers more than the first within a zone, or less than the second between zones (FEW apart)."""

UNDER = (
    "under {p}", "under {p}", "under {p}", "for less than {p}", "below {p}", "for {p} or less", "max {p}", "{p} max",
    "for no more than {p}", "up to {p}", "for under {p}", "for {p} tops", "for at most {p}", "cheaper than {p}",
    "not over {p}", "maximum {p}", "for max {p}",
)  # fmt: skip
TERSE_UNDER = (
    "<{p}",
    "< {p}",
    "under {p}",
    "max {p}",
    "max {p}",
    "{p} max",
    "{p}",
    "upto {p}",
    "budget {p}",
    "below {p}",
)

# ---------------------------------------------------------------------------------------------------------- dates

DATE_SHARES = {"weekday": 35, "soon": 17, "distance": 15, "month_day": 28, "loose": 5}
SHORT_DATE_SHARES = {"weekday": 42, "soon": 24, "distance": 18, "month_day": 13, "loose": 3}
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SHORT_WEEKDAYS = (("Mon",), ("Tue", "Tues"), ("Wed", "Weds"), ("Thu", "Thurs"), ("Fri",), ("Sat",), ("Sun",))
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
)

# -------------------------------------------------------------------------------------------------------- the dirt

CONTACTS = (
    "reach me at {email}", "call {phone}", "my email is {email}", "confirmation to {email} please",
    "text me on {phone}", "you can call me on {phone}", "this is {name}, {email}",
    "{name} here, my number is {phone}", "send the options to {email}", "best, {name} {phone}", "tel. {phone}",
    "write to {email} if it's sold out",
)  # fmt: skip
PEOPLE = (
    ("Anna Keller", "anna.k@example.com", "212-555-0147"),
    ("Jules Moreau", "j.moreau@example.org", "+33 1 99 00 27 44"),
    ("Priya Nair", "priya_nair88@example.com", "(415) 555-0132"),
    ("Tom Whitlock", "tom@whitlock.example", "020 7946 0812"),
    ("Marek Dvorsky", "marek.dvorsky@example.net", "+49 30 23125 118"),
    ("Lucia Ferro", "lucia.ferro+travel@example.com", "312-555-0178"),
    ("Sam Okafor", "sokafor@example.org", "+44 7700 900417"), ("Hana Ito", "hana.ito@example.com", "206.555.0119"),
    ("Diego Paz", "dpaz@mail.example", "+1 303 555 0164"),
    ("Ellen Brandt", "e.brandt@example.net", "+49 30 23125 406"),
    ("Noor Haddad", "noor.h@example.com", "(305) 555-0183"),
    ("Callum Reid", "callumreid@example.org", "07700 900852"),
    ("Ines Duarte", "ines.duarte@example.com", "617-555-0125"),
    ("Victor Lang", "v.lang@example.net", "+61 491 570 156"), ("Grace Obi", "grace.obi@example.com", "404-555-0190"),
)  # fmt: skip
CARD = "you can charge my card 4242 4242 4242 4242"

BROKEN = (
    '{"date": "2025-04-10", "instruction": "flight from Oslo to Rome on Mon',
    '{"date": "2026-06-17", "messages": [{"role": "user", "content": "Vienna to Paris tomorrow"}, {"role": "assis',
    '{"date": "2024-05-18", "instruction": "Boston to Miami on Friday", "response": "{\\"action\\":\\"search_fl"',
    "--- export resumed 2027-03-21 04:10 UTC ---",
    "TODO: ask support for the rest of this ticket",
    '["2025-05-22", "Dublin to Madrid on Sunday", null]',
    "{}",
    '{"date": "2026-01-31", "messages": "Seattle to Denver tomorrow"}',
    '{"date": "2028-08-13", "instruction": 40817, "response": "{}"}',
    '{"date": "2027-05-08", "instruction": "Cairo to Athens in 3 days", "response": null}',
    '{"date": "2025-02-17", "instruction": "any flights from Prague to Dublin on Saturday?"}',
    '{"date": "2028-03-04", "messages": [{"role": "user", "content": "Tokyo to Seoul next Monday please"}]}',
)

NEAR_SWAPS = (
    ("flight", "flights"), ("flights", "flight"), ("need", "want"), ("find", "get"), ("want", "need"),
    ("under", "below"), ("leaving", "departing"), ("ticket", "fare"), ("going", "flying"), ("anything", "something"),
    ("please", "pls"), ("I'm", "I am"), ("it's", "it is"), ("have to", "must"), ("at most", "max"),
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------------- nouns


@dataclass(frozen=True)
class City:
    """One line of `cities.json`."""

    city: str
    code: str
    aliases: tuple[str, ...]


Route: TypeAlias = tuple[City, City]
Pairs: TypeAlias = frozenset[frozenset[str]]


class Mention(NamedTuple):
    """One way to name a day: as an adverbial, as a noun, in shorthand, and the day that is meant."""

    when: str
    day: str
    short: str
    target: date


class Price(NamedTuple):
    """What the traveller would pay at most, and how the request writes it."""

    amount: int
    currency: str
    text: str


@dataclass(frozen=True)
class Example:
    """A request, the answer to it, and where it came from."""

    day: date
    split: str
    family: str
    skeleton: str
    text: str
    answer: str

    def key(self) -> tuple[str, str, str]:
        """What makes two rows the same row, whatever their format."""
        return self.day.isoformat(), self.text, self.answer


class Deck(Generic[Card]):
    """Deals the cards in random order, and shuffles them again when all are dealt: even use, random order."""

    def __init__(self, rng: random.Random, cards: Sequence[Card]) -> None:
        self._rng, self._cards, self._left = rng, tuple(cards), list[Card]()

    def deal(self) -> Card:
        """The next card."""
        if not self._left:
            self._left = list(self._cards)
            self._rng.shuffle(self._left)
        return self._left.pop()


def load_cities(path: Path = HERE / "cities.json") -> list[City]:
    """The code table, in file order."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [City(row["city"], row["code"], tuple(row["aliases"])) for row in rows]


# ------------------------------------------------------------------------------------------------ days and phrases


def weekday_after(today: date, weekday: int) -> date:
    """The first such weekday strictly after `today` (Monday is 0)."""
    return today + timedelta(days=(weekday - today.weekday() - 1) % 7 + 1)


def day_of_month_after(today: date, number: int) -> date:
    """The next day with this number strictly after `today`; months without it are passed over."""
    found = today + timedelta(days=1)
    while found.day != number:
        found += timedelta(days=1)
    return found


def ordinal(number: int) -> str:
    """1 -> 1st, 12 -> 12th, 23 -> 23rd."""
    suffix = "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def name_weekday(rng: random.Random, today: date) -> Mention:
    """A weekday: "next Friday", "on Friday morning", "fri"."""
    target = weekday_after(today, rng.randrange(7))
    name, short = WEEKDAYS[target.weekday()], rng.choice(SHORT_WEEKDAYS[target.weekday()])
    part = rng.choice(("", "", "", "", "", " morning", " evening", " afternoon", " night"))
    plain = ("next {}", "next {}", "on {}", "on {}", "this {}", "{}", "coming {}", "this coming {}")
    noun = ("{}", "{}", "next {}", "this {}", "the coming {}")
    terse = rng.choice((short, short.lower(), name, f"next {name}", f"next {short}", f"this {short}", f"on {name}"))
    return Mention(rng.choice(plain).format(name) + part, rng.choice(noun).format(name) + part, terse, target)


def name_soon(rng: random.Random, today: date) -> Mention:
    """A day at hand: "today", "tomorrow morning", "the day after tomorrow"."""
    days = rng.choices((0, 1, 2), (5, 7, 5))[0]
    when, noun, short = (
        (("today", "today", "tonight", "later today", "this evening"), ("today", "tonight"), ("today", "tonight")),
        (
            (
                "tomorrow",
                "tomorrow",
                "tomorrow",
                "tomorrow morning",
                "tomorrow night",
                "first thing tomorrow",
                "tomorrow afternoon",
            ),
            ("tomorrow", "tomorrow", "tomorrow evening"),
            ("tomorrow", "tmrw", "tmrw", "tmr", "2moro"),
        ),
        (
            ("the day after tomorrow", "the day after tomorrow", "day after tomorrow"),
            ("the day after tomorrow",),
            ("day after tomorrow", "day after tmrw"),
        ),
    )[days]
    return Mention(rng.choice(when), rng.choice(noun), rng.choice(short), today + timedelta(days=days))


def name_distance(rng: random.Random, today: date) -> Mention:
    """A distance: "in 5 days", "a week from today", "in two weeks"."""
    days = rng.choices((0, 7, 10, 14), (58, 20, 6, 16))[0] or rng.randrange(2, 8)
    if days == 7 and rng.random() < 0.85:
        when, noun, short = (
            ("in a week", "a week from today", "in one week"),
            ("a week from today",),
            ("in a week", "in 1 week"),
        )
    elif days == 14 and rng.random() < 0.85:
        when, noun, short = (
            ("in two weeks", "in 2 weeks", "two weeks from today"),
            ("two weeks from today",),
            ("in 2 weeks", "in two weeks"),
        )
    else:
        count = rng.choice((str(days), str(days), NUMBERS[days] if days < len(NUMBERS) else str(days)))
        when = (f"in {count} days", f"in {count} days", f"{count} days from now", f"in {count} days' time")
        noun, short = (f"{count} days from now", f"{count} days from today"), (f"in {days} days",)
    return Mention(rng.choice(when), rng.choice(noun), rng.choice(short), today + timedelta(days=days))


def name_month_day(rng: random.Random, today: date) -> Mention:
    """A date: "July 15", "on the 15th of July", "7/15", "2025-07-15"; mostly soon, sometimes months away."""
    low, high = rng.choices(((0, 3), (4, 60), (61, 150), (151, 300)), (4, 62, 24, 10))[0]
    target = today + timedelta(days=rng.randint(low, high))
    if target.day > 20 and rng.random() < 0.4:
        target += timedelta(days=11)
        target = target.replace(day=rng.randint(1, 9))
    if (target.month, target.day) == (2, 29):
        target += timedelta(days=1)
    month, day, nth = MONTHS[target.month - 1], target.day, ordinal(target.day)
    abbreviated = "Sept" if target.month == 9 and rng.random() < 0.5 else month[:3]
    weekday, short_day = WEEKDAYS[target.weekday()], rng.choice(SHORT_WEEKDAYS[target.weekday()])
    spoken = (
        f"{month} {day}", f"{month} {day}", f"{day} {month}", f"{month} {nth}", f"{nth} {month}",
        f"{abbreviated} {day}", f"{day} {abbreviated}", f"{abbreviated} {nth}", f"the {nth} of {month}",
        f"the {nth} of {month}", f"{weekday} {month} {day}", f"{weekday} the {nth} of {month}",
        f"{short_day} {day} {abbreviated}", f"{target.month}/{day}", target.isoformat(),
        f"{day} {month} {target.year}", f"{nth} of {month}",
    )  # fmt: skip
    terse = (
        f"{day} {abbreviated}", f"{abbreviated} {day}", f"{abbreviated} {day}".lower(), f"{target.month}/{day}",
        target.isoformat(), f"{month} {day}", f"{nth} {abbreviated}", f"{short_day} {day} {abbreviated}".lower(),
    )  # fmt: skip
    noun = rng.choice(spoken)
    return Mention(rng.choice((f"on {noun}", f"on {noun}", noun)), noun, rng.choice(terse), target)


def name_loose(rng: random.Random, today: date) -> Mention:
    """The loose ones: "this weekend", "on the 15th"."""
    if rng.random() < 0.45:
        return Mention("this weekend", "this weekend", "this weekend", weekday_after(today, WEEKDAYS.index("Saturday")))
    target = day_of_month_after(today, rng.randint(1, 28))
    return Mention(f"on the {ordinal(target.day)}", f"the {ordinal(target.day)}", f"the {ordinal(target.day)}", target)


DATE_KINDS: dict[str, Callable[[random.Random, date], Mention]] = {
    "weekday": name_weekday,
    "soon": name_soon,
    "distance": name_distance,
    "month_day": name_month_day,
    "loose": name_loose,
}

# --------------------------------------------------------------------------------------------------------- prices


def write_amount(rng: random.Random, amount: int, currency: str) -> str:
    """800 -> "$800"; thousands with a comma, plain, or now and then as 1.2k."""
    written, digits = rng.choice(WRITTEN[currency]), str(amount)
    if amount >= 1000:
        may_shorten = amount % 100 == 0 and not re.search(r"\}[a-z]", written)
        digits = rng.choices((f"{amount:,}", digits, f"{amount / 1000:g}k"), (5, 5, 2 if may_shorten else 0))[0]
    return written.format(n=digits)


def pick_price(rng: random.Random, origin: City, destination: City) -> Price:
    """An amount in a likely currency: dollars first, else the money of either city."""
    weights = dict(BASE_WEIGHTS)
    for city, share in ((origin, 1.0), (destination, 0.5)):
        if home := HOME_CURRENCY.get(city.code):
            weights[home] += share * HOME_WEIGHTS[home]
    currency = rng.choices(list(weights), list(weights.values()))[0]
    near = any(origin.code in zone and destination.code in zone for zone in ZONES)
    likely = [amount for amount in ROUND if (amount <= NEAR_TOP if near else amount >= FAR_BOTTOM)]
    amount = rng.choice(FEW.get(currency, likely))
    return Price(amount, currency, write_amount(rng, amount, currency))


# ------------------------------------------------------------------------------------------------------ requests


def register_of(family: str) -> str:
    """Which hand writes this family: sentence, question, chat or terse."""
    return next(name for table in (TRAIN_FAMILIES, TEST_FAMILIES) for name, rows in table.items() if family in rows)


def needs_price(family: str) -> bool:
    """True when the pattern says nothing sensible without its price."""
    return bool(re.search(r"\{(p|tp|under)\}", re.sub(r"~.*?~", "", family)))


def expand(rng: random.Random, family: str, with_price: bool) -> str:
    """Settle the choices of a family; the slots stay open."""
    text = re.sub(r"~(.*?)~", r"\1" if with_price else "", family)
    return re.sub(r"\[(.*?)\]", lambda found: rng.choice(found[1].split("|")), text)


def misspell(rng: random.Random, text: str) -> str:
    """One slip of the finger in one known word, if there is any."""
    words = [word for word in TYPOS if re.search(rf"\b{word}\b", text, re.IGNORECASE)]
    if not words:
        return text
    word = rng.choice(words)
    return re.sub(rf"\b{word}\b", rng.choice(TYPOS[word]), text, count=1, flags=re.IGNORECASE)


def capitalise(text: str) -> str:
    """Capital letters at the start and after . ! ?"""
    return re.sub(r"(^|[.!?] )([a-zà-ü])", lambda found: found[1] + found[2].upper(), text)


def strip_punctuation(text: str) -> str:
    """Drop what a hurried thumb drops: marks before a space or the end, and apostrophes; 1,200 and 1.5k stay."""
    return re.sub(r"[.,!?;:]+(?=\s|$)", "", text).replace("'", "")


def finish(rng: random.Random, body: str, register: str, chatter: Deck[str]) -> str:
    """Greeting before, thanks and chatter after, as people do, and a last mark."""
    terse, asked = register == "terse", body.endswith("?")
    greeted = rng.random() < (0.03 if terse else 0.18)
    if greeted:
        body = f"{rng.choice(GREETINGS if register in ('sentence', 'question') else CASUAL_GREETINGS)} {body}"
    if rng.random() < (0.04 if terse else 0.13) and not re.search(r"please|pls|kindly", body):
        body = f"{body}{' ' if asked else ', '}{rng.choice(THANKS)}"
    elif rng.random() < (0.05 if terse else 0.22):
        extra = chatter.deal()
        if not greeted and not asked and rng.random() < 0.25:
            return f"{extra}. {body}"
        return f"{body}{' ' if asked else rng.choice(('. ', '. ', ', ', ' - '))}{extra}"
    return body


def hand(rng: random.Random, body: str, register: str) -> str:
    """Capitals and punctuation: proper, all lower case, no marks, or shouting."""
    proper, lower, bare, loud = {
        "sentence": (62, 17, 18, 3),
        "question": (60, 20, 18, 2),
        "chat": (10, 35, 55, 0),
        "terse": (34, 46, 14, 6),
    }[register]
    style = rng.choices(("proper", "lower", "bare", "loud"), (proper, lower, bare, loud))[0]
    if style == "proper":
        if register == "terse":
            return body
        end = "" if body[-1] in "?!." else rng.choices((".", "", "!"), (6, 3, 1))[0]
        text = capitalise(body) + end
        return text.replace("'", "’") if rng.random() < 0.2 else text
    if style == "loud":
        return body.upper()
    return body.lower() if style == "lower" else strip_punctuation(body.lower())


def skeleton(body: str, slots: dict[str, str]) -> str:
    """The request with its cities, day and price taken out: what must not be shared between the splits."""
    return body.format_map({name: f"<{name.lower()}>" for name in slots}).lower()


def shingles(text: str) -> frozenset[str]:
    """The 5-character pieces of a text, letters and digits only."""
    plain = " ".join(re.findall(r"\w+", text.lower()))
    return frozenset(plain[i : i + 5] for i in range(max(1, len(plain) - 4)))


def likeness(left: frozenset[str], right: frozenset[str]) -> float:
    """Jaccard similarity of two sets of pieces, 0 to 1."""
    return len(left & right) / len(left | right)


def compact(answer: object) -> str:
    """JSON without spaces."""
    return json.dumps(answer, separators=(",", ":"))


def answer_json(origin: City, destination: City, target: date, price: Price | None) -> str:
    """The compact answer, keys in the order of the README."""
    parameters: dict[str, str | int] = {
        "origin": origin.code,
        "destination": destination.code,
        "departure_date": target.isoformat(),
    }
    if price:
        parameters |= {"max_price": price.amount, "currency": price.currency}
    return compact({"action": "search_flights", "parameters": parameters})


class Writer:
    """Writes the requests of one split: deals families, names of cities and chatter evenly."""

    def __init__(self, rng: random.Random, split: str, cities: Sequence[City]) -> None:
        self.rng, self.split = rng, split
        table = TRAIN_FAMILIES if split == "train" else TEST_FAMILIES
        families = [family for rows in table.values() for family in rows]
        self.families = Deck(rng, families)
        self.priceless = Deck(rng, [family for family in families if not needs_price(family)])
        self.chatter = Deck(rng, CHATTER[split])
        self.names = {city.code: Deck(rng, (city.city,) * 4 + city.aliases) for city in cities}
        self.routes = Deck(rng, SHORT_ROUTES)
        self.currencies = Deck(rng, tuple(WRITTEN))

    def draft(self, day: date, origin: City, destination: City, kind: str, priced: bool) -> Example:
        """One request. Called again, it gives another one for the same facts."""
        rng = self.rng
        family = (self.families if priced else self.priceless).deal()
        register = register_of(family)
        mention = DATE_KINDS[kind](rng, day)
        price = pick_price(rng, origin, destination) if priced else None
        amount = price.text if price else ""
        slots = {
            "o": self.names[origin.code].deal(), "d": self.names[destination.code].deal(),
            "O": origin.code, "D": destination.code, "when": mention.when, "day": mention.day, "dt": mention.short,
            "p": amount, "under": rng.choice(UNDER).format(p=amount), "tp": rng.choice(TERSE_UNDER).format(p=amount),
        }  # fmt: skip
        body = expand(rng, family, priced)
        text = finish(rng, body.format_map(slots), register, self.chatter)
        if rng.random() < TYPO_SHARE:
            text = misspell(rng, text)
        return Example(
            day, self.split, family, skeleton(body, slots), hand(rng, text, register),
            answer_json(origin, destination, mention.target, price),
        )  # fmt: skip

    def draft_short(self, day: date, origin: City, destination: City, part: str) -> Example:
        """A few words that name one part of a request, as people answer "when?", and that part of the answer."""
        rng, answer = self.rng, dict[str, str | int]()
        if part == "day":
            kind = rng.choices(list(SHORT_DATE_SHARES), list(SHORT_DATE_SHARES.values()))[0]
            mention = DATE_KINDS[kind](rng, day)
            text, answer["departure_date"] = rng.choice(mention[:3]), mention.target.isoformat()
        elif part == "route":
            text = self.routes.deal().format(
                o=self.names[origin.code].deal(),
                d=self.names[destination.code].deal(),
                O=origin.code,
                D=destination.code,
            )
            answer |= {"origin": origin.code, "destination": destination.code}
        else:
            currency = self.currencies.deal()
            amount = rng.choice(FEW.get(currency, ROUND))
            text = rng.choice(UNDER).format(p=write_amount(rng, amount, currency))
            answer |= {"max_price": amount, "currency": currency}
        text = text if rng.random() < 0.6 else text.lower()
        return Example(day, self.split, "", f"{part}: {text}", text, compact(answer))


def share_out(rng: random.Random, shares: dict[str, int], total: int) -> list[str]:
    """`total` names in the given shares, shuffled; the largest share takes what rounding leaves."""
    names = [name for name, share in shares.items() for _ in range(round(total * share / sum(shares.values())))]
    names = (names + [max(shares, key=lambda name: shares[name])] * total)[:total]
    rng.shuffle(names)
    return names


def pick_pairs(rng: random.Random, cities: Sequence[City], total: int, banned: Pairs) -> list[Route]:
    """`total` routes outside `banned`, every city about equally often at both ends."""
    decks = Deck(rng, cities), Deck(rng, cities)
    origins, destinations = ([deck.deal() for _ in range(total)] for deck in decks)

    def fits(origin: City, destination: City) -> bool:
        return origin != destination and frozenset((origin.code, destination.code)) not in banned

    for index, origin in enumerate(origins):
        while not fits(origin, destinations[index]):
            other = rng.randrange(total)
            if fits(origin, destinations[other]) and (other > index or fits(origins[other], destinations[index])):
                destinations[index], destinations[other] = destinations[other], destinations[index]
    return list(zip(origins, destinations, strict=True))


def unordered(pairs: Sequence[Route]) -> Pairs:
    """The pairs without their direction."""
    return frozenset(frozenset((origin.code, destination.code)) for origin, destination in pairs)


def write_split(
    writer: Writer, days: Sequence[str], pairs: Sequence[Route], seen: list[frozenset[str]]
) -> Iterator[Example]:
    """The clean rows of a split, none of them a lookalike of a text in `seen` (which grows)."""
    rng, total = writer.rng, len(pairs)
    kinds = share_out(rng, DATE_SHARES, total)
    unpriced = round(total * SHARE_WITHOUT_PRICE[writer.split])
    priced = share_out(rng, {"": unpriced, "yes": total - unpriced}, total)
    for index, (origin, destination) in enumerate(pairs):
        day = date.fromisoformat(days[index % len(days)])
        while True:
            example = writer.draft(day, origin, destination, kinds[index], bool(priced[index]))
            pieces = shingles(example.text)
            if all(likeness(pieces, other) < LOOKALIKE for other in seen):
                break
        seen.append(pieces)
        yield example


def write_short(writer: Writer, days: Sequence[str], pairs: Sequence[Route]) -> Iterator[Example]:
    """The short rows of training, none of them twice for a day."""
    parts, seen = share_out(writer.rng, SHORT_SHARES, len(pairs)), set[tuple[str, str]]()
    for index, (origin, destination) in enumerate(pairs):
        day = days[index % len(days)]
        while True:
            example = writer.draft_short(date.fromisoformat(day), origin, destination, parts[index])
            if (day, example.text.lower()) not in seen:
                break
        seen.add((day, example.text.lower()))
        yield example


def pick_days(rng: random.Random, total: int) -> list[str]:
    """`total` days to train on: the first half of TEST_DAYS and others, never the second half.

    Half of the others are in the last four months of a year, when the date that a request names is often next year's.
    """
    days = list(TEST_DAYS[: len(TEST_DAYS) // 2])
    every = [FIRST_DAY + timedelta(days=n) for n in range((LAST_DAY - FIRST_DAY).days + 1)]
    for late in (False, True):
        pool = [day.isoformat() for day in every if (day.month > 8) == late and day.isoformat() not in TEST_DAYS]
        days += rng.sample(pool, (total - len(days)) // (1 if late else 2))
    rng.shuffle(days)
    return days


def build_examples(seed: int) -> list[Example]:
    """All clean rows, test first: its city pairs are then closed to training."""
    rng, cities, seen = random.Random(seed), load_cities(), list[frozenset[str]]()
    test_pairs = pick_pairs(rng, cities, len(TEST_DAYS) * TEST_ROWS_PER_DAY, RESERVED_PAIRS)
    banned = RESERVED_PAIRS | unordered(test_pairs)
    full_pairs = pick_pairs(rng, cities, TRAIN_DAYS * FULL_ROWS_PER_DAY, banned)
    short_pairs = pick_pairs(rng, cities, TRAIN_DAYS * SHORT_ROWS_PER_DAY, banned)
    test = list(write_split(Writer(rng, "test", cities), TEST_DAYS, test_pairs, seen))
    writer, days = Writer(rng, "train", cities), pick_days(rng, TRAIN_DAYS)
    return [*test, *write_split(writer, days, full_pairs, seen), *write_short(writer, days, short_pairs)]


# ------------------------------------------------------------------------------------------------------- the dirt


def break_encoding(text: str) -> str | None:
    """UTF-8 read as Windows-1252, the classic accident; None where the accident leaves no trace or cannot happen."""
    try:
        broken = text.encode("utf-8").decode("cp1252")
    except UnicodeDecodeError:
        return None
    return broken if broken != text else None


def add_contact(rng: random.Random, text: str) -> str:
    """The request with somebody's address or number in it."""
    name, email, phone = rng.choice(PEOPLE)
    note = rng.choice(CONTACTS).format(name=name, email=email, phone=phone)
    separator = " " if text.endswith(("?", "!", ".")) else rng.choice((". ", ", ", " - "))
    return f"{text}{separator}{note[0].upper() + note[1:] if separator in (' ', '. ') else note}"


def nearly(rng: random.Random, text: str) -> str | None:
    """The request with one word or mark changed; None where no small change is at hand."""
    swaps = [text.replace(old, new, 1) for old, new in NEAR_SWAPS if re.search(rf"\b{old}\b", text)]
    marks = [f"{text} ..", text.replace(",", "", 1) if ", " in text else f"{text}!", f"{text} :)"]
    changed = rng.choice(swaps if swaps and rng.random() < 0.7 else marks)
    alike = likeness(shingles(text), shingles(changed)) >= NEAR_DUPLICATE
    return changed if alike and changed != text else None


def pick_rows(
    rng: random.Random, rows: Sequence[Example], free: list[int], count: int, change: Callable[[str], str | None]
) -> dict[int, str]:
    """`count` rows of `free` for which `change` gives something, with what it gives; they leave `free`."""
    picked: dict[int, str] = {}
    for index in rng.sample(free, len(free)):
        changed = change(rows[index].text)
        if changed is not None and len(picked) < count:
            picked[index] = changed
            free.remove(index)
    if len(picked) < count:
        raise ValueError(f"only {len(picked)} of {count} rows can take this change; try another seed")
    return picked


def row_json(example: Example, as_messages: bool) -> str:
    """One raw line, in either format."""
    row: dict[str, object] = {"date": example.day.isoformat()}
    if as_messages:
        row["messages"] = [{"role": "user", "content": example.text}, {"role": "assistant", "content": example.answer}]
    else:
        row |= {"instruction": example.text, "response": example.answer}
    if example.split == "test":
        row["split"] = "test"
    return json.dumps(row, ensure_ascii=False)


def soil(rng: random.Random, train: list[Example]) -> tuple[list[Example], list[Example]]:
    """The training rows with their accidents, and the doubles to add. None takes part in two, short rows in none."""
    free, rows = [index for index, example in enumerate(train) if example.family], list(train)
    texts = pick_rows(rng, train, free, DIRT["mojibake"], break_encoding)
    texts |= pick_rows(rng, train, free, DIRT["contact"], lambda text: add_contact(rng, text))
    texts |= pick_rows(rng, train, free, 1, lambda text: f"{text}. {CARD}" if text[-1].isalnum() else None)
    near = pick_rows(rng, train, free, DIRT["near"], lambda text: nearly(rng, text) if len(text) >= 55 else None)
    exact = pick_rows(rng, train, free, DIRT["exact"], lambda text: text)
    for index, text in texts.items():
        rows[index] = replace(train[index], text=text)
    return rows, [replace(train[index], text=text) for index, text in (near | exact).items()]


def build_lines(seed: int) -> list[str]:
    """Every line of the file, with its line end."""
    examples, rng = build_examples(seed), random.Random(seed + 1)
    train, doubles = soil(rng, [example for example in examples if example.split == "train"])
    rows = train + doubles + [example for example in examples if example.split == "test"]
    formats = Deck(rng, (True, False))
    lines = [row_json(example, formats.deal()) for example in rows] + list(BROKEN) + [""] * DIRT["blank"]
    rng.shuffle(lines)
    windows = set(rng.sample([index for index, line in enumerate(lines) if line], DIRT["crlf"]))
    return [line + ("\r\n" if index in windows else "\n") for index, line in enumerate(lines)]


def main() -> None:
    """Read the arguments, write the file, say what is in it."""
    parser = argparse.ArgumentParser(description="Write the demo's raw flight requests.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=HERE / "requests.jsonl")
    arguments = parser.parse_args()
    lines = build_lines(arguments.seed)
    arguments.out.write_bytes("".join(lines).encode("utf-8"))
    print(f"{arguments.out}: {len(lines)} lines")


if __name__ == "__main__":
    main()
