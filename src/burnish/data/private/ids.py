"""National identity numbers: the US social security number and about forty others, by checksum and the words before.

A number whose shape and checksum are telling by themselves needs no word; where the digits alone are weak, a word such
as "passport" must stand shortly before. Checksums are python-stdnum's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import NamedTuple

from burnish.data.private.kinds import Found, Kind
from burnish.data.private.signs import WORDS_BEFORE, beginnings, places


class Rule(NamedTuple):
    """A number: its name, its shape, the module of python-stdnum that checks it, the words it needs before it."""

    name: str
    pattern: str
    module: str = ""
    words: str = ""


_SSN = "(?!000|666|9)[0-9]{3}{s}(?!00)[0-9]{2}{s}(?!0000)[0-9]{4}".replace("{s}", "[-\u2010\u2011]")
STRONG = (
    Rule("us-ssn", _SSN),
    Rule("us-itin", r"9\d\d-(?:5\d|6[0-5]|7\d|8[0-8]|9[0-24-9])-\d{4}"),
    Rule("br-cpf", r"\d{3}\.\d{3}\.\d{3}-\d\d", "br.cpf"),
    Rule("ch-ahv", r"756\.\d{4}\.\d{4}\.\d\d", "ch.ssn"),
    Rule("kr-rrn", r"\d{6}-[1-8]\d{6}", "kr.rrn"),
    Rule("be-nn", r"\d\d\.\d\d\.\d\d-\d{3}\.\d\d", "be.nn"),
    Rule("cz-rc", r"\d{6}/\d{4}", "cz.rc"),
    Rule("cl-rut", r"\d{1,2}\.\d{3}\.\d{3}-[\dKk]", "cl.rut"),
    Rule("th-pin", r"\d-\d{4}-\d{5}-\d\d-\d", "th.pin"),
    Rule("cn-ric", r"[1-8]\d{5}(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dX]", "cn.ric"),
    Rule("se-pnr", r"(?:19|20)\d{6}-\d{4}", "se.personnummer"),
    Rule("fr-nir", r"[12][ ]?\d\d[ ]?(?:0[1-9]|1[0-2])[ ]?(?:\d\d|2[AB])[ ]?\d{3}[ ]?\d{3}[ ]?\d\d", "fr.nir"),
    Rule("fi-hetu", r"(?:0[1-9]|[12]\d|3[01])(?:0[1-9]|1[0-2])\d\d[-+A]\d{3}[0-9A-Y]", "fi.hetu"),
    Rule("es-dni", r"\d{8}-[A-HJ-NP-TV-Z]", "es.dni"),
)
"""Numbers that need no word before them; all begin with a digit."""

LETTERED = (
    Rule("gb-nino", r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][ ]?\d\d[ ]?\d\d[ ]?\d\d[ ]?[A-D]"),
    Rule("it-codice-fiscale", r"[A-Z]{6}\d\d[A-EHLMPR-T]\d\d[A-Z]\d{3}[A-Z]", "it.codicefiscale"),
    Rule("in-pan", r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]", "in_.pan"),
    Rule("mx-curp", r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d", "mx.curp"),
    Rule("sg-nric", r"[STFGM]\d{7}[A-Z]"),
    Rule("es-nie", r"[XYZ]-?\d{7}-?[A-Z]", "es.nie"),
)
"""Numbers that begin with letters and need no word before them."""

_ID = r"id|identity|identification|national|personal|insurance|citizen|resident|tax|fiscal|taxpayer"
SAID = (
    Rule("us-ssn", r"\d{3}[ .-]?\d{2}[ .-]?\d{4}", "", r"ssn|social security|social sec"),
    Rule("us-npi", r"[12]\d{9}", "", r"npi|provider id\w*"),
    Rule("us-routing", r"[0-3]\d{8}", "us.rtn", r"routing|aba|rtn"),
    Rule("us-itin", r"9\d\d[ ]?\d\d[ ]?\d{4}", "us.itin", r"itin|taxpayer"),
    Rule("gb-nhs", r"\d{3}[ -]?\d{3}[ -]?\d{4}", "gb.nhs", r"nhs|health service"),
    Rule("de-idnr", r"\d{2}[ ]?\d{3}[ ]?\d{3}[ ]?\d{3}", "de.idnr", rf"steuer\w*|idnr|tin|{_ID}"),
    Rule("nl-bsn", r"\d{4}[. ]?\d{2}[. ]?\d{3}", "nl.bsn", rf"bsn|burger\w*|sofi\w*|{_ID}"),
    Rule("pl-pesel", r"\d{11}", "pl.pesel", rf"pesel|{_ID}"),
    Rule("se-pnr", r"\d{6}[-+]?\d{4}", "se.personnummer", rf"personnummer|{_ID}"),
    Rule("dk-cpr", r"\d{6}[- ]?\d{4}", "dk.cpr", rf"cpr|{_ID}"),
    Rule("no-fnr", r"\d{6}[ ]?\d{5}", "no.fodselsnummer", rf"f[øo]dsels\w*|personnummer|{_ID}"),
    Rule("be-nn", r"\d{11}", "be.nn", rf"rijksregister\w*|registre national|{_ID}"),
    Rule("ca-sin", r"\d{3}[ -]?\d{3}[ -]?\d{3}", "ca.sin", r"sin|social insurance"),
    Rule("au-tfn", r"\d{3}[ ]?\d{3}[ ]?\d{2,3}", "au.tfn", r"tfn|tax file"),
    Rule("in-aadhaar", r"\d{4}[ -]?\d{4}[ -]?\d{4}", "in_.aadhaar", rf"aadhaar|uidai|{_ID}"),
    Rule("za-id", r"\d{6}[ ]?\d{4}[ ]?\d{3}", "za.idnr", _ID),
    Rule("pt-nif", r"\d{3}[ ]?\d{3}[ ]?\d{3}", "pt.nif", r"nif|contribuinte"),
    Rule("es-dni", r"\d{8}[A-HJ-NP-TV-Z]", "es.dni", rf"dni|nif|documento|{_ID}"),
    Rule("br-cpf", r"\d{11}", "br.cpf", r"cpf"),
    Rule("il-id", r"\d{8,9}", "il.idnr", rf"teudat|{_ID}"),
    Rule("tr-kimlik", r"[1-9]\d{10}", "tr.tckimlik", rf"kimlik|tc|{_ID}"),
    Rule("ro-cnp", r"[1-8]\d{12}", "ro.cnp", rf"cnp|{_ID}"),
    Rule("gr-amka", r"\d{11}", "gr.amka", r"amka"),
    Rule("bg-egn", r"\d{10}", "bg.egn", rf"egn|{_ID}"),
    Rule("hr-oib", r"\d{11}", "hr.oib", rf"oib|{_ID}"),
    Rule("ee-ik", r"[1-6]\d{10}", "ee.ik", rf"isikukood|{_ID}"),
    Rule("lt-asmens", r"[3-6]\d{10}", "lt.asmens", rf"asmens|{_ID}"),
    Rule("lv-pk", r"\d{6}-?\d{5}", "lv.pvn", rf"personas|{_ID}"),
    Rule("ie-pps", r"\d{7}[A-W][A-IW]?", "ie.pps", r"pps|ppsn|personal public service"),
    Rule("ec-ci", r"\d{10}", "ec.ci", r"c[ée]dula"),
    Rule("fr-nif", r"[0-3]\d[ ]?\d\d[ ]?\d{3}[ ]?\d{3}[ ]?\d{3}", "fr.nif", rf"spi|num[ée]ro fiscal|{_ID}"),
    Rule("us-medicare", r"[1-9][A-HJ-NP-Z][A-Z0-9]\d-?[A-HJ-NP-Z][A-Z0-9]\d-?[A-HJ-NP-Z]{2}\d\d", "", r"medicare|mbi"),
    Rule("th-pin", r"\d{13}", "th.pin", _ID),
    Rule("kr-rrn", r"\d{13}", "kr.rrn", _ID),
)
"""Numbers that need one of their words within 50 characters before them."""

_END = r"(?![\w]|[-./]\d)"


def _together(rules: tuple[Rule, ...], before: str) -> re.Pattern[str]:
    parts = (f"(?P<r{i}>{rule.pattern})" for i, rule in enumerate(rules))
    return re.compile(f"{before}(?:{'|'.join(parts)}){_END}", re.ASCII)


def _rule(rules: tuple[Rule, ...], match: re.Match[str]) -> Rule:
    return rules[int((match.lastgroup or "r0")[1:])]


_STRONG = _together(STRONG, r"(?<!(?u:\w))(?<![-.+/$€£])")
_LETTERED = _together(LETTERED, "")
_START_OF_LETTERS = re.compile(r"(?<![A-Za-z0-9])[A-Z]{1,6}[ -]?\Z", re.ASCII)
_SAID = [
    (rule, re.compile(f"(?:{rule.pattern}){_END}", re.ASCII), re.compile(rf"(?<![a-z])(?:{rule.words})(?![a-z])"))
    for rule in SAID
]
_ANY_WORD = re.compile(rf"(?<![a-z])(?:{'|'.join(sorted({rule.words for rule in SAID}))})(?![a-z])")
_BEGINNINGS = beginnings(words for rule in SAID for words in rule.words.split("|"))
_LETTERS_OF = re.compile(r"(?<![A-Za-z0-9])[A-Z]{1,5}[ -]?\Z", re.ASCII)


def strong_ids(text: str, start: int, end: int) -> Iterator[Found]:
    """Yield numbers of a run of digits and separators whose shape and checksum need no word."""
    match = _STRONG.search(text, start, min(len(text), end + 4))
    while match is not None and match.start() < end:
        rule = _rule(STRONG, match)
        if is_valid(rule, match[0]):
            yield Found(_kind(rule), *match.span(), rule.name)
            match = _STRONG.search(text, match.end(), min(len(text), end + 4))
        else:
            match = _STRONG.search(text, match.start() + 1, min(len(text), end + 4))


def lettered_ids(text: str, digits: Iterable[int]) -> Iterator[Found]:
    """Yield numbers that begin with letters. digits: where two digits stand after a capital."""
    for digit in digits:
        letters = _START_OF_LETTERS.search(text, max(0, digit - 8), digit)
        if letters is None:
            continue
        match = _LETTERED.match(text, letters.start())
        if match is not None and is_valid(_rule(LETTERED, match), match[0]):
            yield Found(Kind.NATIONAL_ID, *match.span(), _rule(LETTERED, match).name)


def said_ids(text: str, lower: str, start: int, before: Sequence[str]) -> Iterator[Found]:
    """Yield the number that begins with a run of digits, if a word before it says what it is.

    before: as `signs.before` gives it for the run.
    """
    opening = max(0, start - WORDS_BEFORE)
    if _BEGINNINGS.isdisjoint(before) or not _ANY_WORD.search(lower, opening, start):
        return
    letters = _LETTERS_OF.search(text, max(0, start - 7), start)
    starts = (letters.start(), start) if letters else (start,)
    for rule, pattern, words in _SAID:
        for first in starts:
            match = pattern.match(text, first)
            if match is None or (first and text[first - 1].isalnum()):
                continue
            if words.search(lower, opening, first) and is_valid(rule, match[0]):
                yield Found(_kind(rule), first, match.end(), rule.name)
                return


_DOCUMENT = re.compile(
    r"(?:(?P<driver>driv\w{2,3}['’]?s?['’]? licen[cs]e|licen[cs]e (?:number|no|#))|passport)"
    r"(?: (?:number|no|card|id))?[.:#]?(?: is)?[ :=#]{1,4}"
    r"(?:[a-z]{1,12}[ ])?(?P<value>(?=[a-z-]{0,10}\d)[a-z0-9][a-z0-9-]{3,17}[a-z0-9])(?![\w-])",
    re.ASCII,
)

_DRIVER = len("driverses' ")


def documents(lower: str) -> Iterator[Found]:
    """Yield numbers of driver's licences and passports: what follows the word and has a digit."""
    after = 0
    for at in sorted([*places(lower, "licen"), *places(lower, "passport")]):
        driver = lower.rfind("driv", max(after, at - _DRIVER), at)
        match = (_DOCUMENT.match(lower, driver) if driver >= 0 else None) or _DOCUMENT.match(lower, at)
        if match is None or at < after:
            continue
        after = match.end()
        yield Found(Kind.NATIONAL_ID, *match.span("value"), "driver-licence" if match["driver"] else "passport")


def is_valid(rule: Rule, value: str) -> bool:
    """Return whether the number's checksum and dates are right; True where it has none."""
    if rule.name == "us-npi":
        return _check("luhn")("80840" + value)
    if rule.name == "sg-nric":
        return _is_nric(value)
    return not rule.module or _check(rule.module)(value)


@cache
def _check(module: str) -> Callable[[str], bool]:
    """The check of a module of python-stdnum, imported when it is first needed."""
    return import_module(f"stdnum.{module}").is_valid


def _is_nric(value: str) -> bool:
    """Singapore's check letter: weights 2 7 6 5 4 3 2, an offset for the century, one table for citizens, two for others."""
    total = sum(weight * int(digit) for weight, digit in zip((2, 7, 6, 5, 4, 3, 2), value[1:8], strict=True))
    if value[0] == "M":
        return value[8] == "XWUTRQPNJLK"[10 - (total + 3) % 11]
    letters = "JZIHGFEDCBA" if value[0] in "ST" else "XWUTRQPNMLK"
    return value[8] == letters[(total + (4 if value[0] in "TG" else 0)) % 11]


def _kind(rule: Rule) -> Kind:
    return Kind.SSN if rule.name == "us-ssn" else Kind.NATIONAL_ID
