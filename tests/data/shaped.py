"""Rows of every format, made by hypothesis for the tests of `shapes`."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

USER = {"role": "user", "content": "q"}
ASSISTANT = {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
CONVERSATION = [USER, ASSISTANT]

Rows = st.SearchStrategy[dict[str, Any]]
MARKS = ("<", "[", "###", "Human:", "Assistant:", "Below is an instruction")


def _unmarked(text: str) -> bool:
    return bool(text.strip()) and not any(mark in text for mark in MARKS)


said = st.text(min_size=1, max_size=20).filter(_unmarked)
stripped = said.map(str.strip)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
optional: Rows = st.fixed_dictionaries(
    {},
    optional={
        "date": st.text(max_size=12) | st.none(),
        "split": st.sampled_from(["train", "test", None]),
        "system": st.text(max_size=9) | st.none(),
        "license": st.text(max_size=5) | st.integers(),
        "group": st.text(max_size=5),
        "id": st.integers(),
        "more": json_values,
    },
)


def conversation(names: tuple[str, str], words: dict[str, list[str]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """One to three requests and answers, each role in any of its spellings."""
    speaker, key = names

    def turn(role: str) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries({speaker: st.sampled_from(words[role]), key: said})

    pairs = st.lists(st.tuples(turn("user"), turn("assistant")), min_size=1, max_size=3)
    return pairs.map(lambda found: [message for pair in found for message in pair])


parts = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "input_text"]), "text": said}, optional={"image_url": st.none()}
    ),
    min_size=1,
    max_size=3,
)
plain_turns = conversation(("role", "content"), {"user": ["user"], "assistant": ["assistant"]})
odd_turns = conversation(
    ("role", "content"), {"user": ["user", "human", "User"], "assistant": ["assistant", "model", "bot"]}
).flatmap(
    lambda turns: st.tuples(parts, st.just(turns)).map(lambda both: [{**both[1][0], "content": both[0]}, *both[1][1:]])
)
with_system = st.tuples(st.sampled_from(["system", "developer"]), st.text(max_size=9), plain_turns).map(
    lambda given: [{"role": given[0], "content": given[1]}, *given[2]]
)
sharegpt_turns = conversation(
    ("from", "value"), {"user": ["human", "user"], "assistant": ["gpt", "chatgpt", "assistant", "bot"]}
)
speaker_turns = st.sampled_from([("speaker", "text"), ("role", "value"), ("from", "content")]).flatmap(
    lambda names: conversation(names, {"user": ["human", "user"], "assistant": ["assistant", "gpt"]})
)
arguments = st.dictionaries(st.text(max_size=6), json_values, max_size=3)


@st.composite
def calls(draw: st.DrawFn) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 3))):
        given = draw(arguments)
        spelled = draw(st.sampled_from([given, json.dumps(given), json.dumps(given, indent=1, ensure_ascii=False)]))
        function = {"name": draw(st.sampled_from(["find", "send"])), "arguments": spelled}
        usual = {"id": f"call_{number}", "type": "function", "function": function}
        found.append(draw(st.sampled_from([usual, {"function": function}, function, usual | {"index": number}])))
    return found


@st.composite
def tool_turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    asked = draw(calls())
    empty = draw(st.sampled_from([{}, {"content": None}, {"content": ""}, {"content": None, "refusal": None}]))
    results = [{"role": "tool", "content": draw(st.text(max_size=9))} for _ in asked]
    results = [
        {**turn, "tool_call_id": call["id"], "name": "find"} if "id" in call else turn
        for turn, call in zip(results, asked, strict=True)
    ]
    return [
        {"role": "user", "content": draw(said)},
        {"role": "assistant", "tool_calls": asked} | empty,
        *results,
        ASSISTANT,
    ]


@st.composite
def sharegpt_tool_turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    call = {"name": "find", "arguments": draw(arguments)}
    spelled = draw(
        st.sampled_from([json.dumps(call), json.dumps([call, call], ensure_ascii=False), json.dumps(call, indent=2)])
    )
    return [
        {"from": "human", "value": draw(said)},
        {"from": "function_call", "value": spelled},
        {"from": "observation", "value": draw(said)},
        {"from": "gpt", "value": draw(said)},
    ]


schema = {"name": "find", "description": "d", "parameters": {"type": "object", "properties": {}}}
tools = st.sampled_from([[{"type": "function", "function": schema}], [schema], json.dumps([schema]), [], "", None])
space = st.sampled_from([" ", "\n", "\n\n", "  \n "])


@st.composite
def guanaco(draw: st.DrawFn) -> str:
    turns = draw(st.lists(st.tuples(stripped, stripped), min_size=1, max_size=3))
    text = "".join(
        f"### Human:{draw(space)}{asked}{draw(space)}### Assistant:{draw(space)}{answered}{draw(space)}"
        for asked, answered in turns
    )
    return draw(st.sampled_from(["", f"### System: {draw(stripped)}\n"])) + text


@st.composite
def llama_2(draw: st.DrawFn) -> str:
    begin, end = draw(st.sampled_from([("<s>", "</s>"), ("<s> ", " </s> "), ("", "</s>"), ("<s>", " </s>\n")]))
    turns = draw(st.lists(st.tuples(stripped, stripped), min_size=1, max_size=3))
    system = draw(st.sampled_from(["", "<<SYS>>\n\n<</SYS>>\n\n", f"<<SYS>>\n{draw(stripped)}\n<</SYS>>\n\n"]))
    return "".join(
        f"{begin}[INST] {system if index == 0 else ''}{asked} [/INST] {answered}{end}"
        for index, (asked, answered) in enumerate(turns)
    )


@st.composite
def chatml(draw: st.DrawFn) -> str:
    turns = draw(st.lists(st.tuples(said, said), min_size=1, max_size=3))
    system = draw(st.sampled_from(["", "<|im_start|>system\ns<|im_end|>\n"]))
    return system + "".join(
        f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{answered}<|im_end|>{draw(space)}"
        for asked, answered in turns
    )


@st.composite
def hh(draw: st.DrawFn, answer: bool = True) -> str:
    turns = draw(st.lists(st.tuples(stripped, stripped), min_size=1, max_size=2))
    text = "".join(f"\n\nHuman: {asked}\n\nAssistant: {answered}" for asked, answered in turns)
    return text if answer else f"{text}\n\nHuman: {draw(stripped)}\n\nAssistant:"


@st.composite
def whole_preferences(draw: st.DrawFn) -> dict[str, Any]:
    """Chosen and rejected that hold the whole conversation, as in UltraFeedback, and the prompt beside them or not."""
    prompt = draw(plain_turns)[:-1]
    good, bad = draw(st.tuples(said, said).filter(lambda pair: pair[0] != pair[1]))
    row = {
        "chosen": [*prompt, {"role": "assistant", "content": good}],
        "rejected": [*prompt, {"role": "assistant", "content": bad}],
    }
    beside: list[dict[str, Any]] = [
        {},
        {"prompt": prompt[-1]["content"]},
        {"prompt": prompt},
        {"messages": row["chosen"]},
    ]
    return row | draw(st.sampled_from(beside))


two = st.tuples(said, said).filter(lambda pair: pair[0] != pair[1])
answers = two.map(lambda pair: {"chosen": pair[0], "rejected": pair[1]})
turn_answers = two.map(
    lambda pair: {
        "chosen": [{"role": "assistant", "content": pair[0]}],
        "rejected": [{"role": "assistant", "content": pair[1]}],
    }
)
single_answers = two.map(
    lambda pair: {"chosen": {"from": "gpt", "value": pair[0]}, "rejected": {"from": "gpt", "value": pair[1]}}
)


def same(one: Any, other: Any) -> bool:
    """Equal in type too: to Python 1, 1.0 and True are equal, to JSON they are not."""
    return one == other and json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def joined(*rows: Rows) -> Rows:
    """One row with the keys of several."""
    return st.tuples(*rows).map(lambda found: {key: value for row in found for key, value in row.items()})


def of(key: str, values: st.SearchStrategy[Any]) -> Rows:
    """A row with one key."""
    return st.fixed_dictionaries({key: values})


FORMATS: dict[str, Rows] = {
    "messages": of("messages", plain_turns | odd_turns | with_system),
    "messages with tools": st.fixed_dictionaries({"messages": tool_turns()}, optional={"tools": tools}),
    "sharegpt": of("conversations", sharegpt_turns | plain_turns | speaker_turns),
    "sharegpt with tools": st.fixed_dictionaries({"conversations": sharegpt_tool_turns()}, optional={"tools": tools}),
    "instruction-response": st.fixed_dictionaries(
        {"instruction": said, "response": said}, optional={"context": st.text()}
    ),
    "alpaca": st.fixed_dictionaries({"instruction": said, "output": said}, optional={"input": st.text() | st.none()}),
    "prompt-completion": st.fixed_dictionaries({"prompt": said, "completion": said}),
    "prompt-completion as turns": plain_turns.map(lambda turns: {"prompt": turns[:-1], "completion": turns[-1:]}),
    "question-answer": st.sampled_from(
        [("question", "answer"), ("query", "response"), ("q", "a"), ("input", "output")]
    ).flatmap(lambda keys: st.fixed_dictionaries({keys[0]: said, keys[1]: said}, optional={"context": st.text()})),
    "chatml": of("text", chatml()) | of("messages", chatml()),
    "guanaco": of("text", guanaco()),
    "llama-2": of("text", llama_2()),
    "hh": of("text", hh()),
    "preference": joined(of("prompt", said), answers),
    "preference as turns": joined(of("prompt", plain_turns.map(lambda turns: turns[:-1])), turn_answers),
    "preference of LLaMA-Factory": joined(
        of("conversations", sharegpt_turns.map(lambda turns: turns[:-1])), single_answers
    ),
    "preference with whole conversations": whole_preferences(),
    "preference of HH": st.tuples(hh(answer=False), two).map(
        lambda found: {"chosen": f"{found[0]} {found[1][0].strip()}", "rejected": f"{found[0]} {found[1][1].strip()}x"}
    ),
    "preference with an HH prompt": joined(of("prompt", hh(answer=False)), answers),
    "kto": joined(of("prompt", said), of("completion", said), of("label", st.booleans())),
    "kto as turns": joined(
        plain_turns.map(lambda turns: {"prompt": turns[:-1], "completion": turns[-1:]}), of("label", st.booleans())
    ),
    "text": of("text", said),
    "document": st.sampled_from(["document", "content", "page_content", "body"]).flatmap(lambda key: of(key, said)),
}
