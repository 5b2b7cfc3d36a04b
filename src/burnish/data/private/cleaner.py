"""What a recipe asks about personal data, as one function from a text to the text that is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from burnish.data.private.find import find
from burnish.data.private.kinds import STRUCTURED, Found, Kind
from burnish.data.private.names import presidio, together, with_names
from burnish.data.private.replace import Action, Finder, Redacted, placeholder, remove
from burnish.data.private.replace import replace as replaced
from burnish.data.private.surrogates import hashed, surrogate
from burnish.data.private.vault import Vault

ActionName = Literal["placeholder", "remove", "hash", "surrogate", "vault", "keep"]
Cleaner = Callable[[str], Redacted]


@dataclass(frozen=True, slots=True)
class Treatment:
    """What becomes of personal data: an action, others for some kinds, what looks for it, and the key and file of the vault.

    It pickles, so that each process makes its own cleaner of it. The key is 32 random bytes, needed for hash, surrogate and
    vault alone; it is never shown.
    """

    action: ActionName = "placeholder"
    kinds: tuple[tuple[Kind, ActionName], ...] = ()
    names: bool = False
    second_opinion: bool = False
    key: bytes | None = field(default=None, repr=False)
    vault: Path | None = None

    def of(self, kind: Kind) -> ActionName:
        """Return the action for a kind."""
        return dict(self.kinds).get(kind, self.action)

    @property
    def keeps(self) -> frozenset[Kind]:
        """Kinds that stay as they are."""
        return frozenset(kind for kind in Kind if self.of(kind) == "keep")

    @property
    def leaves_nothing(self) -> bool:
        """Whether every kind that rules look for is replaced."""
        return not (self.keeps & STRUCTURED)

    def measured(self) -> Treatment:
        """Return the treatment with placeholders for all that is replaced: it finds the same, and fills no vault."""
        return replace(self, action="placeholder", kinds=tuple((kind, "keep") for kind in self.keeps), vault=None)


def make_cleaner(treatment: Treatment) -> Cleaner:
    """Return the function that finds personal data in a text and does what the treatment says. What is kept is counted too.

    Raises DataError when names or Presidio are asked for and not installed, or the key is not the vault's.
    """
    finder = _finder(treatment)
    keeps = treatment.keeps
    if not keeps:
        action, settles = _action(treatment)
        return lambda text: replaced(text, action, finder, settles=settles)
    wanted: Finder = lambda text: [item for item in finder(text) if item.kind not in keeps]  # noqa: E731 - a filter of finder
    action, settles = _action(treatment)

    def clean(text: str) -> Redacted:
        kept = Counter(str(item.kind) for item in finder(text) if item.kind in keeps)
        done = replaced(text, action, wanted, settles=settles)
        return Redacted(done.text, done.counts + kept)

    return clean


def make_writer(treatment: Treatment, action: Action) -> Cleaner:
    """Return the function that writes by `action` everything that a treatment looks for, what it keeps too, once over a text.

    Raises DataError as `make_cleaner` does.
    """
    finder = _finder(treatment)
    return lambda text: replaced(text, action, finder, settles=False)


def _finder(treatment: Treatment) -> Finder:
    urls = Kind.URL in dict(treatment.kinds)
    kinds = STRUCTURED | {Kind.URL} if urls else STRUCTURED
    finder: Finder = (lambda text: find(text, kinds)) if urls else find
    if treatment.second_opinion:
        # Its plain web addresses are no personal data unless asked for, as with our own rules.
        other, allowed = presidio(), kinds
        finder = together(finder, lambda text: [item for item in other(text) if item.kind in allowed])
    return with_names(finder) if treatment.names else finder


def _action(treatment: Treatment) -> tuple[Action, bool]:
    """Return what to write, and whether the result may be looked at again."""
    used = {treatment.of(kind) for kind in Kind} - {"keep"}
    actions: dict[str, Action] = {"placeholder": placeholder, "remove": remove}
    if used & {"hash", "surrogate", "vault"}:
        key = treatment.key
        if key is None:
            raise ValueError("hash, surrogate and vault need a key")
        actions |= {"hash": hashed(key), "surrogate": surrogate(key)}
        if "vault" in used:
            if treatment.vault is None:
                raise ValueError("the action vault needs a file")
            actions["vault"] = Vault(treatment.vault, key)
    settles = used <= {"placeholder", "remove"}
    if len(used) == 1:
        return actions[used.pop()], settles
    by_kind = {kind: actions[treatment.of(kind)] for kind in Kind if treatment.of(kind) != "keep"}

    def write(item: Found, value: str) -> str:
        return by_kind[item.kind](item, value)

    return write, settles
