"""Weights that are updated as one: a launch takes some tens of tensors, and an adapter has hundreds of small ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Joined:
    """Some weights and their gradients, one after another in `whole` and its gradient: from now on they are its parts."""

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self.weights = dict(weights)
        flat = torch.cat([weight.detach().flatten() for weight in weights.values()])
        matrices = next(iter(weights.values())).ndim > 1
        self.whole = nn.Parameter(flat[None] if matrices else flat)  # an optimizer tells matrices, which decay, by this
        self.whole.grad = torch.zeros_like(self.whole)
        parts = zip(self.weights.values(), self.split(self.whole.detach()), self.split(self.whole.grad), strict=True)
        for weight, value, gradient in parts:
            weight.data, weight.grad = value, gradient

    def split(self, whole: Tensor) -> list[Tensor]:
        """Return the parts of something as large as all of them, each in its weight's shape."""
        parts = whole.flatten().split([weight.numel() for weight in self.weights.values()])
        return [part.view_as(weight) for part, weight in zip(parts, self.weights.values(), strict=True)]

    def states_of_each(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the states of the whole as `<weight>.<state>`: numbers are every weight's."""
        found: dict[str, Tensor] = {}
        for state, value in states.items():
            whole = value.numel() == self.whole.numel()
            parts = self.split(value) if whole else [value.clone() for _ in self.weights]  # a file holds nothing twice
            found |= {f"{name}.{state}": part for name, part in zip(self.weights, parts, strict=True)}
        return found

    def states_of_whole(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what `states_of_each` was made of."""
        first = next(iter(self.weights))
        kinds = [name.rpartition(".")[2] for name in states if name.rpartition(".")[0] == first]
        found: dict[str, Tensor] = {}
        for kind in kinds:
            parts = [states[f"{name}.{kind}"] for name in self.weights]
            each = sum(part.numel() for part in parts) == self.whole.numel()
            found[kind] = torch.cat([part.flatten() for part in parts]).view(self.whole.shape) if each else parts[0]
        return found


def join(weights: Mapping[str, nn.Parameter]) -> list[Joined]:
    """Return the weights of each device joined, matrices and vectors apart."""
    alike: dict[tuple[torch.device, bool], dict[str, nn.Parameter]] = {}
    for name, weight in weights.items():
        alike.setdefault((weight.device, weight.ndim > 1), {})[name] = weight
    return [Joined(each) for each in alike.values()]


def note_changed(among: Sequence[Joined]) -> None:
    """Let torch know that the parts have changed with the whole, of which copies tell that they are old."""
    for each in among:
        torch.autograd.graph.increment_version(list(each.weights.values()))
