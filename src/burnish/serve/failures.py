"""How the engine refuses a request, and how it fails one that it took."""

from __future__ import annotations

from burnish.core.errors import BurnishError, ServeError
from burnish.model.memory import OutOfMemory, is_out_of_memory
from burnish.model.sampling import Constraint


class QueueFull(ServeError):
    """Too many requests wait already; the same request may succeed later."""


class EngineStopped(ServeError):
    """The engine is closing, closed or broken."""


class FormNotKept(ServeError):
    """The form that was asked for allows nothing from here on, or became too complex to follow."""


class NoMemory(ServeError):
    """Memory ran out, for this request or for those that ran beside it; the same request may succeed later."""


def form_not_kept(constraint: Constraint | None) -> FormNotKept:
    """Return the error of an answer whose constraint cannot go on."""
    why = constraint.failure if constraint is not None else None
    return FormNotKept(f"the answer cannot keep to the form that was asked for: {why}")


def failure_of(what: str, error: Exception) -> BurnishError:
    """Return what those who wait for `what` (this answer, the vectors) hear of an error."""
    if isinstance(error, ServeError):
        return error
    if isinstance(error, OutOfMemory) or is_out_of_memory(error):
        says = " ".join(str(error).split())[:160]
        return NoMemory(
            f"{what} failed because memory ran out ({says}). Ask again when fewer requests run, or ask for less: a shorter "
            "prompt, fewer new tokens."
        )
    return ServeError(f"{what} failed: {type(error).__name__}: {error}")
