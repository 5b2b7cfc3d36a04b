"""Which rows of a recipe are its own, and which `burnish data synthesize` writes for it."""

from __future__ import annotations

from pathlib import Path

from burnish.core.errors import DataError, UsageError
from burnish.core.recipe import Recipe
from burnish.core.recipe_augment import Synthesize


def without_synthetic(recipe: Recipe) -> Recipe | None:
    """Return the recipe without the sources that `data synthesize` writes itself; None when it has no other.

    Raises UsageError when the recipe makes no synthetic rows.
    """
    own = _own_paths(recipe, synthesize_section(recipe))
    if isinstance(recipe.data, str):
        return None if recipe.data in own else recipe
    left = {name: source for name, source in recipe.data.items() if source.path not in own}
    return recipe.model_copy(update={"data": left}) if left else None


def check_made(recipe: Recipe) -> None:
    """Raise DataError when the recipe names rows that `data synthesize` has not made yet."""
    if recipe.synthesize is None:
        return
    path = next((p for p in _own_paths(recipe, recipe.synthesize) if not Path(p).exists()), None)
    if path is not None:
        raise DataError(
            f"{path} is not there yet: `burnish data synthesize` writes it. Run that first, or leave the source out of `data`."
        )


def _own_paths(recipe: Recipe, said: Synthesize) -> list[str]:
    """Return the sources that lie in the folder which `data synthesize` fills."""
    folder = Path(said.into).resolve()
    paths = [source.path for source in recipe.sources().values()]
    return [path for path in paths if "://" not in path and Path(path).resolve().is_relative_to(folder)]


def synthesize_section(recipe: Recipe) -> Synthesize:
    """Return the section about synthetic rows. Raises UsageError when there is none."""
    if recipe.synthesize is None:
        raise UsageError(
            f"the recipe of {recipe.name} has no `synthesize` section: who writes, what, for how much. Read: docs/synthetic.md"
        )
    return recipe.synthesize
