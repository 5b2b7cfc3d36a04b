"""One call of a model: counted, routed, reserved, answered, settled. Read `answer` from top to bottom."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from burnish.core.refusal import Headers, Refusal
from burnish.gateway.answers import Usage
from burnish.gateway.asks import Asked, model_name, price_nano, read_ask
from burnish.gateway.inner import inner_scope, throw_away
from burnish.gateway.keys import Key
from burnish.gateway.limits import NANO, SECOND, Ask, Granted, Reason, Refused, Standing
from burnish.gateway.passage import TOO_LARGE, ClientGone, Passage, pass_through
from burnish.gateway.route import Choice
from burnish.gateway.settings import AUTO, Price

if TYPE_CHECKING:
    from burnish.gateway.app import Exchange, Gateway

LEASE_SPARE_S = 30
"""A reservation outlives the longest answer by this."""
MOST_SHADOWS = 32
SETTLING_S = 0.05
"""How long somebody who may ask no more at once waits for an answer that its client has and whose settling goes on."""
ENGINE_WIDE = frozenset({"overloaded", "upstream_unreachable"})
"""Codes of what befalls all alike, too many waiting, no memory or nobody there: no version is to blame for it."""
FREE = Price()


class ModelCalls:
    """Answers calls of models for a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._shadows: set[asyncio.Task[None]] = set()

    async def answer(self, exchange: Exchange, key: Key, value: dict[str, Any]) -> None:
        """Answer one call. Raises Refusal, and ClientGone when nobody waits any more."""
        gateway, settings = self._gateway, self._gateway.parts.settings
        if gateway.draining:
            raise Refusal(503, "this gateway is stopping", code="draining", headers=[(b"connection", b"close")])
        if gateway.at_work >= settings.caps.at_once:
            raise Refusal(503, f"{gateway.at_work} requests are at work, which is the limit", code="overloaded")
        gateway.at_work += 1
        try:
            intent = await self._intent(value, key)
            alias = model_name(value)
            if not key.may_ask(alias):
                what = "the model that auto falls back to; name another" if intent else repr(alias[:100])
                raise Refusal(403, f"this key may not ask for {what}", param="model", code="model_not_allowed")
            choice = gateway.parts.router.choose(alias, self._sticky(exchange, value, key), self._override(exchange))
            asked = await self._ask(exchange.scope["path"], choice.model, value, key)
            price = price_of(settings.prices, choice)
            body = asked.body(choice.model)
            nano = price_nano(price, asked.prompt_tokens, asked.new_tokens)
            granted = await self.reserve(key, asked.tokens, nano)

            def told() -> Headers:
                return [
                    *exchange.own, *_standing(granted.standing, key), *intent,
                    (b"x-burnish-model", choice.model.encode("ascii", "backslashreplace")),
                    (b"x-burnish-prompt", prompt_hash(value)),
                ]  # fmt: skip

            await self._pass(exchange, key, asked, choice, price, body, granted, told)
        finally:
            gateway.at_work -= 1

    async def reserve(self, key: Key, tokens: int, nano_usd: int) -> Granted:
        """Reserve what a request may use. Raises Refusal that names the limit in its way."""
        parts = self._gateway.parts
        ask = Ask(tokens, nano_usd, int((parts.settings.timeouts.total_s + LEASE_SPARE_S) * SECOND))
        granted = await self._gateway.in_ledger(parts.ledger.reserve, key.account, key.limits, ask)
        if isinstance(granted, Refused) and granted.reason is Reason.CONCURRENCY:
            await asyncio.sleep(
                SETTLING_S
            )  # what was answered is settled after its last byte, maybe in another gateway
            granted = await self._gateway.in_ledger(parts.ledger.reserve, key.account, key.limits, ask)
        if isinstance(granted, Refused):
            raise _too_many(granted, key)
        return granted

    async def _ask(self, path: str, model: str, value: dict[str, Any], key: Key) -> Asked:
        parts = self._gateway.parts
        given = (path, model, value, key, parts.settings.caps, parts.count, parts.context_tokens)
        if parts.count is None:
            return read_ask(*given)
        return await asyncio.to_thread(read_ask, *given)  # a tokenizer takes milliseconds

    async def _intent(self, value: dict[str, Any], key: Key) -> Headers:
        """Put a model in place of `auto`, by what the last message is about; returns the header that tells it."""
        pick, auto = self._gateway.parts.pick, self._gateway.parts.settings.auto
        if value.get("model") != AUTO or pick is None:
            return []
        text = _last_text(value)  # none: token ids, or vectors, which are only alike where one model makes them
        ranked: Sequence[tuple[str, float]] = []
        if text.strip():
            ranked = await asyncio.to_thread(pick, text)
        allowed = [
            (model, score) for model, score in ranked
            if key.may_ask(model) and (auto.models is None or model in auto.models)
        ]  # fmt: skip
        model, score = allowed[0] if allowed else (auto.fallback, -1.0)
        chosen = model if score >= auto.threshold else auto.fallback
        value["model"] = chosen
        return [
            (b"x-burnish-intent", f"{chosen}; nearest={model}; score={score:.3f}; threshold={auto.threshold}".encode())
        ]

    def _sticky(self, exchange: Exchange, value: dict[str, Any], key: Key) -> str:
        session = exchange.headers.get(b"x-burnish-session")
        if session is not None:
            return session.decode("latin-1")
        user = value.get("user")
        return f"{key.account}/{user}" if isinstance(user, str) else key.account

    def _override(self, exchange: Exchange) -> str | None:
        found = exchange.headers.get(b"x-burnish-version")
        return None if found is None else found.decode("latin-1")

    async def _pass(
        self, exchange: Exchange, key: Key, asked: Asked, choice: Choice, price: Price, body: bytes, granted: Granted,
        told: Callable[[], Headers],
    ) -> None:  # fmt: skip
        """Let the upstream answer; whatever happens, count what was used and remember how it went."""
        gateway, parts = self._gateway, self._gateway.parts
        usage = Usage()
        if parts.content is not None:
            usage.pieces = {}
        passage = Passage(
            exchange.send, usage, told, keep_usage=asked.wants_usage, all_models=key.models is None
        )  # fmt: skip
        trace = [(name, exchange.headers[name]) for name in (b"traceparent", b"tracestate") if name in exchange.headers]
        scope = inner_scope("POST", asked.path, [(b"x-request-id", exchange.id.encode()), *trace])
        if choice.shadow is not None:
            self._copy(choice.shadow, asked)
        failed = status = 0
        everyones = unseen = False
        try:
            timeouts = parts.settings.timeouts
            await pass_through(parts.upstream, scope, body, passage, exchange.receive, timeouts, stream=asked.stream)
            status = passage.status
        except Refusal as refusal:
            status, failed, everyones = refusal.status, 1, refusal.code in ENGINE_WIDE
            unseen = refusal.code == TOO_LARGE
            raise
        except ClientGone:
            status, unseen = 499, not asked.stream
            raise
        finally:
            answered = passage.started and passage.status == 200
            spent = (0, 0)
            if unseen:  # nothing of the answer was seen, and all of it may have been made
                spent = asked.prompt_tokens, asked.new_tokens
            elif answered or status == 499:
                spent = usage.counted(asked.prompt_tokens, asked.new_tokens)
            nano = price_nano(price, *spent)
            settle = gateway.settle(key, granted, sum(spent), nano)
            gateway.start(asyncio.get_running_loop().create_task(settle))
            self._count(exchange, choice, passage, status, spent)
            everyones = everyones or passage.failed_code in ENGINE_WIDE
            missing = status == 404  # the alias is known, so what it leads to is not there
            if status != 499 and not everyones and not passage.sending and (missing or not 400 <= status < 500):
                good = not failed and not missing and not passage.failed
                parts.router.note(choice, good=good, first_s=passage.first_s, whole=not asked.stream)
            if parts.content is not None and usage.pieces and answered:
                keep = asyncio.to_thread(parts.content.keep, exchange.id, key.id, choice.model, asked.sent, usage.said)
                gateway.start(asyncio.get_running_loop().create_task(keep))

    def _count(self, exchange: Exchange, choice: Choice, passage: Passage, status: int, spent: tuple[int, int]) -> None:
        metrics = self._gateway.metrics
        model = (
            metrics.label(choice.model) if status == 200 else choice.model if choice.model in metrics.known else "other"
        )
        metrics.requests.labels(exchange.scope["path"], model, str(status)).inc()
        seconds = time.perf_counter() - exchange.began
        metrics.seconds.labels(model).observe(seconds)
        first_s = passage.first_s if passage.streamed else None
        tracing = self._gateway.parts.tracing
        if tracing is not None:
            tracing.record(exchange.headers, exchange.scope["path"], choice, status, seconds, first_s, spent)
        if first_s is not None:
            metrics.first.labels(model).observe(first_s)
        if spent != (0, 0):
            metrics.tokens.labels(model, "prompt").inc(spent[0])
            metrics.tokens.labels(model, "answer").inc(spent[1])

    def _copy(self, model: str, asked: Asked) -> None:
        """Send a copy to the shadow version: charged to nobody, answered to nobody, and few at once."""
        if len(self._shadows) >= MOST_SHADOWS:
            self._gateway.metrics.shadow.labels(self._gateway.metrics.label(model), "skipped").inc()
            return

        async def run() -> None:
            parts = self._gateway.parts
            good = await throw_away(
                parts.upstream,
                inner_scope("POST", asked.path, []),
                asked.body(model),
                parts.settings.timeouts.total_s,
            )
            result = "good" if good else "failed"
            self._gateway.metrics.shadow.labels(self._gateway.metrics.label(model), result).inc()

        task = asyncio.get_running_loop().create_task(run())
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)
        self._gateway.start(task)

    def drop_copies(self) -> None:
        """End the copies that still run: nobody waits for them, and a gateway that stops would."""
        for task in self._shadows:
            task.cancel()


def price_of(prices: Mapping[str, Price], choice: Choice) -> Price:
    """Return the price of what answers: of that version, of the name it was asked by, of the release, or the default."""
    if not prices:
        return FREE
    release = re.split("[:@]", choice.model, maxsplit=1)[0]
    names = (choice.model, choice.alias, release, "default")
    return next((prices[name] for name in names if name in prices), FREE)


def prompt_hash(value: dict[str, Any]) -> bytes:
    """Return the SHA-256 of what was asked, as canonical JSON: feedback names a prompt by it without its text."""
    asked = value.get("messages", value.get("prompt", value.get("input")))
    text = json.dumps(asked, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest().encode()


def _last_text(value: dict[str, Any]) -> str:
    """Return what the request is about: the text of its last user message, or its prompt."""
    messages = value.get("messages")
    for message in reversed(cast("list[Any]", messages) if isinstance(messages, list) else []):
        if isinstance(message, dict) and cast("dict[str, Any]", message).get("role") == "user":
            content = cast("dict[str, Any]", message).get("content")
            if isinstance(content, list):
                parts = [cast("dict[str, Any]", part) for part in cast("list[Any]", content) if isinstance(part, dict)]
                return " ".join(str(part.get("text", "")) for part in parts)
            return content if isinstance(content, str) else ""
    prompt = value.get("prompt")
    prompts = cast("list[Any]", prompt) if isinstance(prompt, list) else [prompt]
    return " ".join(text for text in prompts if isinstance(text, str))


def _too_many(refused: Refused, key: Key) -> Refusal:
    """Say which limit stands in the way, and when to come again."""
    name, limits = refused.reason.value, key.limits
    most = f"{limits.as_json().get(name, 0):,}"
    if refused.reason in (Reason.MONEY_DAY, Reason.MONEY_MONTH):
        most = f"${limits.as_json()['nano_' + name] / NANO:g}"
    left = _standing(refused.standing, key)
    if refused.retry_after_us is None:
        message = (
            f"this request alone may use more than the key's {name} ({most}): ask for fewer max_tokens or send less"
        )
        return Refusal(413, message, code="request_larger_than_limit", headers=left)
    message = f"the key's {name} ({most}) would be exceeded; come again later"
    return Refusal(
        429, message, code="insufficient_quota" if name.endswith(("_day", "_month")) else "rate_limit_exceeded",
        retry_after_s=refused.retry_after_us / SECOND, headers=left,
    )  # fmt: skip


def _standing(standing: Standing, key: Key) -> Headers:
    """Return OpenAI's rate-limit headers for the limits that the key has."""
    told: Headers = []
    for what, most, left, reset in (
        ("requests", key.limits.requests_per_minute, standing.requests_left, standing.requests_reset_us),
        ("tokens", key.limits.tokens_per_minute, standing.tokens_left, standing.tokens_reset_us),
    ):
        if most is not None:
            told += [
                (f"x-ratelimit-limit-{what}".encode(), str(most).encode()),
                (f"x-ratelimit-remaining-{what}".encode(), str(left).encode()),
                (f"x-ratelimit-reset-{what}".encode(), f"{reset / SECOND:.3f}s".encode()),
            ]
    return told
