"""Batched decoding gives the tokens that transformers' own generate gives, whatever runs beside a sequence."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from burnish.core.errors import BaseModelError, ServeError
from burnish.model.decoder import Decoder
from burnish.model.generate import generate
from burnish.model.kv_cache import Rows
from burnish.model.sampling import Sampling
from burnish.model.sequences import Finish
from burnish.model.shared_starts import shared_starts

VOCABULARY = 300
STOP = 7
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
TIE = 1e-4


def random_model(kind: type[PreTrainedModel], config: object) -> PreTrainedModel:
    """A model whose weights are large enough that its answers are not one token over and over."""
    torch.manual_seed(0)
    model = kind(config).eval()  # pyright: ignore[reportCallIssue]
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return random_model(LlamaForCausalLM, LlamaConfig(**SIZES))


@pytest.fixture(scope="module", params=["llama", "qwen2", "mistral with a window of 12", "gemma2 with caps"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    if request.param == "llama":
        return request.getfixturevalue("llama")
    if request.param == "qwen2":
        return random_model(Qwen2ForCausalLM, Qwen2Config(**SIZES))
    if request.param == "gemma2 with caps":
        capped = Gemma2Config(
            **SIZES, head_dim=16, sliding_window=12, query_pre_attn_scalar=16, attn_logit_softcapping=3.0,
            final_logit_softcapping=5.0, attn_implementation="eager",
        )  # fmt: skip
        return random_model(Gemma2ForCausalLM, capped)
    return random_model(MistralForCausalLM, MistralConfig(**SIZES, sliding_window=12))


def some_prompts(count: int, *, prefixes: int = 3, prefix_tokens: int = 40, seed: int = 1) -> list[list[int]]:
    """Prompts of 1 to 30 own tokens; three of four begin with one of the prefixes."""
    draw = random.Random(seed)
    starts = [[draw.randrange(VOCABULARY) for _ in range(prefix_tokens)] for _ in range(prefixes)]
    starts += [[]]
    return [starts[i % 4] + [draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 30))] for i in range(count)]


def expected(
    model: PreTrainedModel, prompt: Sequence[int], new_tokens: int, stop_ids: frozenset[int] = frozenset()
) -> list[int]:
    """What transformers' generate answers, one prompt at a time, without the stop token."""
    ids = torch.tensor([prompt], device=model.device)
    whole = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=sorted(stop_ids) or None,
    )
    answer = whole[0, len(prompt) :].tolist()
    return answer[:-1] if answer[-1] in stop_ids else answer


def assert_same(model: PreTrainedModel, prompt: Sequence[int], got: list[int], want: list[int]) -> None:
    """Equal tokens; at the first difference both must have been as likely as each other."""
    if got == want:
        return
    at = next((i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), None)
    assert at is not None, f"{len(got)} tokens, expected {len(want)}"
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *want[:at]]], device=model.device)).logits[0, -1]
    assert abs(float(logits[got[at]] - logits[want[at]])) < TIE, f"token {at}: {got[at]}, expected {want[at]}"


@pytest.mark.parametrize("batch", [1, 5, 32])
def test_answers_are_those_of_transformers_with_mixed_lengths_and_shared_prefixes(
    model: PreTrainedModel, batch: int
) -> None:
    prompts = some_prompts(14)
    answers = generate(model, prompts, max_new_tokens=12, stop_ids=frozenset(), batch=batch)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert_same(model, prompt, answer, expected(model, prompt, 12))
    assert len({tuple(answer) for answer in answers}) > 10, "the model answers everything alike: the test shows nothing"


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 5, 32])
def test_answers_on_a_gpu_are_those_of_transformers_there(model: PreTrainedModel, batch: int) -> None:
    prompts = some_prompts(14)
    model.to("cuda")
    try:
        answers = generate(model, prompts, max_new_tokens=12, stop_ids=frozenset(), batch=batch)
        for prompt, answer in zip(prompts, answers, strict=True):
            assert_same(model, prompt, answer, expected(model, prompt, 12))
    finally:
        model.to("cpu")


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(llama: PreTrainedModel) -> None:
    prompts = some_prompts(12)
    free = [expected(llama, prompt, 12) for prompt in prompts]
    stops = frozenset({free[0][3], free[1][0], free[2][11]})
    answers = generate(llama, prompts, max_new_tokens=12, stop_ids=stops, batch=4)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert_same(llama, prompt, answer, expected(llama, prompt, 12, stops))
    assert len(answers[0]) <= 3
    assert answers[1] == []


def test_answers_that_are_begun_end_as_those_that_are_not(llama: PreTrainedModel) -> None:
    prompts = some_prompts(12)
    free = [expected(llama, prompt, 12) for prompt in prompts]
    stops = frozenset({free[0][3], free[2][5]})
    want = generate(llama, prompts, max_new_tokens=10, stop_ids=stops, batch=4)
    assert 0 < len(want[0]) < 10, "no answer ends by a stop token: the test shows nothing"
    begun = [free[place][: (place * 5) % 13] for place in range(12)]  # some to their end and beyond, some not at all
    seen: list[int] = []
    got = generate(
        llama,
        prompts,
        begun=begun,
        max_new_tokens=10,
        stop_ids=stops,
        batch=4,
        progress=lambda done, _: seen.append(done),
    )
    for prompt, answer, other in zip(prompts, got, want, strict=True):
        assert_same(llama, prompt, answer, other)
    assert seen == sorted(seen)
    assert seen[0] >= sum(len(each) >= 10 for each in begun)
    assert seen[-1] == 12
    assert generate(llama, prompts[:1], begun=[[*want[0], *stops]], max_new_tokens=10, stop_ids=stops) == want[:1]


def test_an_answer_goes_on_from_how_it_is_begun(llama: PreTrainedModel) -> None:
    (prompt,) = some_prompts(1)
    begun = [17, 18]
    (answer,) = generate(llama, [prompt], begun=[begun], max_new_tokens=6, stop_ids=frozenset())
    assert answer == [*begun, *expected(llama, [*prompt, *begun], 4)]


@pytest.mark.parametrize("piece_tokens", [1, 7, 19, 40, 64])
def test_reading_prompts_in_pieces_changes_nothing(llama: PreTrainedModel, piece_tokens: int) -> None:
    prompts = some_prompts(9)
    assert run(Decoder(llama, rows=4, piece_tokens=piece_tokens), prompts, 6, share=40) == run(
        Decoder(llama, rows=4), prompts, 6
    )


def test_a_prompt_that_is_its_prefix_and_one_token_waits_for_its_prefix(llama: PreTrainedModel) -> None:
    prompts = [prompt[:41] for prompt in some_prompts(8)]
    assert run(Decoder(llama, rows=3, piece_tokens=16), prompts, 6, share=40) == run(Decoder(llama, rows=3), prompts, 6)


def run(decoder: Decoder, prompts: Sequence[Sequence[int]], new_tokens: int, *, share: int = 0) -> list[list[int]]:
    """Answer all prompts with one decoder."""
    answers: dict[int, list[int]] = {
        decoder.add(prompt, Sampling(max_new_tokens=new_tokens), share=share): [] for prompt in prompts
    }
    while decoder.running or decoder.waiting:
        for sequence, token, *_ in decoder.step():
            assert token is not None
            answers[sequence].append(token)
    return list(answers.values())


def test_a_shared_prefix_is_computed_once(llama: PreTrainedModel) -> None:
    seen: list[int] = []
    handle = llama.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].numel())
    )
    prompts = [prompt for i, prompt in enumerate(some_prompts(40)) if i % 4 == 0]
    try:
        generate(llama, prompts, max_new_tokens=1, stop_ids=frozenset(), batch=8)
        assert sum(seen) == 40 + sum(len(prompt) - 40 for prompt in prompts)
        seen.clear()
        decoder = Decoder(llama, rows=8)
        run(decoder, prompts[:1], 1, share=40)
        assert sum(seen) == len(prompts[0])
        seen.clear()
        run(decoder, prompts[1:], 1)
        assert sum(seen) == sum(len(prompt) - 40 for prompt in prompts[1:]), "the prefix at hand was not used"
    finally:
        handle.remove()


def test_unused_prefixes_are_dropped_when_they_do_not_fit(llama: PreTrainedModel) -> None:
    decoder = Decoder(llama, rows=2, kept_tokens=50)
    prompts = some_prompts(6)
    first = run(decoder, prompts, 3, share=40)
    assert sum(len(prefix) for prefix in decoder._prefixes.prefixes) <= 50
    assert run(decoder, prompts, 3, share=40) == first


def test_a_removed_sequence_frees_its_row_and_disturbs_nobody(llama: PreTrainedModel) -> None:
    prompts = some_prompts(6)
    alone = [expected(llama, prompt, 10) for prompt in prompts]
    decoder = Decoder(llama, rows=4)
    numbers = [decoder.add(prompt, Sampling(max_new_tokens=10)) for prompt in prompts]
    got: dict[int, list[int]] = {number: [] for number in numbers}
    removed = {numbers[1], numbers[5]}
    for step in range(40):
        for sequence, token, *_ in decoder.step():
            assert token is not None
            got[sequence].append(token)
        if step == 2:
            for number in removed:
                decoder.remove(number)
            assert decoder.running == 3
            assert decoder.waiting == 1
    assert decoder.running == decoder.waiting == 0
    for number, prompt, want in zip(numbers, prompts, alone, strict=True):
        if number in removed:
            assert len(got[number]) <= 3
        else:
            assert_same(llama, prompt, got[number], want)


def test_a_short_prompt_is_not_kept_waiting_by_long_ones_before_it(llama: PreTrainedModel) -> None:
    decoder = Decoder(llama, rows=8, piece_tokens=32)
    running = decoder.add([3], Sampling(max_new_tokens=100))
    decoder.step()
    long = [decoder.add([1 + i] * 300, Sampling(max_new_tokens=1)) for i in range(2)]
    decoder.step()
    short = decoder.add([9] * 16, Sampling(max_new_tokens=1))
    assert {item.sequence for item in decoder.step()} == {running, short}
    steps: dict[int, int] = {}
    for step in range(3, 80):
        emitted = {item.sequence for item in decoder.step()}
        assert running in emitted, "an answer that runs gets a token in every step"
        steps |= dict.fromkeys(emitted, step)
        decoder.add([20 + step] * 16, Sampling(max_new_tokens=1))  # without end
    assert [steps[number] for number in long] <= [2 * -(-300 // 32), 2 * -(-600 // 32)]


@pytest.mark.parametrize("static", [False, True])
def test_prompts_that_overtake_each_other_change_no_answer(
    llama: PreTrainedModel, static: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped: list[tuple[int, int]] = []

    def swap(rows: Rows, one: int, other: int, tokens: int) -> None:
        swapped.append((one, other))
        exchange(rows, one, other, tokens)

    exchange = Rows.swap
    monkeypatch.setattr(Rows, "swap", swap)
    draw = random.Random(5)
    start = [draw.randrange(VOCABULARY) for _ in range(40)]
    prompts = [
        (start if i % 3 == 0 else []) + [draw.randrange(VOCABULARY) for _ in range(draw.choice([3, 9, 30, 150, 300]))]
        for i in range(24)
    ]
    prompts[0] = [draw.randrange(VOCABULARY) for _ in range(300)]  # alone at first, in the first row
    decoder = Decoder(llama, rows=5, piece_tokens=24, static=static)
    answers: dict[int, list[int]] = {}
    waiting = list(enumerate(prompts))
    while waiting or decoder.running or decoder.waiting:
        for place, prompt in waiting[:1]:
            share = 40 if place % 3 == 0 else 0
            answers[decoder.add(prompt, Sampling(max_new_tokens=3 + place % 5), share=share)] = []
        del waiting[:1]
        for sequence, token, *_ in decoder.step():
            assert token is not None
            answers[sequence].append(token)
    for place, (prompt, answer) in enumerate(zip(prompts, answers.values(), strict=True)):
        assert_same(llama, prompt, answer, expected(llama, prompt, 3 + place % 5))
    assert swapped, "no prompt overtook one that lay where it had to go: the test shows nothing"


@pytest.mark.parametrize("static", [False, True])
def test_the_cache_never_has_more_rows_or_tokens_than_can_ever_be_used(llama: PreTrainedModel, static: bool) -> None:
    decoder = Decoder(llama, rows=5, piece_tokens=1000, static=static)
    draw = random.Random(3)
    for new_tokens in (500, 300, 200, 400, 5, 6, 7):  # four rows become five, and 460 tokens 512
        decoder.add([draw.randrange(VOCABULARY) for _ in range(12)], Sampling(max_new_tokens=new_tokens))
        for _ in range(3):
            decoder.step()
    most = (0, 0)
    while decoder.running or decoder.waiting:
        decoder.step()
        for layer in decoder._cache.layers.values():
            rows, _, tokens, _ = layer.keys.shape
            most = max(most, (rows, tokens))
            assert rows <= 5
            assert tokens <= 512
    assert most == (5, 512)


def test_prompts_that_share_a_start_which_is_still_being_read_read_it_together(llama: PreTrainedModel) -> None:
    seen: list[int] = []
    handle = llama.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].numel())
    )
    start = [(7 * i) % VOCABULARY for i in range(120)]
    prompts = [[*start, *[i] * (40 - 10 * i)] for i in range(3)]
    try:
        got = run(Decoder(llama, rows=4, piece_tokens=32), prompts, 4, share=120)
    finally:
        handle.remove()
    assert sum(seen) == 120 + sum(len(prompt) - 120 for prompt in prompts) + 3 * 3
    for prompt, answer in zip(prompts, got, strict=True):
        assert_same(llama, prompt, answer, expected(llama, prompt, 4))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_joins_and_leaves_each_sequence_ends_once_with_its_own_answer(
    llama: PreTrainedModel, data: st.DataObject
) -> None:
    prompts = some_prompts(8, seed=3)
    lengths = [data.draw(st.integers(1, 9)) for _ in prompts]
    alone = [run(Decoder(llama, rows=1), [prompt], length)[0] for prompt, length in zip(prompts, lengths, strict=True)]
    rows = data.draw(st.integers(1, 5))
    decoder = Decoder(llama, rows=rows, piece_tokens=data.draw(st.sampled_from([3, 25, 500])), kept_tokens=64)
    left, number_of, got, finishes, removed = list(range(len(prompts))), {}, {}, {}, set()
    while left or decoder.running or decoder.waiting:
        action = data.draw(st.sampled_from(["add", "step", "step", "remove"]))
        if action == "add" and left:
            place = left.pop(0)
            number = decoder.add(
                prompts[place], Sampling(max_new_tokens=lengths[place]), share=data.draw(st.sampled_from([0, 20, 40]))
            )
            number_of[number], got[number], finishes[number] = place, [], 0
        elif action == "remove" and number_of:
            number = data.draw(st.sampled_from(sorted(number_of)))
            if not finishes[number]:
                removed.add(number)
            decoder.remove(number)
        for sequence, token, finish, *_ in decoder.step():
            assert sequence not in removed
            assert not finishes[sequence]
            got[sequence].append(token)
            finishes[sequence] += finish is not None
        assert decoder.running <= rows
    for number, place in number_of.items():
        assert finishes[number] == (number not in removed)
        want = alone[place]
        assert_same(llama, prompts[place], got[number], want if finishes[number] else want[: len(got[number])])


def test_what_does_not_fit_the_context_is_refused_with_the_numbers(llama: PreTrainedModel) -> None:
    decoder = Decoder(llama, rows=1)
    with pytest.raises(ServeError, match=r"500 tokens and 13 new ones .* 513; .* holds 512"):
        decoder.add([1] * 500, Sampling(max_new_tokens=13))
    with pytest.raises(ServeError, match="must be 1 or more"):
        decoder.add([], Sampling(max_new_tokens=1))
    assert len(run(decoder, [[1] * 500], 12)[0]) == 12


def test_a_model_in_training_mode_is_refused(llama: PreTrainedModel) -> None:
    llama.train()
    try:
        with pytest.raises(BaseModelError, match="training mode"):
            Decoder(llama, rows=1)
    finally:
        llama.eval()


def test_the_models_attention_is_as_before_after_a_step(llama: PreTrainedModel) -> None:
    before = llama.config._attn_implementation
    generate(llama, [[1, 2, 3]], max_new_tokens=2, stop_ids=frozenset())
    assert llama.config._attn_implementation == before == "sdpa"


def test_progress_counts_every_sequence(llama: PreTrainedModel) -> None:
    seen: list[tuple[int, int]] = []
    generate(
        llama,
        some_prompts(7),
        max_new_tokens=2,
        stop_ids=frozenset(),
        batch=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (7, 7)
    assert seen == sorted(seen)


def test_the_length_limit_and_the_stop_token_are_told_apart(llama: PreTrainedModel) -> None:
    prompt = some_prompts(1)[0]
    free = expected(llama, prompt, 3)
    decoder = Decoder(llama, rows=2)
    stopped = decoder.add(prompt, Sampling(max_new_tokens=3, stop_ids=frozenset({free[0]})))
    full = decoder.add(prompt, Sampling(max_new_tokens=3))
    ends = {}
    while decoder.running or decoder.waiting:
        ends |= {sequence: (token, finish) for sequence, token, finish, *_ in decoder.step() if finish is not None}
    assert ends == {stopped: (None, Finish.STOP), full: (free[2], Finish.LENGTH)}


# ------------------------------------------------------------------------------------------------------- shared starts


def test_shared_starts_by_hand() -> None:
    a, b = list(range(100, 120)), list(range(200, 240))
    prompts = [[*a, 1], [*b, 1, 2], [*a, 2], [5, 6, 7], [*b, 1, 3], [*a, 3, 4], [*b, 9]]
    order, shares = shared_starts(prompts)
    assert shares == [20, 40, 20, 0, 40, 20, 40]  # splitting b after "1" would save 41 + 0, all three together save 80
    groups = [shares[i] for i in order]
    assert groups == sorted(groups), "prompts with a common start follow each other"


def test_a_group_is_split_where_that_saves_more() -> None:
    start = list(range(20))
    left, right = [*start, *range(50, 90)], [*start, *range(150, 190)]
    _, shares = shared_starts([[*left, 1], [*right, 1], [*left, 2], [*right, 2]])
    assert shares == [60, 60, 60, 60]  # 60 + 60 saved, against 3 x 20 with one group


def test_short_or_single_starts_are_not_shared() -> None:
    assert shared_starts([[1, 2, 3, 4], [1, 2, 3, 5]])[1] == [0, 0]
    assert shared_starts([[1] * 50])[1] == [0]
    assert shared_starts([]) == ([], [])


def test_equal_prompts_keep_a_token_of_their_own() -> None:
    assert shared_starts([[1] * 50, [1] * 50])[1] == [49, 49]
