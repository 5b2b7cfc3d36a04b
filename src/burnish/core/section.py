"""What every part of a recipe is made of: frozen sections that refuse unknown keys, and names."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class Section(BaseModel):
    """A part of the recipe. Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
