"""Greedy answers to many prompts at once, as evaluation asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

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
    begun: Sequence[Sequence[int]] | None = None,
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Continue every prompt greedily. Returns the new tokens in the order of the prompts, without the stop token.

    `begun` says how each answer begins, where that is known: an answer that is known to its end is not computed again.
    `batch` sequences run at once; `progress(done, total)` is called when sequences end.
    """
    known = [_to_the_end(each, max_new_tokens, stop_ids) for each in begun or [()] * len(prompts)]
    answers = [answer for answer, _ in known]
    open_ = [place for place, (_, ended) in enumerate(known) if not ended]
    begin = [[*prompts[place], *answers[place]] for place in open_]
    decoder = Decoder(model, rows=batch, piece_tokens=1024)
    order, shares = shared_starts(begin)
    places: dict[int, int] = {}
    for each in order:
        place = open_[each]
        sampling = Sampling(max_new_tokens=max_new_tokens - len(answers[place]), stop_ids=stop_ids)
        places[decoder.add(begin[each], sampling, share=shares[each])] = place
    done = len(prompts) - len(open_)
    if done and progress is not None:
        progress(done, len(prompts))
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


def _to_the_end(begun: Sequence[int], max_new_tokens: int, stop_ids: frozenset[int]) -> tuple[list[int], bool]:
    """Return what is known of an answer up to its end, and whether it has one."""
    answer = list(takewhile(lambda token: token not in stop_ids, begun[:max_new_tokens]))
    return answer, len(answer) == max_new_tokens or len(answer) < len(begun)
