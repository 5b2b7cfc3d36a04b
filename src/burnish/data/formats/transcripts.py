"""A conversation as one text with markers: Guanaco, Llama-2, ChatML, Anthropic HH and the like, a row of a table each.

Read into messages, a text leaves its glue: the markers and white space before, between and after what is said. Glue and
contents laid together again are the text, whatever became of the contents meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from burnish.data.formats.refusal import RowRefused
from burnish.data.formats.roles import ROLES
from burnish.text.messages import Message, Role

_BEGINNINGS = re.compile(r"\s*(?:(?:<s>|<bos>|<\|begin_of_text\|>)\s*)?")
"""What may stand before the first turn: the token that begins a sequence."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """One way to write a conversation into a text.

    starts:  how such a text begins, after white space and a beginning-of-sequence token.
    marker:  a turn's marker; its group is the speaker, or empty where a turn ends.
    roles:   speakers that are not in the table of roles.
    opens, closes: what stands before and after a turn of each role when a text is made anew.
    strips:  whether white space around what is said belongs to the markers.
    preamble: whether text before the first turn is a system prompt.
    """

    starts: tuple[str, ...]
    marker: re.Pattern[str]
    opens: Mapping[Role, str]
    closes: Mapping[Role, str]
    roles: Mapping[str, Role] = field(default_factory=dict[str, Role])
    strips: bool = True
    preamble: bool = False


_TURNS: tuple[Role, ...] = ("system", "user", "assistant", "tool")
TRANSCRIPTS: dict[str, Transcript] = {
    "chatml": Transcript(
        starts=("<|im_start|>",),
        marker=re.compile(r"<\|im_start\|>([a-z_]+)\n|<\|im_end\|>"),
        opens={role: f"<|im_start|>{role}\n" for role in _TURNS},
        closes=dict.fromkeys(_TURNS, "<|im_end|>\n"),
        strips=False,
    ),
    "guanaco": Transcript(
        starts=("### Human:", "### System:"),
        marker=re.compile(r"### (Human|Assistant|System):"),
        opens={"system": "### System: ", "user": "### Human: ", "assistant": "### Assistant: "},
        closes={"system": "\n", "user": "\n", "assistant": "\n"},
    ),
    "llama-2": Transcript(
        starts=("[INST]",),
        marker=re.compile(
            r"(?=[<\[])(?:(?:<s>\s*)?(\[INST\]\s*<<SYS>>|\[INST\])|(<</SYS>>|\[/INST\])"
            r"|</s>(?=\s*(?:<s>\s*)?\[INST\]|\s*\Z))"
        ),
        roles={"[INST]": "user", "<</SYS>>": "user", "[/INST]": "assistant"},
        opens={"system": "<s>[INST] <<SYS>>\n", "user": "<s>[INST] ", "assistant": ""},
        closes={"system": "\n<</SYS>>\n\n", "user": " [/INST] ", "assistant": " </s>"},
    ),
    "hh": Transcript(
        starts=("Human:",),
        marker=re.compile(r"(?:\A|\n\n)(Human|Assistant):"),
        opens={"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "},
        closes={"user": "", "assistant": ""},
    ),
    "llama-3": Transcript(
        starts=("<|start_header_id|>",),
        marker=re.compile(r"<\|start_header_id\|>([a-z]+)<\|end_header_id\|>|<\|eot_id\|>"),
        opens={role: f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in _TURNS},
        closes=dict.fromkeys(_TURNS, "<|eot_id|>"),
    ),
    "gemma": Transcript(
        starts=("<start_of_turn>",),
        marker=re.compile(r"<start_of_turn>(user|model)\n|<end_of_turn>"),
        opens={"user": "<start_of_turn>user\n", "assistant": "<start_of_turn>model\n"},
        closes={"user": "<end_of_turn>\n", "assistant": "<end_of_turn>\n"},
    ),
    "zephyr": Transcript(
        starts=("<|user|>", "<|system|>"),
        marker=re.compile(r"<\|(system|user|assistant)\|>|<\|end\|>|</s>(?=\s*<\||\s*\Z)"),
        opens={"system": "<|system|>\n", "user": "<|user|>\n", "assistant": "<|assistant|>\n"},
        closes={"system": "</s>\n", "user": "</s>\n", "assistant": "</s>\n"},
    ),
    "alpaca-text": Transcript(
        starts=("Below is an instruction", "### Instruction:"),
        marker=re.compile(r"### (Instruction|Response):|</s>(?=\s*\Z)"),
        roles={"Instruction": "user", "Response": "assistant"},
        opens={"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n"},
        closes={"system": "\n\n", "user": "\n\n", "assistant": ""},
        preamble=True,
    ),
}
_STARTS: dict[str, str] = {start: name for name, table in TRANSCRIPTS.items() for start in table.starts}
_FIRST_LETTERS = frozenset(start[0] for start in _STARTS) | {"<", " ", "\n", "\t", "\r"}


def transcript_of(text: str) -> str | None:
    """Return which kind of transcript a text is, or None for a text like any other."""
    if text[:1] not in _FIRST_LETTERS:
        return None
    found = _BEGINNINGS.match(text)
    start = found.end() if found else 0
    name = next((name for begin, name in _STARTS.items() if text.startswith(begin, start)), None)
    if name == "hh" and not text.startswith("\n\nHuman:") and "\n\nAssistant:" not in text:
        return None  # a text that begins with the word
    return name


def read_transcript(text: str, name: str, *, open_end: bool = False) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """Return what is said in a text, and the glue around it. Raises RowRefused when something is said by nobody.

    `open_end`: the text may end with the marker of an answer that is elsewhere.
    """
    table = TRANSCRIPTS[name]
    messages: list[Message] = []
    glue: list[str] = []
    found = list(table.marker.finditer(text))
    at = found[0].start() if found else len(text)
    pending = _beginning(text[:at], table, messages, glue)
    for index, marker in enumerate(found):
        end = found[index + 1].start() if index + 1 < len(found) else len(text)
        said = text[marker.end() : end]
        pending += marker.group()
        role = _role(marker, table)
        stripped = said.strip()
        if role is None and stripped:
            raise RowRefused(
                "text outside of turns", f"{name}, after {marker.group().strip()[:20]} at {marker.start()}"
            )
        if role is None or (role == "system" and not stripped):
            pending += said
            continue
        lead = said[: len(said) - len(said.lstrip())] if table.strips else ""
        content = stripped if table.strips else said
        glue.append(pending + lead)
        messages.append(Message(role=role, content=content))
        pending = said[len(lead) + len(content) :]
    if open_end and messages and messages[-1]["role"] == "assistant" and not messages[-1]["content"].strip():
        pending = glue.pop() + messages.pop()["content"] + pending
    return tuple(messages), (*glue, pending)


def write_transcript(messages: Sequence[Message], name: str, glue: Sequence[str] | None) -> str:
    """Lay glue and contents together; without fitting glue, with the markers as they usually are.

    Raises RowRefused for a role that such a text has no marker for.
    """
    if glue is None or len(glue) != len(messages) + 1:
        glue = _usual_glue(messages, name)
    parts = [part for bit, message in zip(glue, messages, strict=False) for part in (bit, message["content"])]
    return "".join([*parts, glue[-1]])


def _beginning(head: str, table: Transcript, messages: list[Message], glue: list[str]) -> str:
    found = _BEGINNINGS.fullmatch(head)
    if found is None and not table.preamble:
        raise RowRefused("text outside of turns", f"before the first marker: {head.strip()[:40]!r}")
    if found is not None:
        return head
    content = head.strip()
    lead = head[: len(head) - len(head.lstrip())]
    glue.append(lead)
    messages.append(Message(role="system", content=content))
    return head[len(lead) + len(content) :]


def _role(marker: re.Match[str], table: Transcript) -> Role | None:
    word = next((group for group in marker.groups() if group), None)
    if word is None:
        return None
    role = table.roles.get(word) or ROLES.get(word.lower())
    if role is None and word.startswith("[INST]"):
        return "system"  # Llama-2: the system prompt lies inside the first request
    if role is None:
        raise RowRefused("unknown role", word[:40])
    return role


def _usual_glue(messages: Sequence[Message], name: str) -> list[str]:
    table = TRANSCRIPTS[name]
    glue = [""]
    for index, message in enumerate(messages):
        role = message["role"]
        if role not in table.opens or "tool_calls" in message:
            raise RowRefused("cannot be written so", f"{name} has no marker for a turn of {role} or for tool calls")
        inside = name == "llama-2" and index > 0 and messages[index - 1]["role"] == "system"
        glue[-1] += "" if inside else table.opens[role]
        glue.append(table.closes[role])
    return glue
