"""What each filter looks for, and the kinds of answers that rules are made for.

The rules come from those for web pages (Gopher: Rae et al. 2021, arXiv 2112.11446, table A1; C4: Raffel et al. 2020,
JMLR 21:140; FineWeb: Penedo et al. 2024, arXiv 2406.17557), which would throw out short answers, JSON, tables and code. So every
answer is first told apart by kind, and each kind has the rules that make sense for it.
"""

from __future__ import annotations

from typing import NamedTuple

KINDS = ("nothing", "structured", "code", "numbers", "short", "prose", "document")
"""What an answer is, by number. `structured` is JSON; `short` prose has fewer than 20 words, a `document` 150 or more."""
NOTHING, STRUCTURED, CODE, NUMBERS, SHORT, PROSE, DOCUMENT = range(7)
PROSE_WORDS, DOCUMENT_WORDS = 20, 150

FENCE = "```"
CODE_SHARE = 0.06
"""Share of an answer's characters that are { } ( ) [ ] ; = < > $ \\ | ` from which it is code without a fence around it."""
NUMBERS_SHARE = 0.3
"""Share of digits among an answer's characters from which it is numbers."""

WORD_LENGTH = (3.0, 10.0)
"""Gopher: mean characters of a word. Measured where most characters are ASCII alone; others count bytes."""
LETTER_SHARE = 0.6
"""Share of letters among the characters of prose that are no spaces."""
SYMBOLS_PER_WORD = 0.1
"""Gopher: hash signs and ellipses for each word."""
STOP_WORDS = 2
"""Gopher: the least English stop words that an English document has."""
ELLIPSIS_LINES = 0.3
"""Gopher: share of a document's lines that end with an ellipsis."""
REPEATED_GRAMS = 0.25
"""Share of the runs of five words of prose that were in the same answer before. Gopher allows 0.15 of the characters of a page in
such runs; an answer is shorter, and a conversation greets more than once."""
REPEATED_GRAMS_CODE = 0.6
REPEATED_LINES = 0.3
"""Gopher: share of a document's lines that it had before."""
GRAM = 5
LEAST_GRAMS = 20
"""Answers with fewer runs of five words are not judged by repetition."""
ECHO_WORDS = 8
SENTENCE_WORDS = 8
"""A last line of fewer words may be an item of a list or a heading: it is no unfinished sentence."""


class Rule(NamedTuple):
    """A filter by name, what it marks in one sentence, and whether a bit of the row's signals says so."""

    name: str
    what: str
    by_row: bool = True


RULES = (
    Rule("refusal", "The answer refuses."),
    Rule("self_reference", "The answer speaks of being a model."),
    Rule("broken", "The answer begins like JSON and is none, or opens a code block that is not closed."),
    Rule("unfinished", "The answer's prose stops in the middle of a sentence."),
    Rule("repetition", "The answer says the same again and again."),
    Rule("noise", "The answer's prose is hardly language."),
    Rule("boilerplate", "The answer holds a page's or a mail's boilerplate."),
    Rule("echo", "The answer begins by repeating the whole request."),
    Rule("empty", "The answer has no letter and no digit."),
    Rule("profanity", "The answer holds swear words or slurs."),
    Rule("length", "The answer is far longer or shorter than others of its source.", by_row=False),
    Rule("language", "The row is in another language.", by_row=False),
    Rule("outlier", "The row is far from all others by its embedding.", by_row=False),
)
"""All filters in the order in which they remove: a row goes for the first that marks it."""
BY_ROW = {rule.name: 1 << number for number, rule in enumerate(RULES) if rule.by_row}
"""The bit of each filter that judges a row by itself."""
BALANCE = "balance"
"""What rows are rejected for that are over the share of their cluster."""
REPAIRS = {
    "line ends": 1 << 16, "mojibake": 1 << 17, "control characters": 1 << 18, "invisible characters": 1 << 19,
    "composition": 1 << 20, "personal data": 1 << 21, "truncated": 1 << 22,
    "boilerplate lines": 1 << 23,
}  # fmt: skip
"""The bits of what was changed in a row."""
