"""A row that cannot be used has a reason that can be counted, and a detail that says what to do."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from shaped import ASSISTANT, CONVERSATION, SYSTEM, USER

from burnish.data.formats.refusal import RowRefused
from burnish.data.formats.rows import check, read_any, read_as, write

OTHER = {"role": "assistant", "content": "b"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "r"}


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def calling(**function: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"function": function}]}]}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "unknown format"),
        ({"instruction": "q"}, "unknown format"),
        ({"messages": CONVERSATION, "prompt": "q", "completion": "a"}, "more than one format"),
        ({"instruction": "q", "response": "a", "output": "b"}, "more than one format"),
        ({"prompt": 7, "completion": "a"}, "wrong type"),
        ({"prompt": "q", "completion": None}, "wrong type"),
        ({"prompt": "q", "completion": "a", "date": 20250715}, "wrong type"),
        ({"prompt": "q", "completion": "a", "system": ["s"]}, "wrong type"),
        ({"instruction": "q", "input": 3, "output": "a"}, "wrong type"),
        ({"messages": "hello"}, "wrong type"),
        ({"messages": [["user", "q"]]}, "wrong type"),
        ({"messages": [{"role": "user"}, ASSISTANT]}, "message without role or content"),
        ({"messages": [{"from": "human", "value": "q"}, ASSISTANT]}, "message without role or content"),
        ({"messages": [{"role": "narrator", "content": "q"}, ASSISTANT]}, "unknown role"),
        ({"messages": [{"role": ["user"], "content": "q"}, ASSISTANT]}, "unknown role"),
        ({"messages": [USER, ASSISTANT | {"weight": 0}]}, "message with more than role and content"),
        ({"messages": []}, "no messages"),
        ({"messages": [SYSTEM]}, "no messages"),
        ({"messages": [USER]}, "does not end with an answer"),
        ({"messages": [USER, ASSISTANT, USER]}, "does not end with an answer"),
        ({"messages": [ASSISTANT]}, "roles do not alternate"),
        ({"messages": [USER, USER, ASSISTANT]}, "roles do not alternate"),
        ({"messages": [USER, SYSTEM, USER, ASSISTANT]}, "roles do not alternate"),
        ({"messages": [SYSTEM, SYSTEM, USER, ASSISTANT]}, "roles do not alternate"),
        ({"prompt": " \n", "completion": "a"}, "empty request"),
        ({"prompt": "q", "completion": ""}, "empty answer"),
        ({"prompt": "q", "completion": "a", "split": "validation"}, "unknown split"),
        ({"messages": [SYSTEM, *CONVERSATION], "system": "s"}, "two system prompts"),
    ],
)
def test_what_was_refused_before_still_is(value: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowRefused) as refused:
        read_any(value)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"conversations": []}, "no messages"),
        ([], "no messages"),
        (["hello"], "wrong type"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "image_url"}]}]}, "content that is not text"),
        ({"messages": [USER, {"role": "assistant", "content": []}]}, "empty answer"),
        ({"messages": [{"role": "user", "content": ["q"]}, ASSISTANT]}, "wrong type"),
        ({"messages": [USER, RESULT, ASSISTANT]}, "tool result without a call"),
        ({"messages": [USER, CALLING, RESULT | {"tool_call_id": "d"}, ASSISTANT]}, "tool result without a call"),
        ({"messages": [USER, CALLING, ASSISTANT]}, "tool call without a result"),
        ({"messages": [USER, CALLING, USER, ASSISTANT]}, "tool call without a result"),
        ({"messages": [USER, CALLING, RESULT, USER, ASSISTANT]}, "roles do not alternate"),
        ({"messages": [USER, CALLING, RESULT]}, "does not end with an answer"),
        ({"messages": [USER | {"tool_calls": [CALL]}, ASSISTANT]}, "tool call of another than the assistant"),
        (calling(name="f", arguments="{"), "tool call that is not JSON"),
        (calling(name="f", arguments='{"a":1,"a":2}'), "tool call that is not JSON"),
        (calling(name="f", arguments="[]"), "tool call that is not JSON"),
        (calling(name="f", arguments=None), "wrong type"),
        (calling(name="", arguments={}), "wrong type"),
        (calling(arguments={}), "tool call without name or arguments"),
        (calling(name="f", arguments=deep(0), strict=True), "tool call with more than name and arguments"),
        (calling(name="f", arguments={"a": deep(200)}), "nested too deeply"),
        ({"messages": [USER, CALLING | {"tool_calls": "f()"}]}, "wrong type"),
        ({"messages": [USER, CALLING | {"tool_calls": [CALL | {"type": "code"}]}]}, "unknown kind of tool call"),
        ({"messages": CONVERSATION, "tools": "a hammer"}, "tools that are not JSON"),
        ({"messages": CONVERSATION, "tools": [{"type": "function"}]}, "tool without a name"),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "f(1)"}]},
            "tool call that is not JSON",
        ),
        ({"text": " "}, "empty text"),
        ({"text": "great film", "label": 1}, "more than one format"),
        ({"text": "### Human: q"}, "does not end with an answer"),
        ({"text": "### Human: q ### Assistant:"}, "empty answer"),
        ({"text": "[INST] q [/INST]"}, "empty answer"),
        ({"text": "<|im_start|>user\nq<|im_end|> and so <|im_start|>assistant\na<|im_end|>"}, "text outside of turns"),
        ({"text": "<|im_start|>narrator\nq<|im_end|>"}, "unknown role"),
        ({"role": "user", "content": "q"}, "one turn a row"),
        ({"problem": "q", "solution": "a", "answer": "4"}, "more than one format"),
        ({"chosen": "a", "rejected": "b"}, "preference without a prompt"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "empty answer"),
        ({"prompt": "q", "chosen": [USER, ASSISTANT], "rejected": "b"}, "chosen and rejected differ in form"),
        ({"prompt": "z", "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}, "two prompts"),
        (
            {"chosen": [USER, ASSISTANT], "rejected": [{"role": "user", "content": "z"}, OTHER]},
            "chosen and rejected do not share a prompt",
        ),
        ({"prompt": "q", "completion": "a", "label": 1}, "ambiguous label"),
        ({"instruction": [USER], "input": "c", "output": "a"}, "context beside a conversation"),
        ({"prompt": "q", "completion": "a", "x": deep(200)}, "nested too deeply"),
        ({"prompt": "q", "completion": "a", "system": "s", "system_prompt": "s"}, "two system prompts"),
    ],
)
def test_what_cannot_be_used_has_a_reason(value: Any, reason: str) -> None:
    with pytest.raises(RowRefused) as refused:
        read_any(value)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("value", "said"),
    [
        # unsloth #334, alignment-handbook #93, smol-course #260: a published set with two requests in a row
        (
            {"messages": [USER, USER, ASSISTANT]},
            "user, user, assistant: two turns of the user follow each other; `merge`",
        ),
        # trl #1777: KeyError None
        ({"messages": None}, "wrong type: messages is null, not a list"),
        # pandas writes lists as Python prints them
        (
            {"messages": "[{'role': 'user'}]"},
            "turns that are not JSON: messages is a list as Python prints it; write it with json.dumps: Expecting",
        ),
        (
            {"messages": '[{"role":"user","content":"\\ud83d"},{"role":"assistant","content":"a"}]'},
            "half a surrogate pair",
        ),
        # trl #6668, #3927: all labels masked, loss 0.0, "success"
        ({"prompt": "q", "completion": " "}, "empty answer: nothing in it could be learned"),
        (
            {"problem": "q", "solution": "a", "answer": "4"},
            r"\(problem, answer\) and question-answer \(problem, solution\)",
        ),
        (
            {"messages": [USER, ASSISTANT | {"weight": 0, "mask": 1}]},
            "message with more than role and content: mask, weight",
        ),
        ({"role": "user", "content": "q"}, "a row must hold the whole conversation"),
    ],
)
def test_what_peers_stumble_over_is_said_clearly(value: dict[str, Any], said: str) -> None:
    with pytest.raises(RowRefused, match=said):
        read_any(value)


def test_sharegpt_that_is_read_as_alpaca_is_told_so() -> None:
    """LlamaFactory #7577, axolotl #879: KeyError 'instruction'."""
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    with pytest.raises(RowRefused, match="not alpaca: its keys are conversations; it looks like sharegpt or messages"):
        read_as(row, "alpaca")
    with pytest.raises(RowRefused, match="a list of turns is messages or sharegpt"):
        read_as(row["conversations"], "alpaca")
    with pytest.raises(RowRefused, match='Did you mean "alpaca"'):
        read_as(row, "alpacca")
    with pytest.raises(RowRefused, match="not guanaco: text does not begin with ### Human:"):
        read_as({"text": "hello"}, "guanaco")


def test_a_list_of_lists_is_read_without_a_key() -> None:
    """unsloth #321."""
    assert list(read_any([USER, ASSISTANT]).messages) == CONVERSATION


def test_content_as_a_list_and_as_text_say_the_same() -> None:
    """axolotl #3655: KeyError 0."""
    parts = [{"type": "text", "text": "q"}]
    assert list(read_any({"messages": [{"role": "user", "content": parts}, ASSISTANT]}).messages) == CONVERSATION


def test_a_prompt_that_is_already_in_a_template_is_not_put_into_one_again() -> None:
    """trl #3140: a chat template applied to text that has one."""
    prompt = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert list(read_any({"prompt": prompt, "completion": "a"}).messages) == CONVERSATION
    assert list(read_any({"prompt": "\n\nHuman: q\n\nAssistant:", "completion": "a"}).messages) == CONVERSATION


def test_null_where_a_table_lacks_something_is_nothing() -> None:
    record = read_any({"prompt": "q", "completion": "a", "system": None, "date": None, "split": None})
    assert (list(record.messages), record.split, record.day(), record.unused) == (CONVERSATION, None, None, {})
    empty = {"tool_calls": None, "name": None, "tool_call_id": None, "function_call": None}
    assert list(read_any({"messages": [USER | empty, ASSISTANT | empty]}).messages) == CONVERSATION


def test_a_record_that_a_change_emptied_is_found() -> None:
    for value in (
        {"text": "t"},
        {"prompt": "q", "completion": "a"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"messages": [*CONVERSATION, USER, ASSISTANT]},
    ):
        check(read_any(value))
        with pytest.raises(RowRefused, match="empty"):
            check(read_any(value).mapped(lambda _: ""))


def test_a_call_needs_no_words_and_may_be_the_last_turn() -> None:
    record = read_any({"messages": [USER, CALLING]})
    assert record.messages[-1]["role"] == "assistant"
    check(record)


def test_a_refusal_survives_the_way_between_processes() -> None:
    refusal = pickle.loads(pickle.dumps(RowRefused("wrong type", "x is null")))
    assert (refusal.reason, refusal.detail, str(refusal)) == ("wrong type", "x is null", "wrong type: x is null")


def test_many_tool_turns_and_long_texts_of_markers_take_linear_time() -> None:
    calls = [USER, CALLING, *[RESULT] * 50_000, ASSISTANT]
    assert len(read_any({"messages": calls}).messages) == 50_003
    for text in ("</s>" * 100_000, "</s>" + " " * 100_000, "<s>" + " " * 100_000, "[INST]" + "\n" * 100_000):
        for value in ({"text": f"[INST] q [/INST]{text}x"}, {"text": f"{text}<|im_start|>?"}, {"text": f" {text}"}):
            try:
                assert write(read_any(value)) == value
            except RowRefused:
                continue
    with pytest.raises(RowRefused, match="text outside of turns"):
        read_any({"text": " " * 100_000 + "<|im_start|>?"})
