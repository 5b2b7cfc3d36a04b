"""Fields of a config.json, read with suspicion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from burnish.core.errors import BaseModelError

OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd",),
    "num_hidden_layers": ("n_layer",),
    "num_attention_heads": ("n_head",),
    "max_position_embeddings": ("n_positions",),
    "intermediate_size": ("n_inner", "ffn_hidden_size"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
    "num_experts": ("num_local_experts", "n_routed_experts"),
    "partial_rotary_factor": ("rotary_pct",),
}
"""What families call the same thing."""


class Fields:
    """A config.json with the defaults of its family. `source` names it in errors."""

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any], source: str) -> None:
        self.config, self.defaults, self.source = config, defaults, source

    def get(self, field: str) -> Any:
        """Return what the config says by any of the field's names, else the family's default, else None."""
        said = self._said(field)
        return self.defaults.get(field) if said is None else said

    def says(self, field: str) -> bool:
        """Return whether the config itself has the field, by any of its names."""
        return self._said(field) is not None

    def _said(self, field: str) -> Any:
        for name in (field, *OTHER_NAMES.get(field, ())):
            if self.config.get(name) is not None:
                return self.config[name]
        return None

    def whole(self, field: str, default: int | None = None, most: int | None = None) -> int:
        """Return a size. Raises BaseModelError when it is absent without a default, or not a whole number from 1 to `most`."""
        value = self.get(field)
        if value is None:
            value = default
        if value is None:
            raise BaseModelError(
                f"{self.source}: {field} is missing, and the plan cannot count without it. Is this the model's own config.json?"
            )
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BaseModelError(f"{self.source}: {field} is {value!r}, must be a whole number of 1 or more.")
        if most is not None and value > most:
            raise BaseModelError(
                f"{self.source}: {field} is {value:,}, which no model has; at most {most:,} are counted."
            )
        return value

    def unless_null(self, field: str, default: int) -> int:
        """Return a size as `whole` does, but `default` where the config says null, whatever its family's default is."""
        return default if self.is_null(field) else self.whole(field, default)

    def head_size(self, hidden: int, heads: int) -> int:
        """Return the numbers of a head: what the config says, else a share of the hidden size. Raises BaseModelError for none."""
        if hidden < heads and not self.get("head_dim"):
            raise BaseModelError(f"{self.source}: hidden_size ({hidden}) is less than num_attention_heads ({heads}).")
        if hidden % heads and not self.get("head_dim"):
            raise BaseModelError(
                f"{self.source}: hidden_size ({hidden}) is no multiple of num_attention_heads ({heads}), and head_dim is missing."
            )
        return self.unless_null("head_dim", hidden // heads)

    def count(self, field: str) -> int:
        """Return a number that may be 0, as it is when the config says null or nothing says more."""
        return 0 if self.is_null(field) or not self.get(field) else self.whole(field)

    def is_null(self, field: str) -> bool:
        """Return whether the config says null in so many words, which is not the same as saying nothing."""
        return field in self.config and self.config[field] is None

    def flag(self, field: str) -> bool:
        """Return a yes or no; absent is the family's default, else no. Raises BaseModelError for anything else."""
        value = self.get(field)
        if value is None or value in (0, 1):
            return bool(value)
        raise BaseModelError(f"{self.source}: {field} is {value!r}, must be true or false.")

    def unless_null_flag(self, field: str) -> bool:
        """Return a yes or no as `flag` does, but no where the config says null, whatever its family's default is."""
        return not self.is_null(field) and self.flag(field)

    def rotary_share(self) -> float:
        """Share of a head that is rotated. Newer files say it in `rope_parameters`, older ones beside it."""
        rope = self.get("rope_parameters")
        said = cast("Mapping[str, Any]", rope).get("partial_rotary_factor") if isinstance(rope, dict) else None
        share = said if said is not None else self.get("partial_rotary_factor")
        if share is None:
            return 1.0
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise BaseModelError(f"{self.source}: partial_rotary_factor is {share!r}, must be between 0 and 1.")
        return float(share)
