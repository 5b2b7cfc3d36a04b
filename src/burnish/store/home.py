"""The home folder: artifacts by id, the folder of each stage's work, what is already done, and locks.

HOME/artifacts/<kind>/<id>.json     readable artifacts, checked against their id when read
HOME/work/<stage>/<key>/            what a stage writes: shards, checkpoints, answers, reports
HOME/done/<stage>/<key>.json        which artifact the same inputs gave before
HOME/locks/<stage>-<key>.lock       held while a stage works, so that two processes never write one folder
HOME/latest.json                    the newest artifact of each kind, and of all
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from burnish.core.artifacts import ARTIFACTS, Artifact, FileRef, Record
from burnish.core.errors import StoreError, UsageError
from burnish.core.ids import Id, short
from burnish.store.files import unwritable, write_json

A = TypeVar("A", bound=Artifact)
KEY_CHARACTERS = 32


class Home:
    """One home folder, safe for several processes: files appear whole, work is locked by stage and key."""

    def __init__(self, root: Path) -> None:
        """Open `root`, made if missing. Raises StoreError when it cannot be written, ResourceError on a full disk."""
        self.root = root.resolve()
        try:
            for folder in ("artifacts", "work", "done", "locks"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.root, error) from error
        if not os.access(self.root, os.W_OK):
            raise StoreError(f"cannot write {self.root}: no permission. Choose a writable place with --home.")

    def folder(self, stage: str, key: Id) -> Path:
        """Return the folder that holds this stage's work for these inputs, made if missing."""
        path = self.root / "work" / stage / key[:KEY_CHARACTERS]
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error
        return path

    def path(self, file: FileRef) -> Path:
        """Return where a referenced file lies."""
        return self.root / file.path

    def save(self, artifact: Artifact) -> Id:
        """Store an artifact under its id. Storing the same content twice changes nothing that counts for the id."""
        identifier = artifact.id
        value = {"kind": artifact.kind, "id": identifier, **artifact.model_dump(mode="json")}
        write_json(self.root / "artifacts" / artifact.kind / f"{identifier}.json", value)
        self.point_latest(artifact)
        return identifier

    def point_latest(self, artifact: Artifact) -> None:
        """Make `artifact` the one that `latest` finds, of its kind and of all."""
        with self._lock_file("latest"):
            latest = self._latest()
            latest.pop(artifact.kind, None)
            latest[artifact.kind] = artifact.id
            write_json(self.root / "latest.json", latest)

    def load(self, kind: type[A], identifier: Id) -> A:
        """Return the artifact of this kind and full id. Raises StoreError when it is missing or damaged."""
        artifact = self._read(self.root / "artifacts" / kind.kind / f"{identifier}.json")
        assert isinstance(artifact, kind)
        return artifact

    def find(self, reference: str, kind: str | None = None) -> Artifact:
        """Return the artifact that `reference` names: a full id, the beginning of one, or `latest`."""
        if reference == "latest":
            latest = self._latest()
            name = kind if kind is not None else next(reversed(latest), None)
            if name is None or name not in latest:
                raise UsageError(f"nothing has been made yet in {self.root}. Begin with: burnish run RECIPE")
            return self._read(self.root / "artifacts" / name / f"{latest[name]}.json")
        if len(reference) < 6 or not set(reference) <= set("0123456789abcdef"):
            raise UsageError(f'"{reference}" is not an id: give 6 or more of its characters (0-9, a-f), or latest.')
        folders = [kind] if kind else sorted(ARTIFACTS)
        found = [p for k in folders for p in sorted((self.root / "artifacts" / k).glob(f"{reference}*.json"))]
        if not found:
            raise UsageError(
                f'no artifact begins with "{reference}" in {self.root}. See the newest: burnish show latest'
            )
        if len(found) > 1:
            names = ", ".join(f"{p.parent.name} {short(p.stem)}" for p in found)
            raise UsageError(f'"{reference}" is the beginning of several: {names}. Give more characters.')
        return self._read(found[0])

    def all(self, kind: type[A]) -> list[A]:
        """Return every stored artifact of this kind, oldest first."""
        paths = sorted(
            (self.root / "artifacts" / kind.kind).glob("*.json"), key=lambda p: (p.stat().st_mtime_ns, p.name)
        )
        return [artifact for path in paths if isinstance(artifact := self._read(path), kind)]

    def recall(self, stage: str, key: Id, kind: type[A]) -> A | None:
        """Return what this stage made from these inputs before, or None when it did not, or its files are gone."""
        path = self._done_path(stage, key)
        if not path.exists():
            return None
        artifact = self.load(kind, _read_json(path)["id"])
        return artifact if self.is_whole(artifact) else None

    def is_whole(self, artifact: Artifact) -> bool:
        """Return whether every file that the artifact names is there with its size."""
        return all(self._has(file) for file in _files(artifact))

    def remember(self, stage: str, key: Id, artifact: Artifact) -> None:
        """Store the artifact and that these inputs gave it."""
        self.save(artifact)
        write_json(self._done_path(stage, key), {"id": artifact.id})

    @contextmanager
    def working(self, stage: str, key: Id) -> Generator[None]:
        """Hold the right to work on this stage and key. Raises StoreError when another process has it."""
        with self._lock_file(f"{stage}-{key[:KEY_CHARACTERS]}", wait=False):
            yield

    @contextmanager
    def _lock_file(self, name: str, *, wait: bool = True) -> Generator[None]:
        path = self.root / "locks" / f"{name}.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
                raise StoreError(
                    f"another burnish (process {owner}) is at work on {name.split('-')[0]} with the same inputs in {self.root}. "
                    "Wait for it, stop it, or use another --home."
                ) from error
            if not wait:
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def _done_path(self, stage: str, key: Id) -> Path:
        return self.root / "done" / stage / f"{key[:KEY_CHARACTERS]}.json"

    def _has(self, file: FileRef) -> bool:
        path = self.path(file)
        return path.is_file() and path.stat().st_size == file.size_bytes

    def _latest(self) -> dict[str, str]:
        path = self.root / "latest.json"
        return {str(k): str(v) for k, v in _read_json(path).items()} if path.exists() else {}

    def _read(self, path: Path) -> Artifact:
        value = _read_json(path)
        kind, identifier = value.pop("kind", None), value.pop("id", None)
        if kind not in ARTIFACTS:
            raise StoreError(f"{path} is not an artifact: kind is {kind!r}. Known: {', '.join(ARTIFACTS)}.")
        try:
            artifact = ARTIFACTS[kind].model_validate(value)
        except ValidationError as error:
            raise StoreError(
                f"{path} is damaged or from another version: {error.errors()[0]['msg']}. Move it away."
            ) from error
        if artifact.id != identifier or path.stem != identifier:
            raise StoreError(
                f"{path} does not match its id (content gives {short(artifact.id)}). It was changed by hand; move it away."
            )
        return artifact


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing. Run the recipe again to make it.") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}. Move it away and run the recipe again.") from error
    if not isinstance(value, dict):
        raise StoreError(
            f"{path} holds {type(value).__name__}, not a JSON object. Move it away and run the recipe again."
        )
    return cast("dict[str, Any]", value)


def _files(record: Record) -> Iterator[FileRef]:
    for name in type(record).model_fields:
        yield from _files_in(getattr(record, name))


def _files_in(value: Any) -> Iterator[FileRef]:
    if isinstance(value, FileRef):
        yield value
    elif isinstance(value, Record):
        yield from _files(value)
    elif isinstance(value, dict):
        for item in cast("dict[str, Any]", value).values():
            yield from _files_in(item)
    elif isinstance(value, (list, tuple)):
        for item in cast("Sequence[Any]", value):
            yield from _files_in(item)
