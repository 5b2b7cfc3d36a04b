"""What the manifest says of the files that were read."""

from __future__ import annotations

from collections import Counter

from burnish.core.artifacts import SourceFile
from burnish.core.ids import file_sha256
from burnish.data.chunk import Counts
from burnish.data.sources.fingerprint import fingerprint
from burnish.data.sources.read import stored_files
from burnish.data.sources.spec import shown


def source_files(name: str, counts: Counts, source: str | None = None) -> tuple[SourceFile, ...]:
    """Return one entry for each local file, archives with their members; for any other source, one for it as a whole.

    source: what the recipe calls it, where it names several.
    """
    local = stored_files(name)
    formats: dict[str, Counter[str]] = {}
    for (file, form), count in counts.formats.items():
        formats.setdefault(file, Counter())[form] += count

    def told(path: str, sha256: str, size: int, *, whole: bool) -> SourceFile:
        within = [file for file in counts.lines if whole or file == path or file.startswith(f"{path}/")]
        counted = sum((formats.get(file, Counter()) for file in within), Counter[str]())
        return SourceFile(
            source=source,
            path=path,
            sha256=sha256,
            size_bytes=size,
            lines=sum(counts.lines[file] for file in within),
            formats=dict(sorted(counted.items())),
        )

    if not local:
        return (told(shown(name), fingerprint(name), 0, whole=True),)
    whole = len(local) == 1
    return tuple(
        told(name if whole else str(path), file_sha256(path), path.stat().st_size, whole=whole) for path in local
    )
