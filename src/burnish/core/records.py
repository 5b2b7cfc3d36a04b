"""What artifacts are made of: frozen records, references to files, counts, histograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Record(BaseModel):
    """A frozen value. Unknown fields are refused; fields in `OUTSIDE_ID` do not count for the id.

    Fields in `WHEN_SET` were added later: they count where they are set, so that ids given before stay what they were.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")
    OUTSIDE_ID: ClassVar[frozenset[str]] = frozenset()
    WHEN_SET: ClassVar[frozenset[str]] = frozenset()

    def identity(self) -> dict[str, Any]:
        """Return the JSON value of everything that counts for the id."""
        return {
            name: _identity(value)
            for name, value in self
            if name not in self.OUTSIDE_ID and not (name in self.WHEN_SET and value is None)
        }


def _identity(value: Any) -> Any:
    match value:
        case Record():
            return value.identity()
        case dict():
            return {str(key): _identity(item) for key, item in cast("dict[Any, Any]", value).items()}
        case list() | tuple():
            return [_identity(item) for item in cast("Sequence[Any]", value)]
        case _:
            return value


class FileRef(Record):
    """Bytes beside an artifact: path relative to the artifact's folder in the home, hash and size."""

    OUTSIDE_ID: ClassVar[frozenset[str]] = frozenset({"path"})
    path: str
    sha256: str
    size_bytes: Count


class Histogram(Record):
    """Counts per bin. Bin i holds values v with edges[i] <= v < edges[i+1]; the last bin includes its upper edge."""

    edges: tuple[int, ...]
    counts: tuple[Count, ...]
