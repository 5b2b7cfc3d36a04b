"""Every format, one record; what was read can be written again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from shaped import ASSISTANT, CONVERSATION, FORMATS, SYSTEM, USER, json_values, optional, same, sharegpt_turns

from burnish.data.formats.refusal import RowRefused
from burnish.data.formats.rows import Value, check, read_any, read_as, write


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_a_row_is_written_as_it_was_read(name: str, data: st.DataObject) -> None:
    value = data.draw(FORMATS[name]) | data.draw(optional)
    try:
        record = read_any(value)
    except RowRefused as refusal:
        assume(refusal.reason != "two system prompts")
        raise
    assert record.meta["format"] == name.split(" ")[0]
    assert same(write(record), value)
    assert same(write(record.mapped(lambda text: text)), value)
    check(record.mapped(lambda text: text))


@given(turns=sharegpt_turns)
def test_a_bare_list_of_turns_is_a_row(turns: list[dict[str, Any]]) -> None:
    assert write(read_any(turns)) == turns
    assert read_any(turns).meta["format"] == "sharegpt"
    assert write(read_any(CONVERSATION)) == CONVERSATION


@pytest.mark.parametrize("key", ["messages", "conversations"])
@given(turns=sharegpt_turns)
def test_turns_as_json_in_a_table_are_turns(key: str, turns: list[dict[str, Any]]) -> None:
    for text in (json.dumps(turns), json.dumps(turns, ensure_ascii=False, indent=1)):
        record = read_any({key: text})
        assert record.messages == read_any({key: turns}).messages
        assert write(record) == {key: text}
        changed = record.mapped(lambda said: said + "!")
        assert isinstance(write(changed), dict)
        assert read_any(write(changed)).messages == changed.messages


KEYS = st.sampled_from(
    [
        "messages",
        "conversations",
        "text",
        "prompt",
        "completion",
        "chosen",
        "rejected",
        "label",
        "instruction",
        "output",
        "input",
        "system",
        "tools",
        "date",
        "split",
        "content",
        "role",
        "",
        "question",
        "answer",
        "license",
    ]
)
INNER = st.sampled_from(
    [
        "role",
        "content",
        "from",
        "value",
        "user",
        "assistant",
        "human",
        "gpt",
        "system",
        "tool",
        "function_call",
        "tool_calls",
        "name",
        "arguments",
        "function",
        "type",
        "text",
        "id",
        "{}",
        '{"name":"f","arguments":{}}',
        "q",
        "### Human: a### Assistant: b",
        "[INST] q [/INST] a",
        "\n\nHuman: q\n\nAssistant: a",
        "<|im_start|>user\nq<|im_end|>",
    ]
)
WILD = st.recursive(
    INNER | json_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(INNER, inner, max_size=4),
    max_leaves=12,
)


@given(value=st.dictionaries(KEYS, WILD, max_size=6) | st.lists(WILD, max_size=3))
def test_any_row_at_all_is_refused_or_written_as_it_was_read(value: Value) -> None:
    try:
        record = read_any(value)
    except RowRefused:
        return
    assert same(write(record), value)
    assert same(write(record.mapped(lambda text: text)), value)


PIECES = st.sampled_from(
    [
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "<</SYS>>",
        "### Human:",
        "### Assistant:",
        "### System:",
        " ",
        "\n",
        "\n\nHuman:",
        "\n\nAssistant:",
        "<|im_start|>user\n",
        "<|im_start|>assistant\n",
        "<|im_end|>",
        "hello",
        "a b",
        "<|start_header_id|>user<|end_header_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
        "<start_of_turn>user\n",
        "<start_of_turn>model\n",
        "<end_of_turn>",
        "### Instruction:",
        "### Response:",
        "<|user|>",
        "<|assistant|>",
        "<|end|>",
        "Below is an instruction",
    ]
)


@given(text=st.lists(PIECES, max_size=12).map("".join))
def test_any_text_with_markers_is_refused_or_written_as_it_was_read(text: str) -> None:
    try:
        record = read_any({"text": text})
    except RowRefused:
        return
    assert write(record) == {"text": text}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"messages": CONVERSATION}, "messages"),
        ({"instruction": "q", "response": "a"}, "instruction-response"),
        ({"instruction": "q", "output": "a"}, "alpaca"),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca"),
        ({"instruction": "q", "input": "", "output": "a", "text": "q a"}, "alpaca"),
        ({"prompt": "q", "completion": "a"}, "prompt-completion"),
        ({"prompt": "q", "response": "a"}, "question-answer"),
        ({"problem": "q", "solution": "a"}, "question-answer"),
        ({"prompt": [USER], "completion": [ASSISTANT]}, "prompt-completion"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "sharegpt"),
        ({"conversations": CONVERSATION}, "sharegpt"),
        ({"messages": CONVERSATION, "prompt": "q", "prompt_id": "1"}, "messages"),
        ({"text": "### Human: q### Assistant: a"}, "guanaco"),
        ({"text": "<s>[INST] q [/INST] a </s>"}, "llama-2"),
        ({"text": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"}, "chatml"),
        ({"text": "\n\nHuman: q\n\nAssistant: a"}, "hh"),
        ({"text": "<start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\na<end_of_turn>\n"}, "gemma"),
        ({"text": "<|user|>\nq</s>\n<|assistant|>\na</s>\n"}, "zephyr"),
        ({"text": "### Instruction:\nq\n\n### Response:\na"}, "alpaca-text"),
        (
            {
                "text": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|>"
            },
            "llama-3",
        ),
    ],
)
def test_every_format_is_told_by_its_keys_and_says_the_same(value: dict[str, Any], name: str) -> None:
    record = read_any(value)
    assert record.meta["format"] == name
    assert list(record.messages) == CONVERSATION
    assert same(write(record), value)


def test_the_input_of_alpaca_follows_the_instruction() -> None:
    record = read_any({"instruction": "Translate.", "input": "Hallo", "output": "Hello"})
    assert record.messages[0]["content"] == "Translate.\n\nHallo"


def test_a_system_prompt_beside_the_format_comes_first() -> None:
    for key in ("system", "system_prompt"):
        assert list(read_any({"prompt": "q", "completion": "a", key: "s"}).messages) == [SYSTEM, *CONVERSATION]
    assert list(read_any({"prompt": "q", "completion": "a", "system": ""}).messages) == CONVERSATION
    assert list(read_any({"messages": [SYSTEM, *CONVERSATION]}).messages) == [SYSTEM, *CONVERSATION]


def test_other_keys_are_kept_aside() -> None:
    record = read_any({"prompt": "q", "completion": "a", "id": 7, "tags": ["x"]})
    assert record.unused == {"id": 7, "tags": ["x"]}


def test_what_a_row_says_about_itself_is_kept_apart() -> None:
    row = {
        "date": "2025-01-02",
        "split": "test",
        "license": "MIT",
        "language": "en",
        "group": "g",
        "created_at": "2025",
    }
    record = read_any({"text": "t", **row})
    assert record.split == "test"
    assert {key: record.meta[key] for key in row if key != "split"} | {"split": "test"} == row
    assert record.unused == {}


def test_a_preference_has_the_prompt_once() -> None:
    other = {"role": "assistant", "content": "b"}
    rows = [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"question": "q", "chosen": "a", "rejected": "b"},
        {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [other]},
        {"chosen": [USER, ASSISTANT], "rejected": [USER, other]},
        {"prompt": "q", "chosen": [USER, ASSISTANT], "rejected": [USER, other], "messages": [USER, ASSISTANT]},
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        {"conversations": [{"from": "human", "value": "q"}]}
        | {"chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}},
    ]
    for row in rows:
        record = read_any(row)
        assert (record.messages, record.chosen, record.rejected) == ((USER,), (ASSISTANT,), (other,))
        assert write(record) == row


def test_kto_keeps_the_label_and_the_answer() -> None:
    record = read_any({"prompt": "q", "completion": "a", "label": False})
    assert (list(record.messages), record.label) == (CONVERSATION, False)
    plain = read_any({"prompt": "q", "completion": "a", "label": "easy"})
    assert (plain.meta["format"], plain.label, plain.unused) == ("prompt-completion", None, {"label": "easy"})


def test_tool_calls_are_as_openai_has_them_however_they_were_spelled() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    sharegpt = {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": '{"name":"f","arguments":{"x":1}}'},
            {"from": "observation", "value": "r"},
            {"from": "gpt", "value": "a"},
        ],
        "tools": '[{"name": "f", "parameters": {}}]',
    }
    openai = {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}},
            {"role": "function", "content": "r"},
            ASSISTANT,
        ],
        "functions": [{"name": "f", "parameters": {}}],
    }
    said = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "r"},
        ASSISTANT,
    ]
    for row in (sharegpt, openai):
        record = read_any(row)
        assert list(record.messages) == said
        assert record.tools == (tool,)
        assert write(record) == row


@pytest.mark.parametrize(
    "name", ["messages", "sharegpt", "chatml", "guanaco", "llama-2", "hh", "llama-3", "gemma", "zephyr"]
)
def test_a_conversation_can_be_written_in_another_format_and_read_again(name: str) -> None:
    record = read_any({"messages": [USER, ASSISTANT, USER, ASSISTANT], "id": 1})
    value = write(record, name)
    again = read_any(value)
    assert again.meta["format"] == name
    assert again.messages == record.messages
    assert again.unused == {"id": 1}


def test_a_system_prompt_is_written_where_the_format_has_a_place_for_it() -> None:
    record = read_any({"messages": [SYSTEM, *CONVERSATION]})
    assert write(record, "alpaca") == {"instruction": "q", "output": "a", "system": "s"}
    assert write(record, "llama-2") == {"text": "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\nq [/INST] a </s>"}
    with pytest.raises(RowRefused, match="no marker for a turn of system"):
        write(record, "hh")
    with pytest.raises(RowRefused, match="more than one request"):
        write(read_any({"messages": CONVERSATION * 2}), "alpaca")
    with pytest.raises(RowRefused, match="no label"):
        write(record, "kto")
    with pytest.raises(RowRefused, match="no format is called so"):
        write(record, "parquet")


def test_a_row_can_be_read_as_what_it_is_said_to_be() -> None:
    both = {"instruction": "q", "response": "a", "output": "b"}
    assert read_as(both, "alpaca").unused == {"response": "a"}
    assert read_as(both, "instruction-response").unused == {"output": "b"}
    assert read_as({"text": "[INST] is a marker"}, "text").text == "[INST] is a marker"
    for name in ("alpaca", "instruction-response"):
        assert write(read_as(both, name)) == both


def test_turns_of_one_speaker_are_joined_only_when_asked_for() -> None:
    value = {"messages": [USER, USER, ASSISTANT, ASSISTANT]}
    with pytest.raises(RowRefused, match="two turns of the user follow each other; `merge` joins them"):
        read_any(value)
    record = read_any(value, merge=True)
    assert [message["content"] for message in record.messages] == ["q\n\nq", "a\n\na"]
    assert write(record) == {"messages": [dict(message) for message in record.messages]}


def test_what_was_joined_is_written_joined() -> None:
    prompt = [{"role": "human", "content": "q"}, USER]
    joined = [{"role": "user", "content": "q\n\nq"}]
    for row, key in (
        ({"prompt": prompt, "completion": [ASSISTANT], "system": "s"}, "prompt"),
        ({"prompt": prompt, "completion": [ASSISTANT, ASSISTANT], "label": True}, "prompt"),
        ({"prompt": prompt, "chosen": "a", "rejected": "b"}, "prompt"),
        ({"conversations": [*prompt, ASSISTANT]}, "conversations"),
    ):
        value = write(read_any(row, merge=True))
        assert isinstance(value, dict)
        assert value[key][:1] == joined
        assert set(value) == set(row)
        assert read_any(value).messages == read_any(row, merge=True).messages
