"""Raw rows become rows that may be kept: told apart by format, repaired, freed of personal data, rendered as tokens.

All that can be said of a row without knowing the others is done here, so that any number of processes can do it.
"""

from __future__ import annotations

import datetime
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from burnish.core.errors import DataError
from burnish.core.ids import content_id
from burnish.core.recipe_data import DIFFICULTY
from burnish.data.chunk import (
    COLUMNS,
    NO_DAY,
    NOTHING_SAID,
    OWN_COLUMNS,
    Chunk,
    Counts,
    Overlong,
    Refused,
    Rendering,
    Row,
    packed,
    small,
)
from burnish.data.cleaning import Cleaning
from burnish.data.examples import Examples
from burnish.data.filters.columns import SIGNALS
from burnish.data.filters.signals import Said, signals_of
from burnish.data.fit import answers_of, longest, truncated
from burnish.data.formats.columns import ColumnMapping
from burnish.data.formats.read import read
from burnish.data.formats.refusal import RowRefused
from burnish.data.formats.rows import check
from burnish.data.ledger import NAMED_ROWS, redacted_line
from burnish.data.made import Made, take_made
from burnish.data.near.canonical import digest, key64, plain, words_only
from burnish.data.near.rows import conversation
from burnish.data.near.shingle import Words, words_of
from burnish.data.pair import pair_content, pair_renderings, pair_texts, said_in_pair
from burnish.data.private.cleaner import Treatment
from burnish.data.private.replace import redact
from burnish.data.record import RawRow, Record
from burnish.data.splits.assign import TEST, TRAIN
from burnish.data.splits.leakage import exact_hash_of
from burnish.data.splits.positions import position
from burnish.data.tables import tables
from burnish.text.messages import Message
from burnish.text.pieces import Conversation
from burnish.text.render import Rendered, control_token_in, render_many
from burnish.text.system import needs_day, with_system
from burnish.text.tokenizer import Tokenizer, load_tokenizer

_EPOCH = datetime.date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides about a row by itself."""

    system: str | None
    personal: Treatment
    limit: int
    overlong: Literal["error", "reject", "truncate"]
    columns: ColumnMapping | None = None
    columns_may_lack: bool = False
    """For tasks: a row without these columns is told by itself. A row of the data must have them."""
    source_name: str | None = None
    license: str | None = None
    """Of rows that say none."""
    split: str | None = None
    """Of rows that say none."""
    strip_boilerplate: bool = False
    rows: frozenset[Literal["conversation", "pair"]] = frozenset({"conversation"})
    """What a row may be: it must be what the objective learns from. Of a task either."""


@dataclass(frozen=True, slots=True)
class Making:
    """What a worker process is told: the settings and where the tokenizer is."""

    settings: Settings
    folder: Path
    variables: Mapping[str, Any] | None

    def worker(self) -> Callable[[Sequence[RawRow]], Chunk]:
        """Return the function from raw rows to a chunk."""
        return chunk_maker(load_tokenizer(self.folder, variables=self.variables), self.settings)


@dataclass(slots=True)
class _Candidate:
    """A row that may be rendered. `said` holds one conversation, of a pair two: the rejected, then the chosen one.

    turns: messages of a pair's prompt, the system prompt included.
    """

    raw: RawRow
    row: Record
    said: tuple[Conversation, ...]
    turns: int
    changes: set[str]
    difficulty: float | None = None
    made: Made | None = None

    @property
    def is_pair(self) -> bool:
        return self.row.chosen is not None


def chunk_maker(tokenizer: Tokenizer, settings: Settings) -> Callable[[Sequence[RawRow]], Chunk]:
    """Return the function from raw rows to a chunk."""
    cleaning = Cleaning(settings.personal, strip_boilerplate=settings.strip_boilerplate)
    return partial(_make_chunk, tokenizer, settings, cleaning)


def _make_chunk(tokenizer: Tokenizer, settings: Settings, cleaning: Cleaning, raws: Sequence[RawRow]) -> Chunk:
    """Make what can be made of some raw rows. Never raises for a row: what is wrong with it is its entry."""
    counts, examples = Counts(), cleaning.examples()
    found: list[_Candidate | Refused] = []
    for raw in raws:
        counts.lines[raw.origin.file] += 1
        try:
            found.append(_candidate(raw, settings, cleaning, counts, examples))
        except RowRefused as refusal:
            found.append(_refused(raw, refusal.reason, refusal.detail))
    entries = _rendered(tokenizer, settings, found, counts, examples)
    counts.examples = examples.found
    rows: list[_Entry] = []
    refusals: list[tuple[int, Refused]] = []
    for entry in entries:
        if isinstance(entry, Refused):
            refusals.append((len(rows), entry))
        else:
            rows.append(entry)
    files = list(dict.fromkeys(row.file for row, _, _ in rows))
    columns, words = _columns(rows, files, settings)
    first: dict[str, Refused] = {}
    for _, refused in refusals:
        first.setdefault(refused.reason, refused)
    return Chunk(
        rows=tables([row for row, _, _ in rows]).frozen(),
        refusals=packed(refusals),
        texts=packed([texts for _, texts, _ in rows]),
        words=words,
        columns=columns,
        files=files,
        counts=counts,
        refused=list(first.values()),
        reasons=Counter(refused.reason for _, refused in refusals),
    )


def _refused(raw: RawRow, reason: str, detail: str) -> Refused:
    return Refused(raw.origin.line, raw.origin.file, reason, redact(detail).text, redacted_line(raw.text))


def _candidate(raw: RawRow, settings: Settings, cleaning: Cleaning, counts: Counts, examples: Examples) -> _Candidate:
    if raw.value is None:
        raise RowRefused(raw.reason or "not a row", raw.detail)
    mapping = settings.columns
    if mapping is not None and settings.columns_may_lack and not mapping.fits(raw.value):
        mapping = None
    row, made = take_made(read(raw.value, mapping=mapping))
    _check_kind(row, settings)
    difficulty = _number(row.unused.get(DIFFICULTY))
    counts.unused.update(row.unused.keys() - ({DIFFICULTY} if difficulty is not None else set[str]()))
    row, changes = cleaning.cleaned(row, raw.origin, counts, examples)
    day, date = row.day(), row.meta.get("date")
    if date is not None and day is None:
        counts.changed["date that is not YYYY-MM-DD"] += 1
    check(row)
    if day is None and needs_day(settings.system) and row.messages[0]["role"] != "system":
        found = f"`date` is {date!r}" if date is not None else "it has no `date`"
        raise RowRefused("no date", f"{found}; the system prompt needs the day of the request as YYYY-MM-DD")
    counts.formats[raw.origin.file, row.meta["format"]] += 1
    messages = with_system(row.messages, settings.system, day or datetime.date.min)
    said = (Conversation(messages, row.tools, day),) if row.chosen is None else said_in_pair(row, messages)
    return _Candidate(raw, row, said, len(messages), changes, difficulty, made)


def _check_kind(row: Record, settings: Settings) -> None:
    """Raise RowRefused for a row that the objective cannot learn from: learning the worse answer is no option."""
    wanted = "not a conversation" if "conversation" in settings.rows else "not a preference pair"
    if row.label is not None:
        raise RowRefused(wanted, "an answer with a label; no objective learns from it")
    if row.text is not None:
        raise RowRefused(wanted, "plain text, in which nothing is asked and answered")
    if row.chosen is not None and "pair" not in settings.rows:
        raise RowRefused(
            wanted, "a preference pair (chosen, rejected); objective: sft trains on conversations, dpo on pairs"
        )
    if row.chosen is None and "conversation" not in settings.rows:
        raise RowRefused(wanted, "a conversation; objective: dpo trains on pairs (prompt, chosen, rejected)")


_Entry = tuple[Row, tuple[str, str], _Candidate]


def _rendered(
    tokenizer: Tokenizer,
    settings: Settings,
    found: Sequence[_Candidate | Refused],
    counts: Counts,
    examples: Examples,
) -> list[_Entry | Refused]:
    """Render the candidates; those that the template refuses, or that are too long, become refusals."""
    found = [_without_control_tokens(tokenizer, each) if isinstance(each, _Candidate) else each for each in found]
    candidates = [each for each in found if isinstance(each, _Candidate)]
    rendered = render_many(tokenizer, (said for each in candidates for said in each.said))
    entries: list[_Entry | Refused] = []
    for each in found:
        if isinstance(each, Refused):
            entries.append(each)
            continue
        answers = _together(each, [next(rendered) for _ in each.said])
        if isinstance(answers, DataError):
            entries.append(_refused(each.raw, "does not fit the chat template", str(answers)))
            continue
        entry = _fitted(tokenizer, settings, each, answers, counts)
        if not isinstance(entry, Refused) and (row := entry[0]).tokens < row.tokens_in:
            examples.add_as_it_is("truncated", each.raw.origin, f"{row.tokens_in:,} tokens", f"{row.tokens:,} tokens")
        entries.append(entry)
    return entries


def _together(candidate: _Candidate, rendered: Sequence[list[Rendered] | DataError]) -> list[Rendered] | DataError:
    """Return the renderings of a row from those of its conversations, or why there are none."""
    answers: list[list[Rendered]] = []
    for each in rendered:
        if isinstance(each, DataError):
            return each
        answers.append(each)
    if not candidate.is_pair:
        return answers[0]
    try:
        return pair_renderings(candidate.said, answers, candidate.turns)
    except DataError as error:
        return error


def _without_control_tokens(tokenizer: Tokenizer, candidate: _Candidate) -> _Candidate | Refused:
    for message in (message for said in candidate.said for message in said.messages):
        token = control_token_in(tokenizer, message)
        if token is not None:
            detail = f"the {message['role']}'s text contains {token}, which the chat template uses for its turns"
            return _refused(candidate.raw, "does not fit the chat template", detail)
    return candidate


def _fitted(
    tokenizer: Tokenizer, settings: Settings, candidate: _Candidate, answers: list[Rendered], counts: Counts
) -> _Entry | Refused:
    """Return the row, cut where the recipe says so, or the refusal of one that is too long."""
    tokens, whole = longest(answers), sum(len(answer.ids) for answer in answers)
    counts.rendered += 1
    counts.tokens += tokens
    counts.tokens_in[candidate.raw.origin.file] += whole
    counts.rows_in[candidate.raw.origin.file] += 1
    if tokens > settings.limit:
        place = f"{candidate.raw.origin.file}:{candidate.raw.origin.line}"
        own = sum(len(tokenizer.encode(m["content"])) for m in candidate.said[-1].messages if m["role"] == "user")
        hopeless = int(tokens - own > settings.limit)
        counts.overlong.add(
            Overlong(1, tokens, tokens - settings.limit, hopeless, tokens, [(place, tokens)]), names=NAMED_ROWS
        )
        shorter = truncated(tokenizer, candidate.said, settings.limit) if settings.overlong == "truncate" else None
        cut = None if shorter is None else _together(candidate, [answers_of(tokenizer, each) for each in shorter])
        if shorter is None or cut is None or isinstance(cut, DataError):
            refused = _refused(candidate.raw, "over max_tokens", f"{tokens} tokens, at most {settings.limit}")
            return replace(refused, tokens=whole)
        counts.changed["truncated"] += 1
        candidate.changes.add("truncated")
        candidate.said, answers = shorter, cut
    row = _row(tokenizer, settings, candidate, answers, whole)
    if candidate.is_pair:
        rejected, chosen = candidate.said
        texts = pair_texts(chosen.messages, rejected.messages)
    else:
        texts = conversation(candidate.said[0].messages)
    return row, texts, candidate


def _row(
    tokenizer: Tokenizer, settings: Settings, candidate: _Candidate, answers: Sequence[Rendered], tokens_in: int
) -> Row:
    origin, meta, said = candidate.raw.origin, candidate.row.meta, candidate.said[-1]
    tools = list(said.tools)
    words = pair_content(candidate.said, candidate.turns) if candidate.is_pair else said.messages
    content = {"messages": words, "tools": tools} if tools else words
    group = meta.get("group")
    return Row(
        line=origin.line,
        start=origin.start,
        end=origin.end,
        file=origin.file,
        row_id=content_id(content),
        messages=json.dumps(words, ensure_ascii=False, separators=(",", ":")),
        tools=json.dumps(tools, ensure_ascii=False, separators=(",", ":")) if tools else None,
        date=None if said.day is None else said.day.isoformat(),
        format=meta["format"],
        # A group is often a person or a customer: what it is called is nobody's business here.
        group=None if group is None else digest(str(group)).hex(),
        created_at=_text(meta.get("created_at")),
        license=_text(meta.get("license")) or settings.license,
        renderings=tuple(
            Rendering(small(a.ids, tokenizer.vocab_size), np.array(a.mask, np.uint8), a.prefix, a.prompt)
            for a in answers
        ),
        tokens=sum(len(answer.ids) for answer in answers),
        tokens_in=tokens_in,
        source_name=settings.source_name,
        difficulty=candidate.difficulty,
        synthetic=None if candidate.made is None else candidate.made.kind,
        teacher=None if candidate.made is None else candidate.made.teacher,
    )


def _number(value: object) -> float | None:
    """Return a finite number, also where a table has it as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _columns(rows: Sequence[_Entry], files: Sequence[str], settings: Settings) -> tuple[np.ndarray, Words]:
    """Return the numbers of each row, and the words of each request and answer."""
    number = {file: at for at, file in enumerate(files)}
    columns = np.zeros(len(rows), COLUMNS)
    own = columns[list(OWN_COLUMNS.names or ())]  # a view
    words: list[bytes] = []
    for at, (row, (text, answer), candidate) in enumerate(rows):
        said = candidate.row.split or settings.split
        system = "\n".join(_said_by(candidate.said[-1].messages, "system"))
        day = candidate.row.day_created()
        asked = plain(text)
        words += words_only(asked), words_only(plain(answer))
        own[at] = (
            bytes.fromhex(row.row_id[:32]),
            exact_hash_of(words[-2:], f"{text}\n{answer}"),
            key64(system, asked),
            key64(answer),
            # The pairs of one prompt are held out together: apart, those in training would leak from those that are tested.
            position(asked if candidate.is_pair else f"{asked}\0{answer}"),
            0 if row.group is None else int(row.group[:16], 16) | 1,
            NO_DAY if day is None else day.toordinal() - _EPOCH,
            row.line,
            number[row.file],
            row.tokens,
            row.tokens_in,
            NOTHING_SAID if said is None else TEST if said == "test" else TRAIN,
            candidate.made is not None,
            0 if candidate.made is None else candidate.made.parent,
        )
    hashes = words_of(words)
    said = [Said(c.said[-1].messages, answer, c.changes, pair=c.is_pair) for _, (_, answer), c in rows]
    marks = signals_of(said, hashes)
    for name in SIGNALS.names or ():
        columns[name] = marks[name]
    return columns, hashes


def _said_by(messages: Sequence[Message], role: str) -> list[str]:
    return [message["content"] for message in messages if message["role"] == role]
