"""How the next token is chosen from its logits: greedy, or drawn from what temperature, penalties and cuts leave of them.

The order is that of transformers' generate: penalties and biases, what a constraint allows, temperature, top-k, top-p, min-p.
All rows of a step are drawn together; each request has its own source of randomness, so that its draws depend on its seed alone.
Shapes: N rows, V vocabulary, C candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

CANDIDATES = 256
"""Most likely tokens that are sorted at first to find where top-p cuts; more when they are not enough."""

COLDEST = 1e-5
"""Logits are divided by no less: a quotient beyond float32 is no number. At this temperature the most likely token is certain."""

ROUNDING = 1e-6
"""A sum of probabilities that is so little below top_p has reached it."""


class Constraint(Protocol):
    """What a request's answer must look like, token by token. Never raises: the answers beside it must not suffer."""

    def allowed(self, vocabulary: int) -> Tensor:
        """Return which tokens may come next: bool (vocabulary,), on the CPU."""
        ...

    def accept(self, token: int) -> None:
        """Take the token that came."""
        ...

    @property
    def finished(self) -> bool:
        """Whether nothing but the end may come."""
        ...

    @property
    def failure(self) -> str | None:
        """Why the answer cannot go on, once it cannot."""
        ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """What one request asks of its answer.

    temperature:    0 takes the most likely token; otherwise logits are divided by it.
    top_p:          keep the smallest set of most likely tokens whose probabilities sum to at least this (1 keeps all).
    top_k:          keep this many most likely tokens (0 keeps all).
    min_p:          keep tokens that are at least so many times as likely as the most likely one (0 keeps all).
    repetition_penalty: logits of tokens that were in prompt or answer are divided by it, negative ones multiplied (1: none).
    presence_penalty, frequency_penalty: taken from the logit of a token that is in the answer, once / for each time.
    logit_bias:     added to the logit of a token.
    seed:           draws of the same request with the same seed are the same; None draws afresh.
    logprobs:       tell the log-probability of each token and of so many most likely ones; None tells nothing.
    prompt_logprobs: the same of each token of the prompt after the first.
    max_new_tokens: the answer's length limit in tokens; 0 reads the prompt alone.
    stop_ids:       tokens that end the answer; they are not part of it.
    """

    max_new_tokens: int
    stop_ids: frozenset[int] = frozenset()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def generator(self) -> torch.Generator | None:
        """Return the request's own source of randomness (on the CPU), or None when it is greedy."""
        if self.temperature == 0:
            return None
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator

    @property
    def adjusts(self) -> bool:
        """Whether logits are changed before a token is chosen."""
        penalties = (self.repetition_penalty != 1.0, self.presence_penalty != 0.0, self.frequency_penalty != 0.0)
        return any(penalties) or bool(self.logit_bias)


class Likelihood(NamedTuple):
    """The model's own log-probability of a token, and its most likely tokens in that place with theirs."""

    logprob: float
    best: tuple[tuple[int, float], ...]


class Chosen(NamedTuple):
    """A token, and what is told of it if that was asked for."""

    token: int
    likelihood: Likelihood | None


class Chooser:
    """One request's choices so far: what its penalties, its constraint and its randomness need to know."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], constraint: Constraint | None = None) -> None:
        self.sampling = sampling
        self.constraint = constraint
        self.generator = sampling.generator()
        self.counts: dict[int, int] = {}
        self.prompt = frozenset(prompt) if sampling.repetition_penalty != 1.0 else frozenset[int]()

    @property
    def plain(self) -> bool:
        """Whether the most likely token is taken and nothing else is asked."""
        asked = self.sampling.adjusts or self.sampling.logprobs is not None
        return self.generator is None and self.constraint is None and not asked

    def take(self, token: int) -> None:
        """Note a token that became part of the answer."""
        if self.sampling.adjusts:
            self.counts[token] = self.counts.get(token, 0) + 1
        if self.constraint is not None:
            self.constraint.accept(token)

    def adjust(self, logits_V: Tensor) -> None:
        """Apply penalties, biases and the constraint in place."""
        asked = self.sampling
        if asked.repetition_penalty != 1.0:
            seen = _ids(self.prompt | self.counts.keys(), logits_V)
            old = logits_V[seen]
            logits_V[seen] = torch.where(old < 0, old * asked.repetition_penalty, old / asked.repetition_penalty)
        if self.counts and (asked.presence_penalty or asked.frequency_penalty):
            times = torch.tensor(list(self.counts.values()), dtype=logits_V.dtype, device=logits_V.device)
            logits_V[_ids(self.counts, logits_V)] -= asked.presence_penalty + asked.frequency_penalty * times
        if asked.logit_bias:
            bias = torch.tensor(list(asked.logit_bias.values()), dtype=logits_V.dtype, device=logits_V.device)
            logits_V[_ids(asked.logit_bias, logits_V)] += bias
        if self.constraint is not None:
            logits_V.masked_fill_(~self.constraint.allowed(len(logits_V)).to(logits_V.device), -torch.inf)


def _ids(tokens: Iterable[int], like: Tensor) -> Tensor:
    return torch.tensor(list(tokens), dtype=torch.int64, device=like.device)


def most_likely(logits_NV: Tensor) -> Tensor:
    """Return the most likely token of each row (N,). On a CPU argmax is several times slower in bfloat16."""
    return logits_NV.float().argmax(dim=-1)


def choose_tokens(logits_NV: Tensor, choosers: Sequence[Chooser]) -> list[Chosen]:
    """Return one token for each row of logits. The choosers are told by `Chooser.take`, not here."""
    best: list[int] = most_likely(logits_NV).tolist()
    chosen = [Chosen(token, None) for token in best]
    special = [row for row, chooser in enumerate(choosers) if not chooser.plain]
    if not special:
        return chosen
    own_NV = logits_NV if len(special) == len(choosers) else logits_NV[special]
    raw_NV = own_NV.float()
    logits_NV = raw_NV.clone() if raw_NV is own_NV else raw_NV
    asking = [choosers[row] for row in special]
    wanted = [at for at, chooser in enumerate(asking) if chooser.sampling.logprobs is not None]
    told_NV = torch.log_softmax(raw_NV[wanted], dim=-1) if wanted else None
    for row, chooser in zip(logits_NV, asking, strict=True):
        chooser.adjust(row)
    tokens: list[int] = logits_NV.argmax(dim=-1).tolist()
    drawn = [at for at, chooser in enumerate(asking) if chooser.generator is not None]
    if drawn:
        for at, token in zip(drawn, _draw(logits_NV[drawn], [asking[at] for at in drawn]), strict=True):
            tokens[at] = token
    for at, row in enumerate(special):
        chosen[row] = Chosen(tokens[at], None)
    if told_NV is not None:
        most = [asking[at].sampling.logprobs or 0 for at in wanted]
        told = _likelihoods(told_NV, [tokens[at] for at in wanted], max(most))
        for at, count, (logprob, best) in zip(wanted, most, told, strict=True):
            chosen[special[at]] = Chosen(tokens[at], Likelihood(logprob, best[:count]))
    return chosen


def likelihoods(logits_NV: Tensor, tokens: Sequence[int], most: int) -> list[Likelihood]:
    """Return what the model gives each of N tokens in its place, with the `most` most likely ones there."""
    return _likelihoods(torch.log_softmax(logits_NV.float(), dim=-1), tokens, most)


def _likelihoods(logprobs_NV: Tensor, tokens: Sequence[int], most: int) -> list[Likelihood]:
    own: list[float] = logprobs_NV.gather(1, _ids(tokens, logprobs_NV)[:, None])[:, 0].tolist()
    best = torch.topk(logprobs_NV, min(most, logprobs_NV.shape[1]))
    rows = zip(own, best.indices.tolist(), best.values.tolist(), strict=True)
    return [Likelihood(logprob, tuple(zip(ids, values, strict=True))) for logprob, ids, values in rows]


def _draw(logits_NV: Tensor, choosers: Sequence[Chooser]) -> list[int]:
    """Draw a token for each row by inverting the cumulative distribution.

    Rows with and without cuts list their tokens in another order, so they are drawn apart: a request's draws must not depend on
    who runs beside it.
    """
    tokens = [0] * len(choosers)
    for cut in (False, True):
        rows = [row for row, chooser in enumerate(choosers) if _cuts(chooser.sampling) is cut]
        if not rows:
            continue
        some = logits_NV if len(rows) == len(choosers) else logits_NV[rows]
        tokens_NC, weights_NC = kept_tokens(some, [choosers[row].sampling for row in rows])
        sums_NC = weights_NC.double().cumsum(dim=-1)
        uniform = [torch.rand((), generator=choosers[row].generator, dtype=torch.float64) for row in rows]
        uniform_N1 = torch.stack(uniform).to(sums_NC.device)[:, None] * sums_NC[:, -1:]
        places_N1 = torch.searchsorted(sums_NC, uniform_N1, right=True).clamp_(max=sums_NC.shape[1] - 1)
        found_N1 = places_N1 if tokens_NC is None else tokens_NC.gather(1, places_N1)
        for row, token in zip(rows, found_N1[:, 0].tolist(), strict=True):
            tokens[row] = token
    return tokens


def _cuts(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1


def kept_tokens(logits_NV: Tensor, samplings: Sequence[Sampling]) -> tuple[Tensor | None, Tensor]:
    """Return candidates and their weights, both (N, C): 0 for what temperature, top-k, top-p and min-p cut off.

    No candidates (None) means every token in order. Top-p: Holtzman et al. 2020, arXiv:1904.09751; min-p: Nguyen et al. 2024,
    arXiv:2407.01082.
    """
    device, vocabulary = logits_NV.device, logits_NV.shape[1]

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

    scores_NV = logits_NV / column([max(each.temperature, COLDEST) for each in samplings])
    min_p_N1 = column([each.min_p for each in samplings])
    if not any(_cuts(each) for each in samplings):
        weights_NV = torch.softmax(scores_NV, dim=-1)
        return None, _at_least(weights_NV, min_p_N1)
    top_k = [each.top_k if 0 < each.top_k < vocabulary else vocabulary for each in samplings]
    count = min(vocabulary, max(CANDIDATES, *(k for k in top_k if k < vocabulary), 1))
    top_p_N1 = column([each.top_p for each in samplings])
    top_k_N1 = torch.tensor(top_k, device=device)[:, None]
    whole_N1 = torch.logsumexp(scores_NV, dim=-1, keepdim=True)
    while True:
        scores_NC, tokens_NC = torch.topk(scores_NV, count)
        rank_C = torch.arange(count, device=device)
        scores_NC = scores_NC.masked_fill(rank_C >= top_k_N1, -torch.inf)
        total_N1 = torch.where(top_k_N1 < vocabulary, torch.logsumexp(scores_NC, dim=-1, keepdim=True), whole_N1)
        weights_NC = torch.exp(scores_NC - total_N1)
        sums_NC = weights_NC.cumsum(dim=-1)
        short = ((sums_NC[:, -1:] < top_p_N1) | (top_p_N1 >= 1)) & (top_k_N1 >= vocabulary)
        if count == vocabulary or not bool(short.any()):
            reached = (sums_NC - weights_NC > top_p_N1 - ROUNDING) & (rank_C > 0)
            weights_NC = weights_NC.masked_fill(reached & (top_p_N1 < 1), 0.0)
            return tokens_NC, _at_least(weights_NC, min_p_N1)
        count = min(vocabulary, 8 * count)


def _at_least(weights_NC: Tensor, min_p_N1: Tensor) -> Tensor:
    return torch.where(weights_NC >= min_p_N1 * weights_NC.amax(dim=-1, keepdim=True), weights_NC, 0.0)
