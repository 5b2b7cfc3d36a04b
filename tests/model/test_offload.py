"""What layers keep can wait in host memory, and a feed-forward half be computed in pieces: losses and gradients stay the same."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from transformers import PreTrainedModel

from burnish.core.artifacts import MethodPlan
from burnish.core.errors import ResourceError
from burnish.model.fused.replace import fused
from burnish.model.offload import HostBlocks
from burnish.model.recompute import Recomputation
from one_step import IDS, adapted, loss_and_gradients, whole_trained

Make = Callable[..., MethodPlan]
Tiny = Callable[..., PreTrainedModel]


@pytest.mark.parametrize(("whole", "halves", "offloaded"), [(3, 0, 3), (0, 3, 3), (1, 2, 2), (2, 0, 3), (0, 0, 3)])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_offloaded_layers_give_the_same_bits(
    make_tiny: Tiny, make_method: Make, family: str, whole: int, halves: int, offloaded: int
) -> None:
    model = adapted(make_tiny(family), make_method(dropout=0.1))
    with fused(model):
        with Recomputation(model, whole, halves):
            loss, gradients = loss_and_gradients(model)
        with Recomputation(model, whole, halves, offloaded=offloaded, block=1000, least=0) as layers:
            for _ in range(2):
                found, same = loss_and_gradients(model)
                assert found == loss
                assert torch.equal(same, gradients)
                held = layers.host_bytes
                assert held >= 3 * IDS.numel() * model.config.hidden_size
            assert layers.host_bytes == held, "blocks are used again"


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_offloaded_layers_give_the_same_bits_where_every_weight_trains(
    make_tiny: Tiny, family: str, fast: bool
) -> None:
    """Weights stay where they are: what goes to the host is what depends on the row."""
    model = whole_trained(make_tiny(family))
    with fused(model, join_weights=True) if fast else nullcontext():
        with Recomputation(model, 1, 2):
            loss, gradients = loss_and_gradients(model)
        with Recomputation(model, 1, 2, offloaded=3, block=1000, least=0) as layers:
            for _ in range(2):
                found, same = loss_and_gradients(model)
                assert found == loss
                assert torch.equal(same, gradients)
            assert layers.host_bytes > 0
        with Recomputation(model, 3, offloaded=3, block=16, least=0) as layers:
            loss_and_gradients(model)
            assert layers.host_bytes == 3 * 4 * IDS.numel() * model.config.hidden_size


def test_layers_that_are_not_fused_are_offloaded_too(make_tiny: Tiny, method: MethodPlan) -> None:
    model = adapted(make_tiny(), method)
    with Recomputation(model, 3):
        loss, gradients = loss_and_gradients(model)
    for whole in (0, 3):
        with Recomputation(model, whole, offloaded=3, block=1000, least=0) as layers:
            found, same = loss_and_gradients(model)
            assert layers.host_bytes > 0
        assert found == loss
        assert torch.equal(same, gradients)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize(("whole", "halves"), [(3, 0), (0, 3)])
def test_a_feed_forward_half_in_pieces_gives_the_same(
    make_tiny: Tiny, method: MethodPlan, family: str, whole: int, halves: int
) -> None:
    model = adapted(make_tiny(family), method)
    with fused(model):
        loss, gradients = loss_and_gradients(model)
        for offloaded in (0, 3):
            with Recomputation(model, whole, halves, piece_tokens=5, offloaded=offloaded, block=1000, least=0):
                found, same = loss_and_gradients(model)
            assert found == pytest.approx(loss, rel=1e-6)
            assert ((same - gradients).abs().max() / gradients.abs().max()).item() < 1e-5


def test_pieces_are_not_taken_where_something_is_dropped(make_tiny: Tiny, make_method: Make) -> None:
    """A piece that is made again would drop other numbers."""
    model = adapted(make_tiny(), make_method(dropout=0.2))
    with fused(model):
        with Recomputation(model, 3):
            expected = loss_and_gradients(model)
        with Recomputation(model, 3, piece_tokens=5):
            found = loss_and_gradients(model)
    assert found[0] == expected[0]
    assert torch.equal(found[1], expected[1])


def test_a_graph_that_is_dropped_gives_its_blocks_back(make_tiny: Tiny, method: MethodPlan) -> None:
    model = adapted(make_tiny(), method)
    with fused(model), Recomputation(model, 3, offloaded=3, block=1000, least=0) as layers:
        sizes = []
        for _ in range(3):
            loss = model(input_ids=IDS, labels=IDS).loss
            del loss
            gc.collect()
            sizes.append(layers.host_bytes)
    assert sizes[0] > 0
    assert sizes == [sizes[0]] * 3


@pytest.mark.parametrize("fast", [True, False])
def test_a_layer_that_is_computed_again_leaves_its_input_there_and_nothing_else(
    make_tiny: Tiny, method: MethodPlan, fast: bool
) -> None:
    model = adapted(make_tiny(), method)
    with fused(model) if fast else nullcontext(), Recomputation(model, 3, offloaded=3, block=16, least=0) as layers:
        loss_and_gradients(model)
        assert layers.host_bytes == 3 * 4 * IDS.numel() * model.config.hidden_size


def test_without_gradients_nothing_goes_to_the_host(make_tiny: Tiny, method: MethodPlan) -> None:
    model = adapted(make_tiny(), method)
    with fused(model), Recomputation(model, 3, offloaded=3, block=1000, least=0) as layers, torch.no_grad():
        model(input_ids=IDS)
        assert layers.host_bytes == 0


def test_a_host_without_memory_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(ResourceError, match=r"train\.activation_offload: never"):
        HostBlocks(1000, pinned=False).take(1)
