"""What training goes on from, an adapter or a fully trained model: found by name or id, and checked to be of the same shape."""

from __future__ import annotations

from burnish.core.artifacts import Adapter, BaseRef, MethodPlan, Release
from burnish.core.errors import Problem, RecipeError, UsageError, did_you_mean
from burnish.core.ids import short
from burnish.core.recipe import Recipe
from burnish.store.home import Home

SHAPE = ("rank", "alpha", "targets", "quantisation", "double_quantisation")
"""What an adapter keeps when training goes on from it: other numbers would be another adapter."""


def start_of(recipe: Recipe, home: Home) -> Adapter | None:
    """Return the adapter that a recipe goes on from: of the newest release of that name, or the one with that id.

    Raises RecipeError when there is none, with the names that there are.
    """
    asked = recipe.start_from
    if asked is None:
        return None
    newest = {release.name: release for release in sorted(home.all(Release), key=lambda item: item.version)}
    if asked in newest:
        return home.load(Adapter, newest[asked].adapter)
    try:
        found = home.find(asked, Adapter.kind)
    except UsageError:
        known = f"Released here: {', '.join(newest) or 'nothing yet'}. Or give the id of an adapter."
        message = (
            f"no specialist is released by this name, and no adapter has this id. {known}{did_you_mean(asked, newest)}"
        )
        raise RecipeError(f"recipe {recipe.name}", [Problem("start_from", asked, message)]) from None
    assert isinstance(found, Adapter)
    return found


def check_start(recipe: Recipe, start: Adapter, base: BaseRef, method: MethodPlan) -> None:
    """Raise RecipeError with every way in which the adapter does not fit what the recipe plans."""
    problems: list[Problem] = []
    if start.base.digest != base.digest:
        says = f"{start.name} was trained on {start.base.name} ({short(start.base.digest)}), not on this base. Use that one."
        problems.append(Problem("base", f"{base.name} ({short(base.digest)})", says))
    old, new = start.method.model_dump(), method.model_dump()
    mixed = old["kind"] != new["kind"] and "full" in (old["kind"], new["kind"])
    if mixed:
        says = f"{start.name} ({short(start.id)}) was trained with method: {old['kind']}. Set that"
        says += ", or set base to its folder." if old["kind"] == "full" else "."
        problems.append(Problem("method.kind", new["kind"], says))
    for key in SHAPE if not mixed else ():
        if old[key] != new[key]:
            says = f"an adapter goes on in its own shape: {start.name} ({short(start.id)}) has {_shown(old[key])}. Set that."
            problems.append(Problem(f"method.{_key(key)}", _shown(new[key]), says))
    if problems:
        raise RecipeError(f"recipe {recipe.name} from {recipe.start_from}", problems)


def _key(name: str) -> str:
    return "kind" if name == "quantisation" else name


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
