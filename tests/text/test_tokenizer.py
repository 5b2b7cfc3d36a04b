"""A tokenizer is read from a base model's folder, says when to stop, and streams text without broken characters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_templates import CHATML, INSIDE, NO_SYSTEM, TEMPLATES, TRIMS, MakeFolder
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.errors import BaseModelError
from burnish.text.tokenizer import Detokenizer, Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def chatml(make_folder: MakeFolder) -> Tokenizer:
    return load_tokenizer(make_folder(CHATML))


@pytest.fixture(scope="module")
def fallback(make_folder: MakeFolder) -> Tokenizer:
    return load_tokenizer(make_folder(INSIDE, backend="byte fallback"))


def ids(tokenizer: Tokenizer, *tokens: str) -> set[int]:
    found = {tokenizer.backend.token_to_id(token) for token in tokens}
    assert None not in found
    return {number for number in found if number is not None}


def test_special_tokens_in_a_text_are_parsed_and_none_are_added(chatml: Tokenizer) -> None:
    encoded = chatml.encode("<|im_start|>user")
    assert encoded[0] in ids(chatml, "<|im_start|>")
    assert set(chatml.encode("Find me")).isdisjoint(chatml.special_ids)
    assert chatml.decode(encoded) == "user"


def test_what_the_folder_says_is_read(chatml: Tokenizer) -> None:
    assert chatml.context_length == 2048
    assert chatml.template == CHATML
    assert chatml.vocab_size == len(chatml.backend.get_vocab())
    assert {chatml.bos_id} == ids(chatml, "<s>")


def test_answers_stop_at_the_end_of_sequence_and_at_the_end_of_a_turn(make_folder: MakeFolder) -> None:
    folder = make_folder(CHATML, eos_token="<|endoftext|>")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.stop_ids == ids(tokenizer, "<|endoftext|>", "<|im_end|>")


def test_the_generation_config_may_name_more_stop_tokens(make_folder: MakeFolder) -> None:
    folder = make_folder(TRIMS)
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 2]}', encoding="utf-8")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.stop_ids == ids(tokenizer, "<|eot_id|>") | {0, 2}


@pytest.mark.parametrize("template", [NO_SYSTEM, INSIDE])
def test_the_end_of_a_turn_is_found_whatever_the_template_demands(make_folder: MakeFolder, template: str) -> None:
    tokenizer = load_tokenizer(make_folder(template))
    assert tokenizer.stop_ids == ids(tokenizer, "<|im_end|>")


def test_tokens_that_mark_turns_are_known(chatml: Tokenizer) -> None:
    assert chatml.control_tokens == {"<|im_start|>", "<|im_end|>"}
    assert chatml.control_token_in("I say <|im_end|> here") == "<|im_end|>"
    assert chatml.control_token_in("about <|endoftext|> and <b>") is None


def test_a_template_may_lie_in_the_tokenizer_config(make_folder: MakeFolder) -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHATML}]
    assert load_tokenizer(make_folder(None, chat_template=named)).template == CHATML
    assert load_tokenizer(make_folder(None, chat_template=CHATML)).template == CHATML


def test_the_template_file_wins_over_the_tokenizer_config(make_folder: MakeFolder) -> None:
    assert load_tokenizer(make_folder(CHATML, chat_template="other")).template == CHATML


def test_special_tokens_may_be_objects_or_lie_in_the_older_file(make_folder: MakeFolder) -> None:
    folder = make_folder(CHATML, eos_token={"content": "<|im_end|>", "special": True})
    assert load_tokenizer(folder).stop_ids == load_tokenizer(make_folder(CHATML)).stop_ids
    config = {
        key: value
        for key, value in json.loads((folder / "tokenizer_config.json").read_text()).items()
        if key != "bos_token"
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(folder).bos_id is None
    (folder / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')
    assert load_tokenizer(folder).bos_id is not None


def test_truncation_and_padding_saved_in_the_file_are_switched_off(make_folder: MakeFolder) -> None:
    folder = make_folder(CHATML)
    tokenizer = load_tokenizer(folder)
    tokenizer.backend.enable_truncation(4)
    tokenizer.backend.enable_padding(length=9)
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    again = load_tokenizer(folder)
    assert len(again.encode("flights " * 50)) > 40
    assert len(again.encode("a")) == 1


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer.json", None, "cannot read .*tokenizer.json"),
        ("tokenizer.json", "{}", "not a tokenizer file"),
        ("tokenizer_config.json", "[1]", "must hold a JSON object"),
        ("tokenizer_config.json", "{", "is not JSON"),
        ("tokenizer_config.json", '{"eos_token": "<|gone|>"}', "eos_token is '<|gone|>'"),
        ("config.json", "{}", "no max_position_embeddings"),
        ("config.json", None, "cannot read .*config.json"),
        ("chat_template.jinja", None, "has no chat template"),
    ],
)
def test_a_damaged_folder_is_an_error_that_names_the_file(
    make_folder: MakeFolder, file: str, content: str | None, said: str
) -> None:
    folder = make_folder(CHATML)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(BaseModelError, match=said.replace("|", r"\|")):
        load_tokenizer(folder)


def test_the_context_length_may_be_that_of_the_text_part(make_folder: MakeFolder) -> None:
    folder = make_folder(CHATML)
    (folder / "config.json").write_text('{"text_config": {"max_position_embeddings": 77}}')
    assert load_tokenizer(folder).context_length == 77


def test_the_fingerprint_follows_vocabulary_template_special_tokens_and_system(make_folder: MakeFolder) -> None:
    def prints(folder: Path, system: str | None = None) -> str:
        return load_tokenizer(folder).fingerprint(system).model_dump_json()

    same = [prints(make_folder(CHATML)) for _ in range(2)]
    assert same[0] == same[1]
    others = [
        prints(make_folder(NO_SYSTEM)),
        prints(make_folder(CHATML, backend="byte fallback")),
        prints(make_folder(CHATML, bos_token="<|im_start|>")),
        prints(make_folder(CHATML), "You are"),
        prints(make_folder(CHATML), "On {date}"),
    ]
    assert len({same[0], *others}) == 6


def test_the_fingerprint_pins_how_the_calendar_is_written(chatml: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, dated = chatml.fingerprint("You are"), chatml.fingerprint("{calendar}")
    monkeypatch.setattr("burnish.text.system.CALENDAR_DAYS", (0, 1, 2))
    assert chatml.fingerprint("You are") == plain
    assert chatml.fingerprint("{calendar}") != dated


def stream(tokenizer: Tokenizer, numbers: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.add(number) for number in numbers]
    assert not any("\ufffd" in piece[-1:] for piece in pieces if len(numbers) < 64)
    return [*pieces, detokenizer.finish()]


def test_a_character_of_several_tokens_comes_when_it_is_complete(chatml: Tokenizer) -> None:
    numbers = chatml.encode("a🛬b")
    pieces = stream(chatml, numbers)
    assert "".join(pieces) == "a🛬b"
    assert len(numbers) > 3
    assert pieces[0] == "a"
    assert "🛬" in pieces or "🛬b" in pieces


@given(numbers=st.lists(st.integers(0, 400), max_size=60))
def test_pieces_together_are_the_decoded_text_for_any_ids(chatml: Tokenizer, numbers: list[int]) -> None:
    assert "".join(stream(chatml, numbers)) == chatml.decode(numbers)


@given(text=st.text(max_size=40))
def test_pieces_together_are_the_text_with_word_start_marks_and_byte_tokens(fallback: Tokenizer, text: str) -> None:
    numbers = fallback.encode(text.replace("▁", ""))
    assert "".join(stream(fallback, numbers)) == fallback.decode(numbers)


def test_an_unfinished_character_shows_as_one_replacement_at_the_end(chatml: Tokenizer) -> None:
    numbers = chatml.encode("a🛬")[:-1]
    assert stream(chatml, numbers)[-1] == "\ufffd"


def test_an_endless_run_of_broken_bytes_still_comes_out(chatml: Tokenizer) -> None:
    broken = chatml.encode("🛬")[0]
    pieces = stream(chatml, [broken] * 500)
    assert "".join(pieces).count("\ufffd") == 500
    assert sum(map(bool, pieces)) > 2


def test_special_tokens_are_not_shown(chatml: Tokenizer) -> None:
    assert "".join(stream(chatml, chatml.encode("ok<|im_end|>"))) == "ok"


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_every_template_of_the_tests_loads(make_folder: MakeFolder, name: str) -> None:
    assert load_tokenizer(make_folder(TEMPLATES[name])).stop_ids
