"""What each family of formats takes out of a row: its own keys, with a note of how they were spelled.

Each function gets a copy of the row to take its keys from, the reading, and the layout to note into, and returns the
format's name and what it found.
"""

from __future__ import annotations

from typing import Any, cast

from burnish.data.formats.calls import Form, parse_json
from burnish.data.formats.keys import PAIRS, Reading
from burnish.data.formats.refusal import RowRefused, listed, need_text, short, type_name
from burnish.data.formats.sides import Taken, read_side
from burnish.data.formats.transcripts import TRANSCRIPTS, read_transcript, transcript_of
from burnish.data.formats.turns import OPENAI, SHAREGPT, Names, names_of, read_turns
from burnish.text.messages import Message, Role

Rest = dict[str, Any]


def take_turns(rest: Rest, reading: Reading, layout: Form) -> tuple[str, Taken]:
    """A list of turns, or a transcript where the list would be."""
    key = reading.keys[0]
    value = rest.pop(key)
    if isinstance(value, str) and (name := transcript_of(value)):
        return name, _transcript(value, name, key, layout)
    if isinstance(value, str) and value.lstrip()[:1] == "[":  # tables hold a list as JSON
        layout |= {"text": True, "raw": value}
        python = " is a list as Python prints it; write it with json.dumps" if "'" in value[:20] else ""
        value = parse_json(value, "turns that are not JSON", f"{key}{python}")
    words: dict[str, Role] | None = layout.pop("words", None)  # from the recipe, as names may be
    names: Names | None = layout.pop("names", None)
    if names is None:
        names = names_of(cast(list[Any], value)) if isinstance(value, list) else OPENAI
    name = "sharegpt" if names[0] == "from" or key == "conversations" else "messages"
    if key != ("conversations" if name == "sharegpt" else "messages"):
        layout["key"] = key
    if names != (SHAREGPT if name == "sharegpt" else OPENAI):
        layout["names"] = names
    forms: dict[int, Form] = {}
    messages = read_turns(value, key, names, forms, words)
    if forms:
        layout["forms"] = forms
    return name, Taken(messages)


def take_pair(rest: Rest, reading: Reading, layout: Form) -> tuple[str, Taken]:
    """A request and its answer, as texts; or as turns, as TRL has them for prompt-completion."""
    name, keys = reading
    asked, answered = rest.pop(keys[0]), rest.pop(keys[1])
    if name not in PAIRS:
        layout["keys"] = keys[:2]
    context = _context(rest, keys[2], layout) if len(keys) > 2 else ""
    if type(asked) is not str or type(answered) is not str or transcript_of(asked) is not None:
        return name, Taken(_two_sides(asked, answered, keys, layout, context))
    request: Message = {"role": "user", "content": f"{asked}\n\n{context}" if context else asked}
    return name, Taken((request, {"role": "assistant", "content": answered}))


def take_kto(rest: Rest, reading: Reading, layout: Form) -> tuple[str, Taken]:
    """A request, an answer and whether it is a good one."""
    label: Any = rest.pop("label")
    if not isinstance(label, bool):
        raise RowRefused("wrong type", f"label is {type_name(label)}, not true or false")
    _, taken = take_pair(rest, Reading("kto", reading.keys), layout)
    if layout["keys"] == PAIRS["prompt-completion"]:
        del layout["keys"]
    return "kto", taken._replace(label=label)


def take_text(rest: Rest, reading: Reading, layout: Form) -> tuple[str, Taken]:
    """A text to be continued, or a transcript of a conversation."""
    name, (key,) = reading
    text = need_text(rest.pop(key), key)
    if name in TRANSCRIPTS:
        return name, _transcript(text, name, key, layout)
    if not text.strip():
        raise RowRefused("empty text")
    layout["key"] = key
    return name, Taken(text=text)


def take_preference(rest: Rest, reading: Reading, layout: Form) -> tuple[str, Taken]:
    """A prompt, a better and a worse answer; the answers may hold the whole conversation."""
    keys = reading.keys
    layout["keys"] = keys
    notes: dict[str, Form] = {"prompt": {}, "chosen": {}, "rejected": {}}
    chosen = read_side(rest.pop(keys[0]), keys[0], "assistant", notes["chosen"])
    rejected = read_side(rest.pop(keys[1]), keys[1], "assistant", notes["rejected"])
    if chosen == rejected:
        raise RowRefused("chosen and rejected are the same")
    prompt = read_side(rest.pop(keys[2]), keys[2], "user", notes["prompt"]) if len(keys) > 2 else ()
    if _whole(chosen) and _whole(rejected):
        shared = _shared(chosen, rejected)
        if prompt:
            notes["prompt"]["at"] = _find(prompt, shared)
        layout["whole"] = True
        prompt, chosen, rejected = shared, chosen[len(shared) :], rejected[len(shared) :]
    elif _whole(chosen) or _whole(rejected):
        raise RowRefused("chosen and rejected differ in form", "one is an answer, the other a whole conversation")
    elif not prompt:
        raise RowRefused("preference without a prompt", f"{listed(reading.keys)} are answers; add `prompt`")
    layout["sides"] = {key: note for key, note in notes.items() if note}
    return "preference", Taken(prompt, chosen, rejected)


def _transcript(text: str, name: str, key: str, layout: Form) -> Taken:
    messages, glue = read_transcript(text, name)
    layout |= {"key": key, "glue": glue}
    return Taken(messages)


def _context(rest: Rest, key: str, layout: Form) -> str:
    value = rest[key]
    if value is None:  # a table's way to say that there is none
        return ""
    context = need_text(rest.pop(key), key)
    layout |= {"context": len(context), "context_key": key}
    return context


def _two_sides(asked: Any, answered: Any, keys: tuple[str, ...], layout: Form, context: str) -> tuple[Message, ...]:
    notes: dict[str, Form] = {"prompt": {}, "answer": {}}
    prompt = read_side(asked, keys[0], "user", notes["prompt"])
    answer = read_side(answered, keys[1], "assistant", notes["answer"])
    if context:
        raise RowRefused(
            "context beside a conversation", f"{keys[2]} has no place in {short(keys[0])}, which has turns"
        )
    layout |= {"sides": {key: note for key, note in notes.items() if note}, "prompt": len(prompt)}
    return (*prompt, *answer)


def _whole(side: tuple[Message, ...]) -> bool:
    return bool(side) and side[0]["role"] != "assistant"


def _shared(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[Message, ...]:
    """The prompt that two conversations share. Raises RowRefused when they part elsewhere than before an answer."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    shared = next((index for index, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))
    if any(len(side) <= shared or side[shared]["role"] != "assistant" for side in (chosen, rejected)) or shared == 0:
        raise RowRefused("chosen and rejected do not share a prompt", f"they part at turn {shared + 1}")
    return chosen[:shared]


def _find(prompt: tuple[Message, ...], shared: tuple[Message, ...]) -> int:
    """Where a prompt given beside whole conversations lies in them: -1 for all of it, else the place of its one turn."""
    if prompt == shared:
        return -1
    if len(prompt) == 1 and prompt[0] in shared:
        return shared.index(prompt[0])
    raise RowRefused("two prompts", "the prompt is not the one inside chosen and rejected")
