"""What every family of base models is trained on, as files to read; transformers and TRL are the oracles.

Write the golden files again with BURNISH_WRITE_GOLDEN=1, then read what changed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from families import CALLS, FAMILIES, HERE, SYSTEM, THINKS, TOOLS, TWO, Family, conversations, turn, write_folder
from transformers import PreTrainedTokenizerFast

from burnish.core.errors import DataError
from burnish.text.messages import Message
from burnish.text.render import Rendered, render_answers, render_example, render_prompt
from burnish.text.tokenizer import Tokenizer, load_tokenizer

CASES = [(name, said) for name, family in FAMILIES.items() for said in conversations(family)]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("families")
    return {name: load_tokenizer(write_folder(folder / name, family)) for name, family in FAMILIES.items()}


def stock(name: str) -> str:
    """A template that TRL ships."""
    spec = importlib.util.find_spec("trl")
    path = Path(spec.origin).parent / "chat_templates" / f"{name}.jinja" if spec and spec.origin else None
    if path is None or not path.is_file():
        pytest.skip(f"this TRL has no {name}.jinja")
    return path.read_text(encoding="utf-8")


def oracle(tokenizer: Tokenizer, family: Family, template: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, chat_template=template, bos_token=family.bos, eos_token=family.eos
    )


def opened(messages: list[Message]) -> list[dict[str, Any]]:
    """Messages as transformers wants them: arguments as objects."""
    found: list[dict[str, Any]] = [dict(message) for message in messages]
    for message in found:
        if "tool_calls" in message:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": "search_flights", "arguments": {"origin": "NYC"}}}
            ]
    return found


def text_of(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.backend.decode(ids, skip_special_tokens=False)


def trained_text(tokenizer: Tokenizer, rendered: Rendered) -> list[str]:
    """The runs of tokens with loss."""
    runs: list[list[int]] = []
    for at, (token, trained) in enumerate(zip(rendered.ids, rendered.mask, strict=True)):
        if trained:
            if at == 0 or not rendered.mask[at - 1]:
                runs.append([])
            runs[-1].append(token)
    return [text_of(tokenizer, run) for run in runs]


def golden(tokenizer: Tokenizer, name: str, number: int, rendered: Rendered) -> str:
    """One rendering as lines: the kind of a run of tokens, and its tokens."""
    lines = [
        f"## {name}, rendering {number}: {len(rendered.ids)} tokens, prefix {rendered.prefix}, prompt {rendered.prompt}"
    ]
    kinds = [
        "system" if at < rendered.prefix else "LOSS" if trained else "prompt" if at < rendered.prompt else "after"
        for at, trained in enumerate(rendered.mask)
    ]
    start = 0
    for at in range(1, len(kinds) + 1):
        if at == len(kinds) or kinds[at] != kinds[start]:
            run = rendered.ids[start:at]
            tokens = " ".join(tokenizer.token(token) for token in run)
            lines.append(f"{kinds[start]:<7}{text_of(tokenizer, run)!r}")
            lines.append(f"       {tokens}")
            start = at
    return "\n".join(lines)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_what_is_trained_is_what_was_reviewed(tokenizers: dict[str, Tokenizer], name: str) -> None:
    parts = [
        golden(tokenizers[name], said, number, rendered)
        for said, (messages, tools) in conversations(FAMILIES[name]).items()
        for number, rendered in enumerate(render_answers(tokenizers[name], messages, tools=tools), 1)
    ]
    found = "\n\n".join(parts) + "\n"
    path = HERE / "golden" / f"{name}.txt"
    if os.environ.get("BURNISH_WRITE_GOLDEN"):
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "said"), CASES)
def test_the_last_rendering_is_the_text_and_ids_of_transformers(
    tokenizers: dict[str, Tokenizer], name: str, said: str
) -> None:
    messages, tools = conversations(FAMILIES[name])[said]
    tokenizer = tokenizers[name]
    rendered = render_answers(tokenizer, messages, tools=tools)[-1]
    other = oracle(tokenizer, FAMILIES[name], tokenizer.template)
    assert text_of(tokenizer, rendered.ids) == other.apply_chat_template(
        opened(messages), tools=tools or None, tokenize=False
    )
    ids = other.apply_chat_template(opened(messages), tools=tools or None, tokenize=True, return_dict=False)
    assert rendered.ids == ids


@pytest.mark.parametrize(("name", "said"), CASES)
def test_every_answer_is_trained_once_after_the_prompt_a_server_sends(
    tokenizers: dict[str, Tokenizer], name: str, said: str
) -> None:
    messages, tools = conversations(FAMILIES[name])[said]
    tokenizer = tokenizers[name]
    found = render_answers(tokenizer, messages, tools=tools)
    seen: list[list[int]] = []
    for rendered in found:
        starts = [at for at, t in enumerate(rendered.mask) if t and not rendered.mask[at - 1]]
        seen += [rendered.ids[:start] for start in starts]
    served = [
        render_prompt(tokenizer, messages[:at], tools=tools)
        for at, m in enumerate(messages)
        if m["role"] == "assistant"
    ]
    assert seen == served
    other = oracle(tokenizer, FAMILIES[name], tokenizer.template)
    for at, ids in zip([at for at, m in enumerate(messages) if m["role"] == "assistant"], served, strict=True):
        given = opened(messages[:at])
        assert text_of(tokenizer, ids) == other.apply_chat_template(
            given, tools=tools or None, tokenize=False, add_generation_prompt=True
        )


@pytest.mark.parametrize(("name", "said"), [case for case in CASES if FAMILIES[case[0]].trl])
def test_our_words_of_a_template_render_as_the_stock_template(
    tokenizers: dict[str, Tokenizer], name: str, said: str
) -> None:
    messages, tools = conversations(FAMILIES[name])[said]
    texts = [
        oracle(tokenizers[name], FAMILIES[name], template).apply_chat_template(
            opened(messages[:turns]), tools=tools or None, tokenize=False, add_generation_prompt=turns < len(messages)
        )
        for template in (tokenizers[name].template, stock(FAMILIES[name].trl))
        for turns in range(1, len(messages) + 1)
        if messages[turns - 1]["role"] != "system"
    ]
    assert texts[: len(texts) // 2] == texts[len(texts) // 2 :]


@pytest.mark.parametrize(("name", "said"), [case for case in CASES if FAMILIES[case[0]].tagged])
def test_the_mask_is_that_of_generation_tags_up_to_the_stop_token(
    tmp_path: Path, tokenizers: dict[str, Tokenizer], name: str, said: str
) -> None:
    family = FAMILIES[name]
    messages, tools = conversations(family)[said]
    tagged = stock(family.tagged)
    tokenizer = load_tokenizer(write_folder(tmp_path, family, template=tagged))
    (rendered,) = render_answers(tokenizer, messages, tools=tools)
    other = oracle(tokenizer, family, tagged).apply_chat_template(
        opened(messages), tools=tools or None, return_dict=True, return_assistant_tokens_mask=True
    )
    assert rendered.ids == list(other["input_ids"])
    theirs = list(other["assistant_masks"])
    # TRL's tags also hold what the template writes after the stop token (a newline, Phi-3's end of text), which no
    # server ever asks for; up to the stop token the masks are the same.
    for at, mine in enumerate(rendered.mask):
        if mine != theirs[at]:
            assert mine == 0
            stop = max(i for i in range(at) if rendered.mask[i])
            assert rendered.ids[stop] in tokenizer.stop_ids
            assert text_of(tokenizer, rendered.ids[stop + 1 : at + 1]).replace("<|endoftext|>", "").strip() == ""


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.bos])
def test_a_post_processor_that_adds_the_beginning_changes_nothing(
    tmp_path: Path, tokenizers: dict[str, Tokenizer], name: str
) -> None:
    adding = load_tokenizer(write_folder(tmp_path, FAMILIES[name], adds_bos=True))
    (plain,) = render_answers(tokenizers[name], TWO)
    (added,) = render_answers(adding, TWO)
    assert plain == added
    assert plain.ids[0] == adding.bos_id != plain.ids[1]
    other = oracle(adding, FAMILIES[name], adding.template)
    assert added.ids == other.apply_chat_template(opened(TWO), tokenize=True, return_dict=False)


STOCK = {
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "gemma3": "<end_of_turn>",
    "lfm2_v2": "<|im_end|>",
    "llama3_1": "<|eot_id|>",
    "llama3_2": "<|eot_id|>",
    "phi3_5": "<|end|>",
    "qwen2_5": "<|im_end|>",
    "qwen3_5_think": "<|im_end|>",
    "qwen3_6": "<|im_end|>",
    "qwen3_8": "<|im_end|>",
    "qwen3_instruct_2507": "<|im_end|>",
}
"""More stock templates, and what their answers end with."""
KNOWS_TOOLS = set(STOCK) - {"cohere", "gemma3", "phi3_5"}


@pytest.mark.parametrize("name", list(STOCK))
@pytest.mark.parametrize("said", ["two turns", "system", "thinking", "tool call"])
def test_other_stock_templates_hold_too(tmp_path: Path, name: str, said: str) -> None:
    source = stock(name)
    special = set(re.findall(r"<\|[^\n<>{}' ]{1,40}?\|>|<(?:start|end)_of_turn>", source))
    family = Family(name, tuple(sorted({*special, STOCK[name], "<bos>"})), STOCK[name], "<bos>")
    tokenizer = load_tokenizer(write_folder(tmp_path, family, template=source))
    messages, tools = {
        "two turns": (TWO, []),
        "system": (SYSTEM, []),
        "thinking": (THINKS, []),
        "tool call": (CALLS, TOOLS),
    }[said]
    if tools and name not in KNOWS_TOOLS:
        with pytest.raises(DataError, match="leaves the tool 'search_flights' out"):
            render_answers(tokenizer, messages, tools=tools)
        return
    found = render_answers(tokenizer, messages, tools=tools)
    assert sum(len(trained_text(tokenizer, rendered)) for rendered in found) == 2
    other = oracle(tokenizer, family, source)
    assert text_of(tokenizer, found[-1].ids) == other.apply_chat_template(
        opened(messages), tools=tools or None, tokenize=False
    )
    prompts = [
        render_prompt(tokenizer, messages[:at], tools=tools)
        for at, m in enumerate(messages)
        if m["role"] == "assistant"
    ]
    starts = [
        rendered.ids[:at]
        for rendered in found
        for at, trained in enumerate(rendered.mask)
        if trained and not rendered.mask[at - 1]
    ]
    assert starts == prompts


def test_a_block_of_thinking_that_no_answer_has_says_how_to_switch_it_off(tmp_path: Path) -> None:
    opens = FAMILIES["chatml"].template.replace(
        "'<|im_start|>assistant\\n' }}{%- endif", "'<|im_start|>assistant\\n<think>\\n' }}{%- endif"
    )
    tokenizer = load_tokenizer(write_folder(tmp_path, FAMILIES["chatml"], template=opens))
    with pytest.raises(DataError, match=r"opens a block of thinking.*enable_thinking: false"):
        render_answers(tokenizer, TWO)


def test_earlier_answers_are_in_the_prompt_without_what_they_thought(tokenizers: dict[str, Tokenizer]) -> None:
    first, second = render_answers(tokenizers["qwen3"], THINKS)
    assert trained_text(tokenizers["qwen3"], first) == ["<think>\nTo London.\n</think>\n\nLondon<|im_end|>"]
    assert trained_text(tokenizers["qwen3"], second) == ["<think>\nMore.\n</think>\n\nNew York<|im_end|>"]
    assert "To London." not in text_of(tokenizers["qwen3"], second.ids)
    with pytest.raises(DataError, match="one sequence cannot hold all answers"):
        render_example(tokenizers["qwen3"], THINKS)


def test_without_thinking_the_empty_block_belongs_to_the_prompt(
    tmp_path: Path, tokenizers: dict[str, Tokenizer]
) -> None:
    folder = write_folder(tmp_path, FAMILIES["qwen3"])
    quiet = load_tokenizer(folder, variables={"enable_thinking": False})
    last = render_answers(quiet, TWO)[-1]
    assert trained_text(quiet, last) == ["New York<|im_end|>"]
    assert text_of(quiet, last.ids[: last.prompt]).endswith("<think>\n\n</think>\n\n")
    assert quiet.fingerprint(None) != load_tokenizer(folder).fingerprint(None)
    assert load_tokenizer(folder).fingerprint(None) == tokenizers["qwen3"].fingerprint(None)


def test_a_system_prompt_that_moves_to_the_last_request_is_seen_by_each_answer(
    tokenizers: dict[str, Tokenizer],
) -> None:
    found = render_answers(tokenizers["mistral-late-system"], SYSTEM)
    texts = [text_of(tokenizers["mistral-late-system"], rendered.ids) for rendered in found]
    assert [text.count("Today is Tuesday.") for text in texts] == [1, 1]
    assert [trained_text(tokenizers["mistral-late-system"], rendered) for rendered in found] == [
        [" Where to?</s>"],
        [" New York</s>"],
    ]
    assert found[0].prefix > 5


def test_an_end_of_text_that_goes_when_the_conversation_goes_on_does_not_split_it(
    tokenizers: dict[str, Tokenizer],
) -> None:
    (rendered,) = render_answers(tokenizers["phi-3"], TWO)
    assert trained_text(tokenizers["phi-3"], rendered) == ["Where to?<|end|>", "New York<|end|>"]


@pytest.mark.parametrize("name", ["mistral", "gemma"])
def test_a_family_without_a_system_role_says_what_to_do(tokenizers: dict[str, Tokenizer], name: str) -> None:
    with pytest.raises(DataError, match="has no system role: leave the system prompt out"):
        render_answers(tokenizers[name], SYSTEM)


@pytest.mark.parametrize("name", ["chatml", "llama-3", "phi-4"])
def test_a_template_without_tools_never_loses_them_silently(tokenizers: dict[str, Tokenizer], name: str) -> None:
    with pytest.raises(DataError, match="leaves the tool 'search_flights' out"):
        render_answers(tokenizers[name], CALLS, tools=TOOLS)
    with pytest.raises(DataError, match="leaves the call of the tool 'search_flights' out"):
        render_answers(tokenizers[name], CALLS)


def test_what_a_tool_said_is_never_lost_silently(tmp_path: Path) -> None:
    deaf = FAMILIES["chatml"].template.replace("in messages %}", "in messages if message.role != 'tool' %}")
    tokenizer = load_tokenizer(write_folder(tmp_path, FAMILIES["chatml"], template=deaf))
    with pytest.raises(DataError, match=r"leaves what a tool said out \('42 dollars'\)"):
        render_answers(tokenizer, [turn("user", "a"), turn("tool", "42 dollars"), turn("assistant", "c")])


@pytest.mark.parametrize("as_files", [False, True])
def test_tools_take_the_template_that_is_for_tools(tmp_path: Path, as_files: bool) -> None:
    family = FAMILIES["chatml"]
    folder = write_folder(tmp_path, family)
    plain = load_tokenizer(folder)
    if as_files:
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(FAMILIES["qwen3"].template)
    else:
        (folder / "chat_template.jinja").unlink()
        named = [
            {"name": "tool_use", "template": FAMILIES["qwen3"].template},
            {"name": "default", "template": family.template},
        ]
        config = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": named}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.template == plain.template
    assert tokenizer.fingerprint(None) != plain.fingerprint(None)
    assert render_answers(tokenizer, SYSTEM) == render_answers(plain, SYSTEM)
    with_tools = render_answers(tokenizer, CALLS, tools=TOOLS)[-1]
    other = PreTrainedTokenizerFast.from_pretrained(folder)
    ids = other.apply_chat_template(opened(CALLS), tools=TOOLS, tokenize=True, return_dict=False)
    assert with_tools.ids == ids


@pytest.mark.parametrize(
    ("arguments", "said"), [("{", "are not JSON"), ("[1]", "must be a JSON object"), ('"a"', "must be a JSON object")]
)
def test_arguments_that_are_no_object_are_an_error(tokenizers: dict[str, Tokenizer], arguments: str, said: str) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(DataError, match=f"tool call 'f' {said}"):
        render_answers(tokenizers["qwen3"], [turn("user", "a"), turn("assistant", "", tool_calls=[call])])
