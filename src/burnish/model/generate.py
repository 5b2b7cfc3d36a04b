"""Greedy answers to many prompts at once, as evaluation asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from burnish.model.decoder import Decoder
from burnish.model.sampling import Sampling
from burnish.model.shared_starts import shared_starts


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: frozenset[int],
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Continue every prompt greedily. Returns the new tokens in the order of the prompts, without the stop token.

    `batch` sequences run at once; `progress(done, total)` is called when sequences end.
    """
    decoder = Decoder(model, rows=batch, piece_tokens=1024)
    sampling = Sampling(max_new_tokens=max_new_tokens, stop_ids=stop_ids)
    order, shares = shared_starts(prompts)
    places = {decoder.add(prompts[place], sampling, share=shares[place]): place for place in order}
    answers: list[list[int]] = [[] for _ in prompts]
    done = 0
    while decoder.running or decoder.waiting:
        emitted = decoder.step()
        for sequence, token, *_ in emitted:
            if token is not None:
                answers[places[sequence]].append(token)
        ended = sum(each.finish is not None for each in emitted)
        done += ended
        if ended and progress is not None:
            progress(done, len(prompts))
    return answers
