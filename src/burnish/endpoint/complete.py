"""The function `complete(asks)`: from the cache, else over HTTP within the budget, several at a time, replies in order."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from burnish.core.completion import NO_BUDGET, Ask, Reply
from burnish.core.errors import BurnishError, ResourceError
from burnish.endpoint.budget import Budget, Prices
from burnish.endpoint.cache import Cache
from burnish.endpoint.client import Client, Sent

TURN_TOKENS, REQUEST_TOKENS = 16, 64
"""Set aside for what a chat template adds to a turn and to a conversation. A byte of text is a token at most."""
GIVE_UP_AFTER = 3
"""So many requests in a row that were given up as unreachable, each after all its tries, end the run."""
REFUSED_AT_FIRST = 4
"""So many prompts that are refused before any was answered are not about the prompts."""


Tell: TypeAlias = Callable[[int, int, float | None], None]


@dataclass(slots=True)
class Asked:
    """What has been asked so far."""

    requests: int = 0
    cached: int = 0
    sent: int = 0
    failed: int = 0
    troubles: dict[str, int] = field(default_factory=dict[str, int])


class Asking:
    """Asks one endpoint. Call `complete`; close it when done."""

    def __init__(
        self,
        client: Client,
        cache: Cache,
        budget: Budget,
        tell: Tell = lambda done, total, left_s: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Take what it works with.

        tell: hears how many of the asks of a call are done, and the seconds that the rest will take. say: what people should read.
        """
        self.asked = Asked()
        self._client, self._cache, self._budget, self._tell = client, cache, budget, tell
        self._say = say
        self._prices = Prices(client.model.price.prompt, client.model.price.answer)
        self._lock = threading.Lock()
        self._first = threading.Lock()
        self._added = 0
        self._lost_in_a_row = 0
        self._answered = 0

    def complete(self, asks: Sequence[Ask]) -> Iterator[Reply]:
        """Yield a reply for each ask, in order.

        Raises ResourceError or UsageError when the endpoint is not to be reached, lets nobody in, refuses every prompt, or bills
        more than the budget allows. What was answered before is in the cache.
        """
        todo: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, Reply | BaseException]] = queue.SimpleQueue()
        replies: dict[int, Reply] = {}
        for number, ask in enumerate(asks):
            found = self._cache.get(self._client.url, self._body(ask))
            if found is None:
                todo.put(number)
            else:
                replies[number] = found
        missing = len(asks) - len(replies)
        self._count(len(asks), len(replies))
        workers = [
            threading.Thread(target=self._work, args=(asks, todo, done), name=f"burnish-ask-{n}", daemon=True)
            for n in range(min(self._client.model.at_once, missing))
        ]
        for _ in workers:
            todo.put(None)
        for worker in workers:
            worker.start()
        finished = False
        began, to_ask = time.monotonic(), missing
        try:
            self._tell(len(replies), len(asks), None)
            for number in range(len(asks)):
                while number not in replies:
                    at, reply = done.get()
                    if isinstance(reply, BaseException):
                        raise reply
                    replies[at] = reply
                    missing -= 1
                    left_s = (time.monotonic() - began) / (to_ask - missing) * missing
                    self._tell(len(asks) - missing, len(asks), left_s)
                yield replies.pop(number)
            finished = True
        finally:
            if not finished:
                self._drain(todo, workers)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _drain(self, todo: queue.SimpleQueue[int | None], workers: Sequence[threading.Thread]) -> None:
        """Send nothing more, and wait for the answers that are under way: they are paid for, and go into the cache."""
        self._client.stop()
        if any(worker.is_alive() for worker in workers):
            self._say("stopping: waiting for answers that are under way and paid for; Ctrl-C again drops them")
        while not todo.empty():
            todo.get()
        for _ in workers:
            todo.put(None)
        for worker in workers:
            worker.join()

    def _count(self, requests: int, cached: int) -> None:
        self.asked.requests += requests
        self.asked.cached += cached

    def _work(
        self,
        asks: Sequence[Ask],
        todo: queue.SimpleQueue[int | None],
        done: queue.SimpleQueue[tuple[int, Reply | BaseException]],
    ) -> None:
        failed: BurnishError | None = ResourceError(
            "asking ended with an error that was not foreseen; it stands above."
        )
        try:
            while (number := todo.get()) is not None:
                done.put((number, self._one(asks[number])))
            failed = None
        except BurnishError as error:
            failed = error
        finally:  # whatever happened, nobody waits for ever
            if failed is not None:
                done.put((-1, failed))

    def _one(self, ask: Ask) -> Reply:
        """Ask until there is an answer, the tries are used up, or the budget is."""
        body = self._body(ask)
        sent = Sent(Reply(trouble="stopped"), (0, 0))
        for attempt in range(1, self._client.model.tries + 1):
            paid = self._paid_alone(ask, body) if not self._answered else self._paid(ask, body)
            if paid is None:
                return self._noted(Reply(trouble=NO_BUDGET))
            sent = paid
            if sent.reply.trouble is None:
                self._cache.put(self._client.url, body, sent.reply)
                break
            if sent.retry_s is None or attempt == self._client.model.tries:
                break
            if not self._client.wait(attempt, sent.retry_s):
                break
        self._judge_endpoint(sent)
        return self._noted(sent.reply)

    def _paid_alone(self, ask: Ask, body: dict[str, Any]) -> Sent | None:
        """Until one answer has shown how the endpoint counts, have one request under way at a time."""
        with self._first:
            if not self._answered:
                return self._paid(ask, body)
        return self._paid(ask, body)

    def _paid(self, ask: Ask, body: dict[str, Any]) -> Sent | None:
        """Set aside what the request may cost, send it, and settle what it cost; None when the budget does not allow it."""
        held = self._budget.reserve(self._most_prompt_tokens(ask), ask.max_tokens, self._prices)
        if held is None:
            return None
        try:
            sent = self._client.send(body, ask.max_tokens)
        except BurnishError:
            self._budget.settle(held, 0, 0)
            raise
        if sent.billed is None:
            self._budget.settle_unknown(held)
        else:
            self._learn(ask, sent)
            self._budget.settle(held, *sent.billed)
        if self._budget.exceeded:
            raise ResourceError(
                f"{self._client.model.endpoint} billed more tokens than it was allowed, and the budget is exceeded. It does "
                "not hold to max_tokens, or adds a long prompt of its own. Nothing more is asked."
            )
        return sent

    def _noted(self, reply: Reply) -> Reply:
        with self._lock:
            if reply.trouble is None:
                self.asked.sent += 1
            else:
                self.asked.failed += 1
                self.asked.troubles[reply.trouble] = self.asked.troubles.get(reply.trouble, 0) + 1
        return reply

    def _judge_endpoint(self, sent: Sent) -> None:
        """Raise ResourceError when it is the endpoint and not the prompt that is wrong."""
        with self._lock:
            if sent.reply.trouble is None:
                self._answered += 1
                self._lost_in_a_row = 0
                return
            refused = sent.retry_s is None and sent.reply.trouble.startswith("HTTP ")
            given_up = sent.retry_s is not None
            if refused or given_up:
                self._lost_in_a_row += 1
            most = GIVE_UP_AFTER if given_up else REFUSED_AT_FIRST
            if self._lost_in_a_row < most or (refused and self._answered):
                return
        tries = f" after {self._client.model.tries} tries each" if given_up else ""
        raise ResourceError(
            f"{self._client.model.endpoint} gave no answer to {self._lost_in_a_row} requests in a row{tries}; the last: "
            f"{sent.reply.trouble}. What was answered is kept; run the same command to go on."
        )

    def _most_prompt_tokens(self, ask: Ask) -> int:
        said = sum(len(turn.content.encode()) + TURN_TOKENS for turn in ask.turns)
        return said + REQUEST_TOKENS + self._added

    def _learn(self, ask: Ask, sent: Sent) -> None:
        """Remember how much an endpoint adds to a prompt beyond what is set aside, such as a system prompt of its own."""
        assert sent.billed is not None
        over = sent.billed[0] - self._most_prompt_tokens(ask)
        if over > 0:
            with self._lock:
                self._added += over

    def _body(self, ask: Ask) -> dict[str, Any]:
        model = self._client.model
        body: dict[str, Any] = {
            "model": model.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in ask.turns],
            model.limit_key: ask.max_tokens,
            "temperature": ask.temperature,
            "seed": ask.seed,
        }
        body |= model.request
        return {key: value for key, value in body.items() if value is not None}
