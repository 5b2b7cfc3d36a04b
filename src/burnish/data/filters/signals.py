"""The signals of rows, made in the worker that makes the rows: numbers that say what each filter and the audit look for.

What needs words works on their hashes, which exist for the search for duplicates; what needs characters works on the bytes of
all answers at once. So a megabyte of rows costs some hundredths of a second (benchmarks/filters.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from burnish.core.recipe_filters import LANGUAGES
from burnish.data.filters import rules
from burnish.data.filters.columns import NO_SENTIMENT, SIGNALS
from burnish.data.filters.groups import mentioned
from burnish.data.filters.language import ENGLISH, UNKNOWN, languages_of
from burnish.data.filters.lexicon import Lexicon, lines_of
from burnish.data.filters.sentiment import sentiment_of
from burnish.data.near.canonical import plain, words_only
from burnish.data.near.rows import conversation
from burnish.data.near.shingle import I64, Words, shingle_sets, words_of
from burnish.text.messages import Message

Mask = npt.NDArray[np.bool_]

VARIETIES = tuple(line.partition("\t")[0] for line in lines_of("variety"))
"""Varieties of languages, such as en-GB."""
_PHRASES = ("refusal", "self_reference", "boilerplate", "profanity")
_LIKE_JSON = re.compile(r'\s*(?:\{\s*"|\[\s*[{"])')
_FENCE_LINE = re.compile(r"^[ \t>]*`{3,}", re.MULTILINE)
_HEADING = re.compile(r"^[ \t]*(#{1,6}) ", re.MULTILINE)
_LIST_ITEM = re.compile(r"\s*(?:[-*+•#>|]|\d+[.)])")
ENGLISH_WORDS, ENGLISH_SHARE = 3, 0.2
"""English words and their share from which a text is English: no false alarm in 9,818 short texts of 28 other languages."""


class Said(NamedTuple):
    """A row's texts: the conversation, what of it is compared as the answer (`near.rows.conversation`), what was changed.

    pair: whether `answer` holds a worse answer too; then the answer of the conversation alone is judged.
    """

    messages: Sequence[Message]
    answer: str
    changes: Collection[str]
    pair: bool = False


def signals_of(rows: Sequence[Said], words: Words) -> npt.NDArray[Any]:
    """Return the signals of rows, of type SIGNALS. words: of the request and the answer of each row, in turn."""
    found = np.zeros(len(rows), SIGNALS)
    if not len(rows):
        return found
    answers = [_answers(row.messages) for row in rows]
    raws = ["\n".join(answer) for answer in answers]
    words = _without_worse(rows, words)
    sizes = np.diff(words.starts)
    asked, told = sizes[0::2], sizes[1::2]
    found["size"] = told
    forms = [_form(row, answer, raw) for row, answer, raw in zip(rows, answers, raws, strict=True)]
    characters = _characters(raws)
    kinds = _kinds(np.array(forms, np.int64), told, characters)
    found["kind"] = kinds
    marks = {name: np.zeros(len(rows), np.bool_) for name in rules.BY_ROW}
    marks["broken"] = np.array([form == _BROKEN for form in forms])
    marks["empty"] = kinds == rules.NOTHING
    own = _words_of_answers(words)
    hits = _phrases().hits(own)
    for number, name in enumerate(_PHRASES):
        marks[name][hits.texts[hits.entries == number]] = True
    english, varieties, stops = _english(words, len(rows))
    prose = np.isin(kinds, (rules.PROSE, rules.DOCUMENT))
    languages = _languages(rows, raws, kinds, english)
    found["language"] = np.where(languages[1::2] == UNKNOWN, languages[0::2], languages[1::2])
    languages = np.where(languages == UNKNOWN, np.repeat(found["language"], 2), languages)
    may_be_english = np.isin(languages[1::2], (ENGLISH, UNKNOWN))
    marks["profanity"] &= may_be_english  # words of English, some of which are harmless ones elsewhere
    marks["noise"] = prose & _noise(
        characters, told, kinds, (found["language"] == ENGLISH) & (stops < rules.STOP_WORDS)
    )
    marks["noise"] |= prose & _hashes(raws, told, characters["hashes"])
    marks["repetition"] = _repetition(own, kinds)
    marks["echo"] = _echo(words, asked, told)
    for row in np.flatnonzero(prose).tolist():
        marks["unfinished"][row] = _unfinished(raws[row])
        if kinds[row] == rules.DOCUMENT:
            repeated, noisy = _lines(raws[row])
            marks["repetition"][row] |= repeated
            marks["noise"][row] |= noisy
    found["variety"] = _variety(found["language"], varieties)
    found["sentiment"] = np.where(may_be_english, sentiment_of(own), NO_SENTIMENT)
    mentions = mentioned(words, languages)
    found["asked"], found["told"] = mentions.groups[0::2], mentions.groups[1::2]
    found["named"] = mentions.order[0::2]
    for name, bit in rules.BY_ROW.items():
        found["signals"][marks[name]] |= bit
    for row, said in enumerate(rows):
        for change in said.changes:
            found["signals"][row] |= rules.REPAIRS.get(change, 0)
    return found


def _answers(messages: Sequence[Message]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "assistant"]


_PLAIN, _CALL, _JSON, _FENCED, _BROKEN = range(5)


def _form(row: Said, answers: Sequence[str], raw: str) -> int:
    """Return what can be seen of the answers without counting: whether they call tools, are JSON or code, or broken."""
    form = _PLAIN
    if any("tool_calls" in message for message in row.messages):
        form = _CALL
    if any(answer.lstrip()[:1] in ("{", "[") for answer in answers):
        parts = _compared(row)
        like = [_LIKE_JSON.match(answer) is not None for answer in answers]
        fine = [part.startswith(("{", "[")) for part in parts]
        if any(
            seems and not good and not _json_lines(answer)
            for seems, good, answer in zip(like, fine, answers, strict=True)
        ):
            return _BROKEN
        if form == _PLAIN and answers and all(good or seems for seems, good in zip(like, fine, strict=True)):
            form = _JSON
    if rules.FENCE in raw:
        if any(len(_FENCE_LINE.findall(answer)) % 2 for answer in answers):
            return _BROKEN
        form = _FENCED if form == _PLAIN else form
    return form


def _compared(row: Said) -> list[str]:
    """Return what is compared of each answer: JSON in one spelling, or words alone."""
    lines = iter(row.answer.split("\n"))
    parts: list[str] = []
    for message in row.messages:
        if message["role"] not in ("assistant", "tool"):
            continue
        line = next(lines, "")
        for _ in message.get("tool_calls") or ():
            next(lines, "")
        if message["role"] == "assistant":
            parts.append(line)
    return parts


def _json_lines(text: str) -> bool:
    try:
        for line in text.splitlines():
            if line.strip():
                json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


# ------------------------------------------------------------------------------------------------------------- characters

_CLASSES = ("letters", "digits", "signs", "hashes", "spaces", "beyond")


def _class_table() -> npt.NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    for number, members in enumerate(
        (
            b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", b"0123456789", b"{}()[];=<>$\\|`", b"#", b" \t\n\r",
            bytes(range(128, 256)),
        ),
        start=1,
    ):  # fmt: skip
        table[list(members)] = number
    return table


_TABLE = _class_table()


def _characters(texts: Sequence[str]) -> dict[str, I64]:
    """Return how many bytes of each class every text has, and `all`. Bytes of letters beyond ASCII are `beyond`."""
    encoded = [text.encode("utf-8", "replace") for text in texts]
    sizes = np.fromiter(map(len, encoded), np.int64, len(encoded)) + 1
    starts = np.cumsum(sizes) - sizes
    classes = _TABLE[np.frombuffer(b"\n".join([*encoded, b""]), np.uint8)]
    counts = {
        name: np.add.reduceat(classes == number, starts, dtype=np.int64)
        for number, name in enumerate(_CLASSES, start=1)
    }
    counts["spaces"] -= 1  # what joins the texts
    counts["all"] = sizes - 1
    return counts


def _kinds(forms: I64, told: I64, characters: dict[str, I64]) -> npt.NDArray[np.uint8]:
    seen = np.maximum(characters["all"] - characters["spaces"], 1)
    kinds = np.full(len(forms), rules.PROSE, np.uint8)
    kinds[told < rules.PROSE_WORDS] = rules.SHORT
    kinds[told >= rules.DOCUMENT_WORDS] = rules.DOCUMENT
    kinds[characters["digits"] >= rules.NUMBERS_SHARE * seen] = rules.NUMBERS
    kinds[(characters["signs"] >= rules.CODE_SHARE * seen) | (forms == _FENCED)] = rules.CODE
    kinds[(forms == _JSON) | (forms == _CALL)] = rules.STRUCTURED
    nothing = (characters["letters"] + characters["digits"] + characters["beyond"] == 0) & (forms != _CALL)
    kinds[nothing & (forms != _JSON)] = rules.NOTHING
    return kinds


def _noise(characters: dict[str, I64], told: I64, kinds: npt.NDArray[np.uint8], no_english: Mask) -> Mask:
    """Return what hardly is language, by Gopher's rules; of texts beyond ASCII only what is not about letters."""
    seen = np.maximum(characters["all"] - characters["spaces"], 1)
    latin = characters["beyond"] <= 0.1 * seen
    length = (characters["letters"] + characters["digits"] + characters["beyond"]) / np.maximum(told, 1)
    shortest, longest = rules.WORD_LENGTH
    odd = latin & ((length < shortest) | (length > longest))
    odd |= characters["letters"] + characters["beyond"] < rules.LETTER_SHARE * seen
    return odd | (latin & (kinds == rules.DOCUMENT) & no_english)


def _hashes(raws: Sequence[str], told: I64, hashes: I64) -> Mask:
    """Return which texts have more hash signs than Gopher allows, those that begin headings not counted."""
    marks = hashes > rules.SYMBOLS_PER_WORD * told
    for row in np.flatnonzero(marks).tolist():
        headings = sum(map(len, _HEADING.findall(raws[row])))
        marks[row] = hashes[row] - headings > rules.SYMBOLS_PER_WORD * told[row]
    return marks


# -------------------------------------------------------------------------------------------------------- words and phrases


@cache
def _phrases() -> Lexicon:
    return Lexicon({name: lines_of(name) for name in _PHRASES})


@cache
def _english_and_varieties() -> Lexicon:
    varieties = {name: words.split() for name, _, words in (line.partition("\t") for line in lines_of("variety"))}
    return Lexicon({"english": lines_of("english"), **varieties})


def _without_worse(rows: Sequence[Said], words: Words) -> Words:
    """Return the words of requests and answers, of pairs without those of the worse answer."""
    if not any(row.pair for row in rows):
        return words
    own = [words_only(plain(part)) for row in rows for part in conversation(row.messages)]
    return words_of(own)


def _words_of_answers(words: Words) -> Words:
    return words.of(np.arange(1, len(words.starts) - 1, 2))


def _english(words: Words, rows: int) -> tuple[Mask, npt.NDArray[np.int32], I64]:
    """Return which requests and answers are English beyond doubt, the words of each variety in each row, stop words by answer."""
    hits = _english_and_varieties().hits(words)
    stops = np.bincount(hits.texts[hits.entries == 0], minlength=2 * rows)
    english = (stops >= ENGLISH_WORDS) & (stops >= ENGLISH_SHARE * np.diff(words.starts))
    varieties = np.zeros((rows, len(VARIETIES)), np.int32)
    marks = hits.entries > 0
    np.add.at(varieties, (hits.texts[marks] // 2, hits.entries[marks] - 1), 1)
    return english, varieties, stops[1::2]


def _languages(
    rows: Sequence[Said], raws: Sequence[str], kinds: npt.NDArray[np.uint8], english: Mask
) -> npt.NDArray[np.uint8]:
    """Return the language of each request and each answer in turn; an answer that is no prose has none of its own."""
    found = np.where(english, ENGLISH, UNKNOWN).astype(np.uint8)
    prose = np.isin(kinds, (rules.SHORT, rules.PROSE, rules.DOCUMENT))
    found[1::2][~prose] = UNKNOWN
    asked = np.flatnonzero(found[0::2] == UNKNOWN)
    requests = ["\n".join(m["content"] for m in rows[row].messages if m["role"] == "user") for row in asked.tolist()]
    found[2 * asked] = languages_of(requests)
    told = np.flatnonzero((found[1::2] == UNKNOWN) & prose)
    found[2 * told + 1] = languages_of([raws[row] for row in told.tolist()])
    return found


def _variety(languages: npt.NDArray[np.uint8], counts: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Return the variety of its language that a row has most words of; 0 where it has none, or as many of another."""
    own = np.array([LANGUAGES.index(name.partition("-")[0]) + 1 for name in VARIETIES])
    counts = np.where(languages[:, None] == own, counts, 0)
    most = counts.max(axis=1, initial=0)
    alone = (counts == most[:, None]).sum(axis=1) == 1
    return np.where((most > 0) & alone, counts.argmax(axis=1) + 1, 0).astype(np.uint8)


def _repetition(answers: Words, kinds: npt.NDArray[np.uint8]) -> Mask:
    most = np.full(len(kinds), np.inf)
    most[np.isin(kinds, (rules.PROSE, rules.DOCUMENT))] = rules.REPEATED_GRAMS
    most[kinds == rules.CODE] = rules.REPEATED_GRAMS_CODE
    grams = np.diff(answers.starts) - rules.GRAM + 1
    judged = np.flatnonzero((grams >= rules.LEAST_GRAMS) & np.isfinite(most))
    different = np.diff(shingle_sets(answers.of(judged), rules.GRAM).starts)
    marks = np.zeros(len(kinds), np.bool_)
    marks[judged] = 1 - different / grams[judged] > most[judged]
    return marks


def _echo(words: Words, asked: I64, told: I64) -> Mask:
    """Return which answers begin with all words of their request."""
    marks = np.zeros(len(asked), np.bool_)
    could = np.flatnonzero((asked >= rules.ECHO_WORDS) & (told >= asked))
    first = words.hashes[words.starts[2 * could]] == words.hashes[words.starts[2 * could + 1]]
    for row in could[first].tolist():
        start, answer = words.starts[2 * row], words.starts[2 * row + 1]
        marks[row] = bool((words.hashes[start:answer] == words.hashes[answer : 2 * answer - start]).all())
    return marks


def _unfinished(text: str) -> bool:
    """Whether a text's last line is part of a sentence: it ends in a letter or a comma, and is no item of a list or heading."""
    text = text.rstrip()
    last = text[-1]
    if not (last == "," or (last.isalpha() and last < "\u0250")):
        return False
    line = text[text.rfind("\n") + 1 :]
    return _LIST_ITEM.match(line) is None and len(line.split()) >= rules.SENTENCE_WORDS


def _lines(text: str) -> tuple[bool, bool]:
    """Return whether a document repeats its lines, and whether they trail off."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) < 5:
        return False, False
    repeated = 1 - len(set(lines)) / len(lines)
    trailing = sum(line.endswith(("...", "…")) for line in lines) / len(lines)
    return repeated > rules.REPEATED_LINES, trailing > rules.ELLIPSIS_LINES
