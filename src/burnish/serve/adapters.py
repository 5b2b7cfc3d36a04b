"""Adapters of one base by name: which are known, which are at hand, and which gives way to another.

Thousands may be known; as many as there are slots are in memory, and the one that was used longest ago makes room. A name can be
used while its adapter is read: requests bring its numbers with them. Where memory runs out before slots do, adapters that nobody
uses at the moment make room; if that is not enough, the request that wanted one more fails, and everything is as it was.
"""

from __future__ import annotations

import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from burnish.core.errors import BaseModelError, ServeError, did_you_mean
from burnish.core.ids import file_sha256
from burnish.core.units import format_bytes
from burnish.model.banked_linear import BankedModel
from burnish.model.lora import CONFIG, WEIGHTS, read_adapter
from burnish.model.lora_bank import PackedAdapter, pack
from burnish.model.memory import OutOfMemory, allocated
from burnish.serve.failures import NoMemory

CONFIG_BYTES = 1 << 20
"""An adapter_config.json may not be larger."""


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """Where an adapter lies, and the SHA-256 its files must have (None: not checked).

    digests: of adapter_model.safetensors and adapter_config.json.
    """

    folder: Path
    digests: tuple[str, str] | None = None


@dataclass(eq=False, slots=True)
class Claim:
    """A name's adapter, as those who use it hold it.

    key: of the bank, and of what is computed with it. Another one each time a name is given to an adapter, and each time one
        without digests is read, whose files may say something else by then.
    packed: its numbers while they are wanted and not in a slot.
    pending, running: requests that wait, and that run.
    """

    source: AdapterSource
    key: tuple[str, int]
    reading: threading.Lock
    packed: PackedAdapter | None = None
    pending: int = 0
    running: int = 0


class Adapters:
    """Registers, reads, places and evicts.

    `place` and `settle` belong to the thread that runs the model; the rest may be called from any.

    Args:
        banked: the model and its bank.
        slots: adapters in memory at most.
        rank_limit: the highest rank that is taken.
    """

    def __init__(self, banked: BankedModel, *, slots: int, rank_limit: int) -> None:
        self._layout, self._sizes, self._bank = banked.layout, banked.sizes, banked.bank
        self._slots, self._rank_limit = slots, rank_limit
        self._known: dict[str, Claim] = {}
        self._gone: list[Claim] = []  # taken out while requests still use it, or not yet out of its slot
        self._recent: OrderedDict[tuple[str, int], Claim] = OrderedDict()  # in slots, least recently used first
        self._outdated: list[tuple[str, int]] = []  # keys that will not be used again
        self._versions = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def names(self) -> tuple[str, ...]:
        """Names that can be asked for."""
        with self._changed:
            return tuple(self._known)

    @property
    def resident(self) -> tuple[str, ...]:
        """Names whose adapters are in slots, least recently used first."""
        with self._changed:
            return tuple(key[0] for key in self._recent)

    @property
    def bytes(self) -> int:
        """Memory of all slots."""
        return self._bank.bytes

    def add(self, name: str, source: AdapterSource, *, lazy: bool = False) -> None:
        """Make an adapter known under a name. Without `lazy` it is read and checked now, in the calling thread.

        Raises ServeError when the name is taken, BaseModelError when the adapter is damaged or does not fit.
        """
        known = Claim(source, ("", 0), threading.Lock())
        packed = None if lazy else self._read(source)
        with self._changed:
            if name in self._known:
                raise ServeError(f'an adapter is known as "{name}" already; take it out first')
            known.key = self._new_key(name)
            at_hand = len(self._recent) + sum(other.packed is not None for other in self._known.values())
            if packed is not None and at_hand < self._slots:
                known.packed = packed  # there is room: the first request need not read it again
            self._known[name] = known

    def remove(self, name: str) -> None:
        """Forget a name at once. Requests that were taken are still answered; then its memory is free. See `wait_gone`."""
        with self._changed:
            known = self._find(name)
            del self._known[name]
            self._gone.append(known)

    def wait_gone(self, seconds: float | None = None) -> bool:
        """Wait until all adapters that were taken out have left memory; returns whether they have."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or not self._gone, seconds)

    def check(self, name: str | None) -> None:
        """Raise ServeError when there is no such adapter."""
        if name is not None:
            with self._changed:
                self._find(name)

    def claim(self, name: str) -> Claim:
        """Note a request for an adapter, and read it if it is not in memory; the claim ends by `drop`.

        Raises ServeError when there is no such adapter, NoMemory when there is no memory to read it, BaseModelError when it
        cannot be read any more.
        """
        with self._changed:
            known = self._find(name)
            known.pending += 1
        ready = False
        try:
            with known.reading:  # requests for the same adapter read it once
                with self._changed:
                    at_hand = known.packed is not None or known.key in self._recent
                if not at_hand:
                    packed = self._read(known.source)
                    with self._changed:  # nobody has used the adapter since: it is placed from what is read here alone
                        if known.source.digests is None:
                            self._outdated.append(known.key)
                            known.key = self._new_key(name)
                        known.packed = packed
            ready = True
        finally:
            if not ready:
                self.drop(known, started=False)
        return known

    def drop(self, known: Claim, *, started: bool) -> None:
        """End a request's claim. `started`: it had been placed."""
        with self._changed:
            if started:
                known.running -= 1
            else:
                known.pending -= 1
            if not known.pending and not known.running:
                known.packed = None

    def place(self, known: Claim) -> bool:
        """Put a claimed adapter into a slot; returns False when every slot is in use.

        Raises NoMemory when there is none for it, though every adapter that nobody uses has made room.
        """
        with self._changed:
            if known.key not in self._recent:
                victim = None
                if len(self._recent) >= self._slots:
                    victim = next((each for each in self._recent.values() if not each.running), None)
                    if victim is None:
                        return False
                self._load(known, victim)
                known.packed = None
                self._recent[known.key] = known
            self._recent.move_to_end(known.key)
            known.pending -= 1
            known.running += 1
            return True

    def _load(self, known: Claim, victim: Claim | None) -> None:
        """Put an adapter into the bank, in place of another one or beside it; where memory runs out idle ones leave, too."""
        assert known.packed is not None, "claimed adapters are at hand"
        rank, size = known.packed.rank, known.packed.bytes

        def loss(each: Claim) -> tuple[bool, bool]:
            """One that nobody waits for leaves first, and one in whose place this one fits: then no other needs to."""
            return each.pending > 0, self._bank.place(each.key)[0] != rank

        idle = sorted((each for each in self._recent.values() if not each.running and each is not victim), key=loss)
        says = ""
        for leaving in (victim, *idle):
            try:
                self._load_once(known, leaving)
                return
            except OutOfMemory as error:
                says = str(error)
        raise NoMemory(
            f'no memory is left for the adapter "{known.key[0]}" (padded rank {rank}, {format_bytes(size)}): {says}. '
            f"{len(self._recent)} others are answering and hold {format_bytes(self._bank.bytes)}; all that were idle have made "
            "room. Ask again when they have answered; if that does not help, serve fewer adapters at once, or a smaller rank."
        )

    def _load_once(self, known: Claim, leaving: Claim | None) -> None:
        """Put an adapter into the bank after another one has left. Raises OutOfMemory."""
        assert known.packed is not None
        if leaving is not None:
            if leaving.pending:  # requests that wait for a row will need it again
                leaving.packed = self._bank.packed(leaving.key)
            del self._recent[leaving.key]
            if self._bank.place(leaving.key)[0] == known.packed.rank:
                self._bank.exchange(leaving.key, known.key, known.packed)
                return
            self._bank.unload(leaving.key)
        self._bank.load(known.key, known.packed)

    def settle(self) -> list[tuple[str, int]]:
        """Free what was taken out and is not used any more; returns the keys that will not be used again."""
        with self._changed:
            free = [known for known in self._gone if not known.pending and not known.running]
            for known in free:
                self._gone.remove(known)
                known.packed = None
                if known.key in self._recent:
                    del self._recent[known.key]
                    self._bank.unload(known.key)
            if free:
                self._changed.notify_all()
            ended, self._outdated = [*self._outdated, *(known.key for known in free)], []
            return ended

    @property
    def unsettled(self) -> bool:
        """Whether `settle` has something to free."""
        with self._changed:
            return bool(self._outdated) or any(not known.pending and not known.running for known in self._gone)

    def close(self) -> None:
        """Give the memory of all adapters back, for good. Nobody waits any longer for one to leave."""
        with self._changed:
            self._bank.clear()
            self._recent.clear()
            for known in (*self._known.values(), *self._gone):
                known.packed = None
            self._gone.clear()
            self._closed = True
            self._changed.notify_all()

    def _new_key(self, name: str) -> tuple[str, int]:
        self._versions += 1
        return name, self._versions

    def _find(self, name: str) -> Claim:
        known = self._known.get(name)
        if known is None:
            names = ", ".join(sorted(self._known)[:20]) or "none"
            raise ServeError(f'there is no adapter "{name}" here. Known: {names}.{did_you_mean(name, self._known)}')
        return known

    def _read(self, source: AdapterSource) -> PackedAdapter:
        """Raises BaseModelError, NoMemory."""

        def read() -> PackedAdapter:
            method, tensors = read_adapter(source.folder, self._sizes, rank_limit=self._rank_limit)
            return pack(self._layout, method, tensors, self._bank.dtype)

        check_files(source)
        try:
            return allocated("an adapter that is read", read)
        except OutOfMemory as error:
            says = str(error)
        raise NoMemory(f"{says}. Ask again later, or serve it on a machine with more memory.")


def check_files(source: AdapterSource) -> None:
    """Refuse an adapter whose files are links, of another kind, oversized, or not those that its digests name.

    Raises BaseModelError.
    """
    for place, name in enumerate((WEIGHTS, CONFIG)):
        path = source.folder / name
        try:
            found = path.lstat()
        except (OSError, ValueError) as error:
            raise BaseModelError(
                f"cannot read {path}: {error}. An adapter folder needs {WEIGHTS} and {CONFIG}."
            ) from error
        if not stat.S_ISREG(found.st_mode):
            raise BaseModelError(
                f"{path} is not a plain file but a link or a device; adapters are served from plain files only."
            )
        if name == CONFIG and found.st_size > CONFIG_BYTES:
            raise BaseModelError(f"{path} has {found.st_size} bytes; at most {CONFIG_BYTES} are read.")
        if source.digests is not None and file_sha256(path) != source.digests[place]:
            raise BaseModelError(
                f"{path} is not the file that was released: its SHA-256 differs. Release the adapter again."
            )
