"""Calls of tools are read in the form in which the base's own chat template writes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.serve.tools import HERMES, ToolFormat, ToolReader, tool_format, with_tools
from burnish.text.messages import FunctionCall, Message, ToolCall
from burnish.text.tokenizer import Tokenizer, load_tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "text"))
from families import FAMILIES, write_folder

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
LLAMA = ToolFormat("", "", "", "name", "parameters", own=True)
MISTRAL = ToolFormat("[TOOL_CALLS][", "[", "]", "name", "arguments", own=True)
QWEN = ToolFormat("<tool_call>\n", "<tool_call>", "</tool_call>", "name", "arguments", own=True)


def read(form: ToolFormat, pieces: list[str], *, forced: bool = False) -> tuple[str, list[tuple[str, object]]]:
    reader = ToolReader(form, ["weather", "clock"], forced=forced)
    text = "".join(reader.add(piece)[0] for piece in pieces) + reader.finish()[0]
    return text, [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in reader.calls]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_folder(tmp_path_factory.mktemp("qwen3"), FAMILIES["qwen3"]))


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_folder(tmp_path_factory.mktemp("mistral"), FAMILIES["mistral-late-system"]))


def test_the_templates_own_form_is_found(qwen: Tokenizer, mistral: Tokenizer, tokenizer: Tokenizer) -> None:
    found = tool_format(qwen)
    assert (found.shown_begin, found.end, found.name_key, found.arguments_key, found.own) == (
        "<tool_call>", "</tool_call>", "name", "arguments", True,
    )  # fmt: skip
    found = tool_format(mistral)
    assert "[TOOL_CALLS]" in found.begin
    assert "[TOOL_CALLS]" not in found.shown_begin, "a reader does not see special tokens"
    assert (found.name_key, found.arguments_key, found.own) == ("name", "arguments", True)
    assert tool_format(tokenizer) == HERMES


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>'

UNKNOWN = '<tool_call>{"name": "rm", "arguments": {}}</tool_call>'


@pytest.mark.parametrize(
    ("form", "text", "shown", "calls"),
    [
        (QWEN, CALL, "", [("weather", {"city": "Ulm"})]),
        (QWEN, f"Let me see. {CALL}", "Let me see. ", [("weather", {"city": "Ulm"})]),
        (QWEN, f"{CALL}\n{CALL}", "", [("weather", {"city": "Ulm"})] * 2),
        (QWEN, "2 < 3 and <tool", "2 < 3 and <tool", []),
        (QWEN, '<tool_call>\n{"name": "wea', '<tool_call>\n{"name": "wea', []),
        (QWEN, UNKNOWN, UNKNOWN, []),
        (LLAMA, '{"name": "clock", "parameters": {}}', "", [("clock", {})]),
        (LLAMA, 'I say {"name": "clock", "parameters": {}}', 'I say {"name": "clock", "parameters": {}}', []),
        (LLAMA, '{"price": 3}', '{"price": 3}', []),
        (MISTRAL, '[{"name": "clock", "arguments": {"a": [1]}}]', "", [("clock", {"a": [1]})]),
    ],
)  # fmt: skip
def test_calls_are_told_from_text_however_the_text_is_cut(
    form: ToolFormat, text: str, shown: str, calls: list[tuple[str, object]]
) -> None:
    for size in (1, 3, 7, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert read(form, pieces) == (shown, calls), size


def test_a_demanded_call_is_the_whole_answer() -> None:
    assert read(QWEN, ['{"name": "weather", ', '"arguments": {"city": "Bonn"}}'], forced=True) == (
        "", [("weather", {"city": "Bonn"})],
    )  # fmt: skip


@given(st.lists(st.text('<tool_cal>{}"name ', max_size=12), max_size=8))
def test_text_without_a_call_comes_back_as_it_was(pieces: list[str]) -> None:
    assert read(QWEN, pieces) == ("".join(pieces), [])


def test_a_template_without_tools_is_told_of_them_in_the_system_turn_and_sees_calls_as_text() -> None:
    call = ToolCall(id="1", type="function", function=FunctionCall(name="weather", arguments='{"city": "Ulm"}'))
    conversation = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="Weather in Ulm?"),
        Message(role="assistant", content="", tool_calls=[call]),
        Message(role="tool", content="rain", tool_call_id="1"),
    ]
    turns = with_tools(conversation, [WEATHER], HERMES)
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[0]["content"].startswith("Be brief.\n\nYou may call")
    assert '"weather"' in turns[0]["content"]
    assert turns[3]["content"] == "<tool_response>\nrain\n</tool_response>"
    assert read(HERMES, [turns[2]["content"]]) == ("", [("weather", {"city": "Ulm"})])
    assert with_tools(conversation, [WEATHER], QWEN) == conversation
