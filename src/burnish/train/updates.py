"""When weights are updated: all at the end of a step, or each in backward, as soon as its gradient is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Protocol

import torch
from torch import Tensor, nn

from burnish.core.artifacts import TrainPlan
from burnish.train.joined import join, note_changed
from burnish.train.optim import make_steps, optimizers, put_states, states_of, update
from burnish.train.trained import Trained


class Updates(Protocol):
    """The updates of a run. Within `listening` a backward pass adds to the gradients of a step, or makes updates itself.

    holds_gradients: gradients are there from the start, so that what computes one may add to it.
    """

    holds_gradients: bool

    def listening(self) -> ExitStack:
        """Return a context in which backward passes are followed."""
        ...

    def begin(self, rate: float) -> None:
        """Begin a step at this learning rate."""
        ...

    def restart(self) -> bool:
        """Forget the gradients of a step that has begun; returns False when it has changed weights already."""
        ...

    def finish(self, loss_scale: float) -> Tensor:
        """End a step, whose loss was multiplied by `loss_scale`, and return the norm of all gradients."""
        ...

    def states(self) -> dict[str, Tensor]:
        """Return the states of the optimizers."""
        ...

    def put_back(self, states: Mapping[str, Tensor]) -> None:
        """Go on from these states, and from the weights as they are now."""
        ...


def updates_of(plan: TrainPlan, trained: Trained) -> Updates:
    """Return the updates that a plan asks for."""
    return InBackward(plan, trained) if plan.optimizer_in_backward else AtEnd(plan, trained)


class AtEnd:
    """All weights at the end of a step, their gradients clipped to a global norm.

    Gradients are held from the start: if they came and went between the activations, they would leave holes in the heap of a CPU
    which nothing fits. Where the model computes in fewer bits, its gradients are added up in float32. AdamW takes the hundreds of
    small weights of an adapter as one, whose states are still kept for each.
    """

    holds_gradients = True

    def __init__(self, plan: TrainPlan, trained: Trained) -> None:
        self.trained, self.limit = trained, plan.max_gradient_norm
        self.joined = join(trained.exact) if trained.small and plan.optimizer is None else []
        self.optimised = {str(number): each.whole for number, each in enumerate(self.joined)} or trained.exact
        self.optimizers = optimizers(plan, self.optimised, trained.embeddings)
        if not self.joined:
            for weight in trained.exact.values():
                weight.grad = torch.zeros_like(weight)

    def listening(self) -> ExitStack:
        """Return a context in which gradients of fewer bits are added to the float32 ones as they come."""
        beside = {name: own for name, own in self.trained.own.items() if own is not self.trained.exact[name]}
        return _hooked(beside, self._add)

    def _add(self, name: str, own: nn.Parameter) -> None:
        gradient = self.trained.exact[name].grad
        assert gradient is not None
        assert own.grad is not None
        gradient.add_(own.grad)
        own.grad = None

    def begin(self, rate: float) -> None:
        """Set the rate of this step."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def restart(self) -> bool:
        """Forget the gradients of this step."""
        torch._foreach_zero_([weight.grad for weight in self.optimised.values()])
        for name, own in self.trained.own.items():
            if own is not self.trained.exact[name]:
                own.grad = None
        return True

    def finish(self, loss_scale: float) -> Tensor:
        """Clip, update, and begin new gradients."""
        norm = update(self.optimizers, self.optimised.values(), self.limit, loss_scale)
        torch._foreach_zero_([weight.grad for weight in self.optimised.values()])
        note_changed(self.joined)
        for name in self.trained.own:
            self.trained.show(name)
        return norm

    def states(self) -> dict[str, Tensor]:
        """Return the states of the optimizers."""
        found = states_of(self.optimizers, self.optimised)
        for number, each in enumerate(self.joined):
            own = {key.partition(".")[2]: found.pop(key) for key in list(found) if key.startswith(f"{number}.")}
            found |= each.states_of_each(own)
        return found

    def put_back(self, states: Mapping[str, Tensor]) -> None:
        """Go on from these states."""
        wholes = {
            f"{number}.{state}": value
            for number, each in enumerate(self.joined)
            for state, value in each.states_of_whole(states).items()
        }
        put_states(self.optimizers, self.optimised, wholes if self.joined else states)
        for name in self.trained.own:
            self.trained.show(name)


class InBackward:
    """Each weight as soon as its gradient is whole, which is let go of then: no two are held at once.

    Lv et al. 2023, arXiv:2306.09782. One backward pass a step. The norm of all gradients is not known before the last of them, so
    each is clipped by itself, to the same limit; one that is not finite counts as zero, and the step's norm tells.
    """

    holds_gradients = False

    def __init__(self, plan: TrainPlan, trained: Trained) -> None:
        self.trained, self.limit = trained, plan.max_gradient_norm
        self.optimizers = {
            name: optimizers(plan, {name: weight}, trained.embeddings) for name, weight in trained.exact.items()
        }
        self.squares: list[Tensor] = []

    def listening(self) -> ExitStack:
        """Return a context in which gradients become updates as they come."""
        return _hooked(self.trained.own, self._update)

    @torch.no_grad()
    def _update(self, name: str, own: nn.Parameter) -> None:
        assert own.grad is not None
        exact = self.trained.exact[name]
        gradient, own.grad = own.grad.to(exact.dtype), None
        norm = torch.linalg.vector_norm(gradient)
        self.squares.append(norm.square())
        factor = (self.limit / (norm + 1e-6)).clamp(max=1.0)
        exact.grad = gradient.mul_(factor).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        make_steps(self.optimizers[name])
        exact.grad = None
        self.trained.show(name)

    def begin(self, rate: float) -> None:
        """Set the rate of this step."""
        self.squares.clear()
        for among in self.optimizers.values():
            for optimizer in among:
                for group in optimizer.param_groups:
                    group["lr"] = rate

    def restart(self) -> bool:
        """Begin again, if no weight was updated yet."""
        for own in self.trained.own.values():
            own.grad = None
        return not self.squares

    def finish(self, loss_scale: float) -> Tensor:
        """Return the norm; the updates are made. The plan refuses scaled losses, whose steps would have to be undone."""
        assert loss_scale == 1.0
        return torch.stack([square.to(self.squares[0].device) for square in self.squares]).sum().sqrt()

    def states(self) -> dict[str, Tensor]:
        """Return the states of the optimizers."""
        found: dict[str, Tensor] = {}
        for name, among in self.optimizers.items():
            found |= states_of(among, {name: self.trained.exact[name]})
        return found

    def put_back(self, states: Mapping[str, Tensor]) -> None:
        """Go on from these states."""
        for name, among in self.optimizers.items():
            own = {key: value for key, value in states.items() if key.rpartition(".")[0] == name}
            put_states(among, {name: self.trained.exact[name]}, own)
            self.trained.show(name)


def _hooked(weights: Mapping[str, nn.Parameter], follow: Callable[[str, nn.Parameter], None]) -> ExitStack:
    """Return a context in which `follow(name, weight)` is called when the gradient of a backward pass is in a weight's `grad`."""
    stack = ExitStack()
    for name, weight in weights.items():
        handle = weight.register_post_accumulate_grad_hook(lambda own, name=name: follow(name, own))
        stack.callback(handle.remove)
    return stack
