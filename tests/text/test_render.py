"""One rendering for training, evaluation and serving: transformers is the oracle for text and ids."""

from __future__ import annotations

import datetime

import pytest
from chat_templates import ALL_FUNCTIONS, CHATML, DEFAULT_SYSTEM, INSIDE, NO_SYSTEM, TEMPLATES, TRIMS, MakeFolder
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from burnish.core.errors import DataError
from burnish.text.messages import Message
from burnish.text.render import Rendered, render_example, render_prompt
from burnish.text.tokenizer import Tokenizer, load_tokenizer


def system(text: str) -> Message:
    return Message(role="system", content=text)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


ONE_TURN = [user("Find me flights."), assistant('{"action": "search_flights"}')]
TWO_TURNS = [user("Find me"), assistant("Where to?"), user("London é 🛫"), assistant("New York")]
WITH_SYSTEM = [system("Today is Tuesday."), *TWO_TURNS]


@pytest.fixture(scope="module")
def tokenizers(make_folder: MakeFolder) -> dict[str, Tokenizer]:
    return {name: load_tokenizer(make_folder(template)) for name, template in TEMPLATES.items()}


@pytest.fixture(scope="module")
def chatml(tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers["chatml"]


def oracle(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    llama3 = tokenizer.template == TRIMS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend,
        chat_template=tokenizer.template,
        bos_token="<s>",
        eos_token="<|eot_id|>" if llama3 else "<|im_end|>",
        unk_token="<|endoftext|>",
    )


def expected_ids(tokenizer: Tokenizer, messages: list[Message], *, prompt: bool) -> list[int]:
    given = [dict(message) for message in messages]
    return oracle(tokenizer).apply_chat_template(given, tokenize=True, add_generation_prompt=prompt, return_dict=False)


def shown(tokenizer: Tokenizer, rendered: Rendered) -> list[str]:
    """The runs of tokens with loss, as text."""
    runs: list[list[int]] = []
    for at, (token, trained) in enumerate(zip(rendered.ids, rendered.mask, strict=True)):
        if trained and (at == 0 or not rendered.mask[at - 1]):
            runs.append([])
        if trained:
            runs[-1].append(token)
    return [tokenizer.backend.decode(run, skip_special_tokens=False) for run in runs]


def check(tokenizer: Tokenizer, messages: list[Message]) -> Rendered:
    rendered = render_example(tokenizer, messages)
    assert len(rendered.mask) == len(rendered.ids)
    assert render_prompt(tokenizer, messages[:-1]) == rendered.ids[: rendered.prompt]
    assert rendered.prefix <= rendered.prompt < len(rendered.ids)
    assert not any(rendered.mask[: rendered.prefix])
    return rendered


CONVERSATIONS = {"one turn": ONE_TURN, "two turns": TWO_TURNS, "with system": WITH_SYSTEM}


@pytest.mark.parametrize(
    ("name", "conversation"),
    [(name, said) for name in TEMPLATES for said in CONVERSATIONS if (name, said) != ("no system", "with system")],
)
def test_ids_are_those_of_transformers(tokenizers: dict[str, Tokenizer], name: str, conversation: str) -> None:
    messages = CONVERSATIONS[conversation]
    rendered = check(tokenizers[name], messages)
    assert rendered.ids == expected_ids(tokenizers[name], messages, prompt=False)
    assert rendered.ids[: rendered.prompt] == expected_ids(tokenizers[name], messages[:-1], prompt=True)


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("chatml", ["Where to?<|im_end|>", "New York<|im_end|>"]),
        ("default system", ["Where to?<|im_end|>", "New York<|im_end|>"]),
        ("trims", ["Where to?<|eot_id|>", "New York<|eot_id|>"]),
        ("no system", ["Where to?<|im_end|>", "New York<|im_end|>"]),
        ("inside", [" Where to? <|im_end|>", " New York <|im_end|>"]),
        ("all functions", ["Where to?<|im_end|>", "New York<|im_end|>"]),
    ],
)
def test_each_answer_and_its_stop_token_have_loss_and_nothing_else(
    tokenizers: dict[str, Tokenizer], name: str, answers: list[str]
) -> None:
    assert shown(tokenizers[name], check(tokenizers[name], TWO_TURNS)) == answers


def test_the_newline_after_the_end_of_a_turn_has_no_loss(chatml: Tokenizer) -> None:
    rendered = check(chatml, ONE_TURN)
    assert chatml.decode(rendered.ids[-1:]) == "\n"
    assert rendered.mask[-2:] == [1, 0]


texts = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30).filter(str.strip)


@pytest.mark.parametrize("name", list(TEMPLATES))
@given(contents=st.lists(texts, min_size=2, max_size=6).filter(lambda given: len(given) % 2 == 0))
def test_any_conversation_keeps_the_prompt_whole(
    tokenizers: dict[str, Tokenizer], name: str, contents: list[str]
) -> None:
    messages = [(user, assistant)[at % 2](content) for at, content in enumerate(contents)]
    rendered = check(tokenizers[name], messages)
    text = tokenizers[name].backend.decode(rendered.ids, skip_special_tokens=False)
    given = [dict(message) for message in messages]
    assert text == oracle(tokenizers[name]).apply_chat_template(given, tokenize=False)
    assert len(shown(tokenizers[name], rendered)) == len(contents) // 2


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "no system"])
def test_the_prefix_is_the_same_for_all_rows_with_the_same_system_prompt(
    tokenizers: dict[str, Tokenizer], name: str
) -> None:
    tokenizer = tokenizers[name]
    begin = system("Today is Tuesday 2025-07-08.")
    prefixes: set[tuple[int, ...]] = set()
    for content in ["0", "x", "Find me flights", "\nodd", " odd", "ok ok", "é"]:
        rendered = check(tokenizer, [begin, user(content), assistant("ok")])
        prefixes.add(tuple(rendered.ids[: rendered.prefix]))
    (prefix,) = prefixes
    text = tokenizer.backend.decode(list(prefix), skip_special_tokens=False)
    assert "Today is Tuesday 2025-07-08." in text
    assert "Find" not in text


def test_the_prefix_ends_where_the_system_turn_ends(chatml: Tokenizer) -> None:
    rendered = check(chatml, [system("Be kind."), *ONE_TURN])
    text = chatml.backend.decode(rendered.ids[: rendered.prefix], skip_special_tokens=False)
    assert text == "<|im_start|>system\nBe kind.<|im_end|>\n"


def test_without_a_system_message_there_is_no_prefix(tokenizers: dict[str, Tokenizer]) -> None:
    assert check(tokenizers["chatml"], ONE_TURN).prefix == 0
    assert check(tokenizers["default system"], ONE_TURN).prefix == 0


def test_a_default_system_prompt_of_the_template_is_part_of_the_prompt(tokenizers: dict[str, Tokenizer]) -> None:
    ids = render_prompt(tokenizers["default system"], [user("hi")])
    assert "named SmolLM" in tokenizers["default system"].decode(ids)


MERGES = (
    "{% for m in messages %}{{ 'Q' + m.content + ' A' if m.role == 'user' else m.content + '<|im_end|>' }}{% endfor %}"
)


def test_prompts_that_encode_differently_at_the_end_of_a_text_stay_as_a_server_sees_them(
    make_folder: MakeFolder,
) -> None:
    tokenizer = load_tokenizer(make_folder(TRIMS, backend="gpt2"))
    rendered = check(tokenizer, WITH_SYSTEM)
    assert rendered.ids[: rendered.prompt] != expected_ids(tokenizer, WITH_SYSTEM, prompt=False)[: rendered.prompt]
    assert shown(tokenizer, rendered) == ["Where to?<|eot_id|>", "New York<|eot_id|>"]
    one = check(tokenizer, ONE_TURN)
    assert one.ids[: one.prompt] == expected_ids(tokenizer, ONE_TURN[:1], prompt=True)


def test_where_the_tokenizer_would_merge_across_the_border_the_prompt_stays_as_a_server_sees_it(
    make_folder: MakeFolder,
) -> None:
    tokenizer = load_tokenizer(make_folder(MERGES))
    messages = [user("The"), assistant("nswer"), user("The"), assistant("nswer")]
    assert tokenizer.encode(" Answer") != tokenizer.encode(" A") + tokenizer.encode("nswer")
    rendered = check(tokenizer, messages)
    assert rendered.ids != expected_ids(tokenizer, messages, prompt=False)
    assert tokenizer.decode(rendered.ids) == "QThe AnswerQThe Answer"
    assert shown(tokenizer, rendered) == ["nswer<|im_end|>"] * 2


def test_a_vocabulary_with_word_start_marks_adds_none_in_the_middle(make_folder: MakeFolder) -> None:
    template = (
        "{% for m in messages %}{{ '[' + m.role + ']' + m.content + ('<|im_end|>' if m.role == 'assistant' else '') }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
    )
    tokenizer = load_tokenizer(make_folder(template, backend="byte fallback"))
    rendered = check(tokenizer, [user("find"), assistant("fi")])
    assert rendered.ids == expected_ids(tokenizer, [user("find"), assistant("fi")], prompt=False)
    assert shown(tokenizer, rendered) == ["fi<|im_end|>"]


def test_a_template_that_rewrites_history_is_an_error_that_shows_the_place(make_folder: MakeFolder) -> None:
    forgets = (
        "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content if loop.last or m.role == 'user' else '...' }}"
        "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
    )
    tokenizer = load_tokenizer(make_folder(forgets))
    check(tokenizer, ONE_TURN)
    with pytest.raises(DataError, match=r"rewrites what it rendered before(.|\n)*Where to(.|\n)*\.\.\."):
        render_example(tokenizer, TWO_TURNS)


def test_a_generation_prompt_that_no_answer_begins_with_is_an_error(make_folder: MakeFolder) -> None:
    thinks = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>'")
    with pytest.raises(DataError, match=r"the prompt has .*<think>"):
        render_example(load_tokenizer(make_folder(thinks)), ONE_TURN)


def test_a_template_without_a_system_role_says_so(tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(DataError, match="System role not supported"):
        render_example(tokenizers["no system"], WITH_SYSTEM)


def test_a_template_that_leaves_the_system_prompt_out_is_an_error(make_folder: MakeFolder) -> None:
    deaf = CHATML.replace("{% for message in messages %}", "{% for message in messages if message.role != 'system' %}")
    with pytest.raises(DataError, match="leaves the system prompt out"):
        render_prompt(load_tokenizer(make_folder(deaf)), [system("Be kind."), user("hi")])


def test_an_answer_without_a_stop_token_is_an_error(make_folder: MakeFolder) -> None:
    endless = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    with pytest.raises(DataError, match=r"without a stop token \(<\|im_end\|>\)"):
        render_example(load_tokenizer(make_folder(endless)), ONE_TURN)


def test_a_stop_token_inside_an_answer_is_an_error(chatml: Tokenizer) -> None:
    with pytest.raises(DataError, match="contains a stop token"):
        render_example(chatml, [user("a"), assistant("b<|im_end|>c")])


def test_a_sequence_that_begins_twice_is_an_error(tokenizers: dict[str, Tokenizer], make_folder: MakeFolder) -> None:
    twice = load_tokenizer(make_folder(TRIMS.replace("bos_token + content", "bos_token + bos_token + content")))
    for render in (lambda: render_example(twice, ONE_TURN), lambda: render_prompt(twice, ONE_TURN[:1])):
        with pytest.raises(DataError, match=r"begins with <s> twice"):
            render()
    assert check(tokenizers["trims"], ONE_TURN).ids.count(tokenizers["trims"].bos_id or -1) == 1


@pytest.mark.parametrize("messages", [[], [user("a")], [system("a")]])
def test_there_is_nothing_to_learn_without_an_answer_at_the_end(chatml: Tokenizer, messages: list[Message]) -> None:
    with pytest.raises(DataError, match="must end with an answer"):
        render_example(chatml, messages)


def test_a_prompt_of_nothing_is_an_error(chatml: Tokenizer) -> None:
    with pytest.raises(DataError, match="at least one message"):
        render_prompt(chatml, [])


def test_the_clock_of_the_template_can_be_set_to_the_day_of_the_row(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["all functions"]
    rendered = render_example(tokenizer, ONE_TURN, day=datetime.date(1999, 1, 2))
    assert "user 1999" in tokenizer.decode(rendered.ids)
    assert render_prompt(tokenizer, ONE_TURN[:1], day=datetime.date(1999, 1, 2)) == rendered.ids[: rendered.prompt]


def test_templates_of_the_tests_differ() -> None:
    assert len({ALL_FUNCTIONS, CHATML, DEFAULT_SYSTEM, INSIDE, NO_SYSTEM, TRIMS}) == 6
