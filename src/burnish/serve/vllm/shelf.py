"""Adapters for vLLM: checked, copied to a private folder under the digest of their files, loaded when first asked for."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from burnish.core.errors import BaseModelError, ServeError, did_you_mean
from burnish.model.lora import CONFIG, WEIGHTS, read_adapter
from burnish.serve.adapters import AdapterSource, check_files


@dataclass(eq=False, slots=True)
class Shelved:
    """An adapter that can be asked for.

    label: its name in vLLM. users: requests that were taken. loaded_in: the start of vLLM that has it.
    """

    source: AdapterSource
    label: str
    folder: Path
    users: int = 0
    loaded_in: int = 0


class Shelf:
    """Registers adapters by name. May be used from several threads.

    Args:
        folder: private; gets a copy of each adapter, so that what was checked is what vLLM reads.
        sizes: (inputs, outputs) of each layer that may have an adapter.
        rank_limit: the highest rank that is taken.
    """

    def __init__(self, folder: Path, sizes: Mapping[str, tuple[int, int]], rank_limit: int) -> None:
        self._folder, self._sizes, self._rank_limit = folder, sizes, rank_limit
        self._known: dict[str, Shelved] = {}
        self._versions = 0
        self.changed = threading.Condition()

    @property
    def names(self) -> tuple[str, ...]:
        """Names that can be asked for."""
        with self.changed:
            return tuple(self._known)

    def add(self, name: str, source: AdapterSource, *, lazy: bool) -> None:
        """Make an adapter known. Without `lazy` it is checked and copied now. Raises ServeError, BaseModelError."""
        if source.digests is None:
            raise ServeError(
                f'the adapter "{name}" has no digests: vLLM is given released adapters alone, by the SHA-256 of their files.'
            )
        with self.changed:
            if name in self._known:
                raise ServeError(f'an adapter is known as "{name}" already; take it out first')
            self._versions += 1
            label = f"sha256-{source.digests[0][:32]}-{self._versions}"
            shelved = Shelved(source, label, self._folder / label)
            self._known[name] = shelved
        if not lazy:
            try:
                self.copy(shelved)
            except (ServeError, BaseModelError):
                with self.changed:
                    del self._known[name]
                raise

    def claim(self, name: str) -> Shelved:
        """Note a request for an adapter, and copy it if that was not done; ends by `drop`. Raises ServeError, BaseModelError."""
        with self.changed:
            shelved = self._known.get(name)
            if shelved is None:
                names = ", ".join(sorted(self._known)[:20]) or "none"
                raise ServeError(f'there is no adapter "{name}" here. Known: {names}.{did_you_mean(name, self._known)}')
            shelved.users += 1
        copied = False
        try:
            self.copy(shelved)
            copied = True
        finally:
            if not copied:
                self.drop(shelved)
        return shelved

    def drop(self, shelved: Shelved) -> None:
        """End a request's claim."""
        with self.changed:
            shelved.users -= 1
            self.changed.notify_all()

    def remove(self, name: str) -> Shelved:
        """Forget a name at once. Raises ServeError when there is none."""
        with self.changed:
            shelved = self._known.pop(name, None)
            if shelved is None:
                raise ServeError(
                    f'there is no adapter "{name}" here. Known: {", ".join(sorted(self._known)) or "none"}.'
                )
            return shelved

    def copy(self, shelved: Shelved) -> None:
        """Copy an adapter's files and check the copies, once. Raises BaseModelError."""
        with self.changed:
            if shelved.folder.is_dir():
                return
            check_files(shelved.source)
            fresh = shelved.folder.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(mode=0o700)
            for name in (WEIGHTS, CONFIG):
                shutil.copyfile(shelved.source.folder / name, fresh / name, follow_symlinks=False)
            check_files(AdapterSource(fresh, shelved.source.digests))
            read_adapter(fresh, self._sizes, rank_limit=self._rank_limit)
            fresh.rename(shelved.folder)

    @staticmethod
    def forget(shelved: Shelved) -> None:
        """Delete the copy."""
        shutil.rmtree(shelved.folder, ignore_errors=True)
