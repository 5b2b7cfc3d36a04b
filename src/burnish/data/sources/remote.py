"""Files behind a URL. S3 through pyarrow, which is there already; every other scheme through fsspec.

Credentials come from the environment alone (AWS_ACCESS_KEY_ID and the like): a recipe is shared, and a URL ends up in logs.
"""

from __future__ import annotations

import importlib
import io
import os
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from burnish.core.errors import DataError
from burnish.data.sources.folders import Found
from burnish.data.sources.item import BLOCK_BYTES, Hear, Item
from burnish.data.sources.refusal import EMPTY, Refused
from burnish.data.sources.spec import scrubbed, shown

_BUCKETS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")


def remote_items(url: str, hear: Hear | None = None) -> list[Found]:
    """The files of a URL, a folder or a glob, sorted. Raises DataError, which never shows credentials."""
    scheme, _, rest = url.partition("://")
    if scheme in _BUCKETS and "@" in rest.partition("/")[0]:
        raise DataError(
            f"{shown(url)} was written with credentials; take them out and set them in the environment "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    try:
        system, path = _system(url)
        names = _names(system, path)
        found = [_found(system, name, scheme, url if name == path else None, hear) for name in names]
    except ImportError as error:
        # fsspec raises its own error with a sentence, the name of the missing package being in the one before it.
        missing = error.name or getattr(error.__cause__ or error.__context__, "name", None)
        how = f"{missing}: pip install {missing}" if missing else f"a library: {' '.join(str(error).split())}"
        raise DataError(f"{shown(url)} needs {how}") from None
    except (OSError, ValueError) as error:
        words = " ".join(scrubbed(str(error), url).split())[:300]
        raise DataError(f"cannot read {shown(url)}: {words or type(error).__name__}") from None
    if not found:
        raise DataError(
            f"{shown(url)} holds no file; check the bucket, the path and the credentials in the environment"
        )
    return sorted(found, key=lambda item: item[0])


def _system(url: str) -> tuple[Any, str]:
    scheme, _, rest = url.partition("://")
    if scheme in ("s3", "s3a"):
        arrow: Any = importlib.import_module("pyarrow.fs")
        wrapper: Any = importlib.import_module("fsspec.implementations.arrow")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        options: dict[str, Any] = {"connect_timeout": 20, "request_timeout": 60}
        if endpoint:
            options["scheme"], _, options["endpoint_override"] = endpoint.rstrip("/").rpartition("://")
            options["scheme"] = options["scheme"] or "https"
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if region:
            options["region"] = region
        return wrapper.ArrowFSWrapper(arrow.S3FileSystem(**options)), rest.rstrip("/")
    fsspec: Any = importlib.import_module("fsspec.core")
    return fsspec.url_to_fs(url)


def _names(system: Any, path: str) -> list[str]:
    if any(sign in path for sign in "*[") or ("?" in path and not path.startswith("http")):
        found = [str(name) for name in system.glob(path)]
    elif system.isdir(path) and not path.startswith("http"):
        found = [str(name) for name in system.find(path)]
    elif system.exists(path):
        return [path]
    else:
        raise FileNotFoundError("no such file")
    beyond = len(PurePosixPath(path.split("*")[0]).parts) - 1
    return [name for name in found if not any(part.startswith(".") for part in PurePosixPath(name).parts[beyond:])]


def _found(system: Any, name: str, scheme: str, url: str | None, hear: Hear | None) -> Found:
    label = shown(url) if url is not None else shown(name if "://" in name else f"{scheme}://{name}")
    facts = system.info(name)
    size = facts.get("size")
    if size == 0:
        return label, Refused(EMPTY)
    return label, Item(label, size, lambda: _open(system, name, size, hear))


def _open(system: Any, name: str, size: int | None, hear: Hear | None) -> BinaryIO:
    stream = system.open(name, "rb")
    return cast(BinaryIO, io.BufferedReader(_Heard(stream, hear), BLOCK_BYTES))


class _Heard(io.RawIOBase):
    """A remote stream that says how far it has been read."""

    def __init__(self, stream: Any, hear: Hear | None) -> None:
        super().__init__()
        self._stream, self._hear = stream, hear

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Whether the stream below is."""
        return bool(self._stream.seekable())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go anywhere."""
        self._stream.seek(offset, whence)
        return int(self._stream.tell())

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Read on."""
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        if self._hear is not None and data:
            self._hear(int(self._stream.tell()))
        return len(data)

    def close(self) -> None:
        """Close what lies below too."""
        if not self.closed:
            self._stream.close()
        super().close()
