"""Each token gets its own adapter: logits and greedy answers are PEFT's, whatever stands beside it and wherever it lies."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from burnish.core.errors import BaseModelError
from burnish.model.banked_linear import BankedModel
from burnish.model.decoder import Decoder
from burnish.model.load import dequantised, load_base, quantise_nf4
from burnish.model.lora import read_adapter
from burnish.model.lora_bank import Layout, LoraBank, PackedAdapter, pack, padded_rank
from burnish.model.lora_parts import PADDING_LIMIT
from burnish.model.sampling import Sampling

KINDS: dict[str, tuple[int, float, Sequence[str] | str]] = {
    "small": (2, 8.0, "all-linear"),
    "eight": (8, 4.0, "all-linear"),
    "wide": (24, 24.0, "all-linear"),
    "two layers": (4, 16.0, ["q_proj", "v_proj"]),
    "gate": (4, 16.0, ["gate_proj"]),
}
TIE = 1e-4


def write_peft_adapter(model: PreTrainedModel, folder: Path, name: str, seed: int) -> Path:
    """Let PEFT write an adapter that matters."""
    rank, alpha, targets = KINDS[name]
    chosen = targets if isinstance(targets, str) else list(targets)
    peft = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=int(alpha), target_modules=chosen, task_type="CAUSAL_LM")
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for label, parameter in peft.named_parameters():
            if "lora_B" in label:
                parameter.normal_(0, 0.3 / rank**0.5, generator=generator)
    peft.save_pretrained(str(folder))
    peft.unload()
    return folder


@pytest.fixture(params=["llama", "qwen2", "qwen3", "gemma3"])
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folders(architecture: str, make_tiny: Callable[..., PreTrainedModel], tmp_path: Path) -> dict[str, Path]:
    model = make_tiny(architecture)
    return {name: write_peft_adapter(model, tmp_path / name, name, seed) for seed, name in enumerate(KINDS)}


def banked_with(model: PreTrainedModel, folders: dict[str, Path], way: Literal["masked"] | None = None) -> BankedModel:
    banked = BankedModel(model, way=way)
    for name, folder in folders.items():
        method, tensors = read_adapter(folder, banked.sizes)
        banked.bank.load(name, pack(banked.layout, method, tensors, banked.bank.dtype))
    return banked


def peft_logits(model: PreTrainedModel, folder: Path | None, ids_BT: Tensor) -> Tensor:
    with torch.no_grad():
        if folder is None:
            return model(ids_BT).logits
        peft = PeftModel.from_pretrained(model, folder)
        logits = peft(ids_BT).logits
        peft.unload()
        return logits


@pytest.mark.parametrize(
    "tokens",
    [
        {"small": 1, "eight": 1, "two layers": 1, "wide": 1},  # one each: one batched product for each padded rank
        {"small": 3, "eight": 3, "two layers": 3},  # as many of each
        {"small": 1, "eight": 5, "two layers": 2, "gate": 2, "wide": 4},  # uneven: padded, and products of their own
        {"eight": 9, "small": 1, "gate": 1},
        {"wide": 6},
    ],
)
def test_tokens_of_many_adapters_in_one_step_get_pefts_logits(
    architecture: str,
    make_tiny: Callable[..., PreTrainedModel],
    folders: dict[str, Path],
    tokens: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_tiny(architecture)
    names = [None, None, *(name for name, count in tokens.items() for _ in range(count))]
    random.Random(0).shuffle(names)
    ids_N1 = torch.randint(0, 131, (len(names), 1), generator=torch.Generator().manual_seed(0))
    found: dict[str, Tensor] = {}
    for way, limit in (("batched", PADDING_LIMIT), ("padded", float("inf")), ("masked", PADDING_LIMIT)):
        monkeypatch.setattr("burnish.model.lora_parts.PADDING_LIMIT", limit)
        banked = banked_with(model, folders, "masked" if way == "masked" else None)  # masked: what a GPU does
        order = banked.order(names)
        with torch.no_grad(), banked.step([names[place] for place in order], []):
            found[way] = torch.empty(len(names), 1, 131)
            found[way][order] = model(ids_N1[order]).logits
        banked.take_off()
    for row, name in enumerate(names):
        expected = peft_logits(model, folders.get(name or ""), ids_N1[row : row + 1])
        for way, ours in found.items():
            torch.testing.assert_close(ours[row : row + 1], expected, rtol=1e-4, atol=1e-4, msg=f"{way} {name}")
    base = peft_logits(model, None, ids_N1)
    assert not torch.allclose(found["masked"], base, atol=1e-2), "the adapters change nothing: the test shows nothing"


def test_one_adapter_answers_whatever_is_computed(
    architecture: str, make_tiny: Callable[..., PreTrainedModel], folders: dict[str, Path]
) -> None:
    model = make_tiny(architecture)
    ids_BT = torch.randint(0, 131, (2, 11), generator=torch.Generator().manual_seed(2))
    expected = {name: peft_logits(model, folders.get(name or ""), ids_BT) for name in (None, *folders, None)}
    banked = banked_with(model, folders)
    for name, logits in expected.items():
        with torch.no_grad(), banked.answering(name):
            torch.testing.assert_close(model(ids_BT).logits, logits, rtol=1e-4, atol=1e-4)
    assert not banked.parts, "the last adapter goes on answering"
    banked.take_off()


def test_pieces_of_prompts_get_pefts_logits(
    architecture: str, make_tiny: Callable[..., PreTrainedModel], folders: dict[str, Path]
) -> None:
    model = make_tiny(architecture)
    banked = banked_with(model, folders)
    names = [None, *folders]
    ids_BT = torch.randint(0, 131, (len(names), 11), generator=torch.Generator().manual_seed(1))
    pieces = [(name, slice(11 * row, 11 * row + 11)) for row, name in enumerate(names)]
    with torch.no_grad(), banked.step([], pieces):
        ours = model(ids_BT).logits
    banked.take_off()
    for row, name in enumerate(names):
        expected = peft_logits(model, folders.get(name or ""), ids_BT[row : row + 1])
        torch.testing.assert_close(ours[row : row + 1], expected, rtol=1e-4, atol=1e-4)


def greedy_by_peft(model: PreTrainedModel, folder: Path | None, prompt: list[int], new_tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    tuned = model if folder is None else PeftModel.from_pretrained(model, folder)
    whole = tuned.generate(  # pyright: ignore[reportCallIssue]
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    if folder is not None:
        tuned.unload()  # pyright: ignore[reportCallIssue]
    return whole[0, len(prompt) :].tolist()


@pytest.mark.parametrize(("way", "static"), [(None, False), ("masked", False), ("masked", True)])
def test_greedy_answers_in_a_mixed_batch_are_pefts_and_prefixes_are_kept_apart_by_adapter(
    architecture: str,
    make_tiny: Callable[..., PreTrainedModel],
    folders: dict[str, Path],
    way: Literal["masked"] | None,
    static: bool,
) -> None:
    """The prompts of all adapters share their first 40 tokens, whose keys and values differ from adapter to adapter."""
    model = make_tiny(architecture)
    draw = torch.Generator().manual_seed(2)
    start = torch.randint(0, 131, (40,), generator=draw).tolist()
    prompts = [start + torch.randint(0, 131, (1 + 3 * i,), generator=draw).tolist() for i in range(3)]
    asked = [(name, prompt) for prompt in prompts for name in (None, *folders)]
    banked = banked_with(model, folders, way)
    decoder = Decoder(model, rows=10, piece_tokens=64, banked=banked, static=static)
    answers: dict[int, list[int]] = {}
    for name, prompt in asked:
        answers[decoder.add(prompt, Sampling(max_new_tokens=8), share=40, adapter=name)] = []
    while decoder.running or decoder.waiting:
        for sequence, token, *_ in decoder.step():
            assert token is not None
            answers[sequence].append(token)
    banked.take_off()
    assert len({tuple(answer) for answer in answers.values()}) > len(folders)
    for (name, prompt), got in zip(asked, answers.values(), strict=True):
        want = greedy_by_peft(model, folders.get(name or ""), prompt, 8)
        if got != want:
            at = next(i for i, (a, b) in enumerate(zip(got, want, strict=True)) if a != b)
            logits = peft_logits(model, folders.get(name or ""), torch.tensor([[*prompt, *want[:at]]]))[0, -1]
            assert abs(float(logits[got[at]] - logits[want[at]])) < TIE, (name, at)


def test_an_nf4_base_gives_the_logits_of_the_values_it_stands_for(
    make_tiny: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    folder = write_peft_adapter(make_tiny(), tmp_path / "a", "eight", 3)
    model = make_tiny()
    quantise_nf4(model, double_quantisation=True, device="cpu", dtype=torch.float32)
    ids_BT = torch.randint(0, 131, (2, 9), generator=torch.Generator().manual_seed(1))
    banked = banked_with(model, {"a": folder})
    with torch.no_grad(), banked.step([], [(None, slice(0, 9)), ("a", slice(9, 18))]):
        ours = model(ids_BT).logits
    banked.take_off()
    model = dequantised(model)
    torch.testing.assert_close(ours[:1], peft_logits(model, None, ids_BT[:1]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[1:], peft_logits(model, folder, ids_BT[1:]), rtol=1e-4, atol=1e-4)


def test_a_bf16_base_is_as_close_to_float32_as_peft_is(
    tmp_path: Path, make_tiny: Callable[..., PreTrainedModel]
) -> None:
    """Rounding differs (PEFT keeps the adapter in float32), the size of the error does not."""
    make_tiny().save_pretrained(tmp_path / "base")
    exact, model = load_base(tmp_path / "base"), load_base(tmp_path / "base", dtype=torch.bfloat16)
    folder = write_peft_adapter(exact, tmp_path / "a", "eight", 3)
    ids_BT = torch.randint(0, 131, (1, 30), generator=torch.Generator().manual_seed(1))
    want = peft_logits(exact, folder, ids_BT)
    banked = banked_with(model, {"a": folder})
    with torch.no_grad(), banked.step([], [("a", slice(0, 30))]):
        ours = model(ids_BT).logits
    assert banked.bank.bytes == banked.layout.unit * 8 * 2
    banked.take_off()
    theirs = peft_logits(model, folder, ids_BT)
    assert (ours - want).abs().mean() < 1.2 * (theirs - want).abs().mean()


def test_ranks_are_padded_to_powers_of_two_from_eight() -> None:
    assert [padded_rank(rank) for rank in (1, 8, 9, 16, 17, 64, 65)] == [8, 8, 16, 16, 32, 64, 128]


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("load"), st.integers(0, 9)),
        st.tuples(st.just("unload"), st.integers(0, 9)),
        st.tuples(st.just("forward"), st.sets(st.integers(0, 9), max_size=5)),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACTIONS)
def test_whatever_is_loaded_unloaded_and_moved_each_adapter_keeps_its_numbers(
    actions: list[tuple[str, object]],
) -> None:
    layout = Layout.of([["a"]], {"a": (2, 1)})
    bank = LoraBank(layout, torch.float32, torch.device("cpu"))
    rows = {
        key: PackedAdapter(8 if key % 2 else 16, torch.full((24 if key % 2 else 48,), float(key))) for key in range(10)
    }
    loaded: set[int] = set()
    for action, what in actions:
        if action == "load" and what not in loaded:
            bank.load(what, rows[what])  # pyright: ignore[reportArgumentType]
            loaded.add(what)  # pyright: ignore[reportArgumentType]
        elif action == "unload" and what in loaded:
            bank.unload(what)  # pyright: ignore[reportArgumentType]
            loaded.remove(what)  # pyright: ignore[reportArgumentType]
        elif action == "forward":
            wanted = loaded & what  # pyright: ignore[reportOperatorIssue]
            bank.bring_forward(wanted)
            for rank in (8, 16):
                slots = sorted(bank.place(key)[1] for key in wanted if rows[key].rank == rank)
                assert slots == list(range(len(slots)))
        assert set(bank) == loaded
        for key in loaded:
            assert torch.equal(bank.packed(key).row, rows[key].row)
        assert bank.bytes <= 2 * sum(rows[key].bytes for key in loaded)
    for key in loaded:
        bank.unload(key)
    assert bank.bytes == 0


def test_a_key_is_loaded_once() -> None:
    bank = LoraBank(Layout.of([["a"]], {"a": (2, 1)}), torch.float32, torch.device("cpu"))
    bank.load("x", PackedAdapter(8, torch.zeros(24)))
    with pytest.raises(BaseModelError, match="loaded as 'x' already"):
        bank.load("x", PackedAdapter(8, torch.zeros(24)))
