"""The gateway's settings: one YAML file, unknown keys refused, every value with its unit and a default that is safe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from burnish.core.errors import Problem, RecipeError, UsageError
from burnish.core.section import Section
from burnish.core.yaml_text import KeyTwiceError, load_yaml, yaml_problem

NAME_IN_PATH = "^[A-Za-z0-9][A-Za-z0-9._@:-]*$"
"""A model, alias or key in a URL's path: plain letters, so that no name looks like another."""
AUTO = "auto"
"""The name that picks a model by what is asked."""
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Dollars = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@:/-]{0,127}$")]


class Caps(Section):
    """What one request may be at most, how many may be at work, and how many wrong keys one address may try in a minute."""

    body_bytes: Count = 1 << 20
    prompt_tokens: Count = 1 << 20
    new_tokens: Count = 8192
    default_new_tokens: Count = 1024
    answers: Count = 8
    at_once: Count = 512
    failed_keys_per_minute: Count = 60


class Timeouts(Section):
    """Seconds: for the whole head of a request, for its body, to reach the upstream, to its first token, for all."""

    head_s: Seconds = 10
    body_s: Seconds = 30
    connect_s: Seconds = 5
    first_token_s: Seconds = 120
    total_s: Seconds = 600
    drain_s: Seconds = 30


class Price(Section):
    """Dollars for a million tokens."""

    prompt_usd: Dollars = 0
    answer_usd: Dollars = 0


class Target(Section):
    """A version that an alias may lead to, and its share of the traffic."""

    model: ModelName
    weight: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False, strict=True)] = 1


class Route(Section):
    """Where an alias leads.

    champion: what all traffic returns to. shadow: gets copies of a share of the requests; its answers are thrown away
    and charged to nobody. The traffic of a target returns to the champion when, of its last `window` answers and
    20 or more, its share of errors or its median time to the first token is worse than the champion's by these factors.
    """

    champion: ModelName
    targets: tuple[Target, ...] = ()
    shadow: ModelName | None = None
    shadow_share: Annotated[float, Field(gt=0, le=1, strict=True)] = 1
    window: Annotated[int, Field(ge=20, le=10_000, strict=True)] = 200
    errors_factor: Annotated[float, Field(ge=1, le=1000, strict=True)] = 2
    latency_factor: Annotated[float, Field(ge=1, le=1000, strict=True)] = 2

    @model_validator(mode="after")
    def _weights_add_up(self) -> Route:
        if self.targets and sum(target.weight for target in self.targets) <= 0:
            raise ValueError("the weights of targets must add up to more than 0")
        return self


class Auto(Section):
    """`model: auto`: which models it may pick, and how alike a request must be to their training prompts (cosine)."""

    models: tuple[ModelName, ...] | None = None
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.5
    fallback: ModelName = "base"


class Content(Section):
    """Keeping prompts and answers: off unless asked for; then redacted, and for this many days."""

    keep: bool = False
    days: Annotated[int, Field(ge=1, le=3650)] = 7


class Settings(Section):
    """Everything `burnish serve --config FILE` understands.

    hosts: names the gateway may be addressed by, beside localhost and bare addresses. origins: pages of other origins
    that may call it (CORS). metrics_public: /metrics without a key. upstream: another engine's URL, its key in the
    environment variable upstream_key_variable. cookies, key files and the rest need no settings.
    """

    hosts: tuple[str, ...] = ()
    origins: tuple[Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.:\[\]-]+$")], ...] = ()
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    upstream: Annotated[str, Field(pattern=r"^https?://")] | None = None
    upstream_key_variable: str | None = None
    retries: Annotated[int, Field(ge=0, le=5)] = 2
    database: str | None = None
    redis: str | None = None
    metrics_public: bool = False
    metrics_models: Annotated[int, Field(ge=1, le=1000)] = 50
    tracing: bool = False
    caps: Caps = Caps()
    timeouts: Timeouts = Timeouts()
    prices: dict[ModelName, Price] = Field(default_factory=dict[str, Price])
    routes: dict[ModelName, Route] = Field(default_factory=dict[str, Route])
    auto: Auto = Auto()
    content: Content = Content()

    @model_validator(mode="after")
    def _tls_needs_both(self) -> Settings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key are given together")
        return self

    @model_validator(mode="after")
    def _auto_is_no_route(self) -> Settings:
        if AUTO in self.routes:
            raise ValueError("auto picks a model by the request: no route can have its name")
        return self


def load_settings(path: Path) -> Settings:
    """Read a YAML file. Raises RecipeError with every problem at once."""
    try:
        raw = load_yaml(path.read_text(encoding="utf-8"))
        return Settings.model_validate({} if raw is None else raw)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    except KeyTwiceError as error:
        raise RecipeError(
            str(path), [Problem(error.key, "given twice", f"once; line {error.line} repeats it")]
        ) from error
    except yaml.YAMLError as error:
        raise RecipeError(str(path), [Problem("file", "not YAML", yaml_problem(error))]) from error
    except ValidationError as error:
        raise RecipeError(str(path), [_problem(item) for item in error.errors(include_url=False)]) from error


def _problem(item: Any) -> Problem:
    """Say what is wrong at one key. Values are shown but for those that may hold a password."""
    key = ".".join(str(part) for part in item["loc"]) or "file"
    found = "..." if key in ("database", "redis", "upstream") else repr(item["input"])[:60]
    message = str(item["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    if item["type"] == "extra_forbidden":
        message = f"unknown key. Known: {', '.join(Settings.model_fields)}" if len(item["loc"]) == 1 else "unknown key"
    return Problem(key, found, message)
