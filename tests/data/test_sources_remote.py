"""URLs: S3 on a moto server of our own, and what `datasets` saved."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from burnish.core.errors import DataError
from burnish.data.sources.read import read
from burnish.data.sources.spec import SourceSpec

KEY, SECRET = "AKIAEXAMPLEKEY", "example-only-secret"
ROW = b'{"a": 1}\n'


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    program = shutil.which("moto_server", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("moto_server is not installed")
        pytest.skip("moto_server is not installed: pip install 'moto[server]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(url, timeout=2).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": server,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    put(server, "shop", b"")
    return server


def put(server: str, name: str, raw: bytes) -> None:
    """Moto asks for no signature; what is tested is reading."""
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"{server}/{name}", data=raw, method="PUT", headers=headers)
    urllib.request.urlopen(request, timeout=20).close()


def test_a_bucket_is_read_as_a_folder_a_glob_and_a_file(bucket: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [7]}), tmp_path / "t.parquet")
    put(bucket, "shop/data/b.jsonl", ROW * 2)
    put(bucket, "shop/data/a.csv.gz", gzip.compress(b"a,b\n1,2\n"))
    put(bucket, "shop/data/.hidden.jsonl", ROW)
    put(bucket, "shop/data/sub/t.parquet", (tmp_path / "t.parquet").read_bytes())
    heard: list[int] = []
    found = list(read("s3://shop/data", at=heard.append))
    assert [row.value for row in found] == [{"a": "1", "b": "2"}, {"a": 1}, {"a": 1}, {"a": 7}]
    assert [row.origin.file for row in found] == [
        "s3://shop/data/a.csv.gz", "s3://shop/data/b.jsonl", "s3://shop/data/b.jsonl", "s3://shop/data/sub/t.parquet",
    ]  # fmt: skip
    assert heard == sorted(heard)
    assert [row.value for row in read("s3://shop/data/*.jsonl")] == [{"a": 1}] * 2
    assert [row.origin.file for row in read("s3://shop/data/b.jsonl")] == ["s3://shop/data/b.jsonl"] * 2


def test_errors_show_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (
        "s3://shop/nothing/here.jsonl",
        "s3://no-such-bucket-here/a.jsonl",
        f"s3://{KEY}:{SECRET}@shop/a.jsonl",
    ):
        with pytest.raises(DataError) as caught:
            list(read(url))
        assert SECRET not in str(caught.value)
        assert KEY not in str(caught.value)
        assert caught.value.__cause__ is None


def test_other_schemes_go_through_fsspec(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(ROW)
    assert [row.value for row in read(f"file://{tmp_path}/a.jsonl")] == [{"a": 1}]
    assert [row.value for row in read(f"file://{tmp_path}")] == [{"a": 1}]
    with pytest.raises(DataError, match=r"cannot read nonsense://x/a\.jsonl"):
        read("nonsense://me:secret@x/a.jsonl")


def test_what_datasets_saved_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_dict({"q": ["a", "b"], "n": [1, 2]})
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": one.select([1])}).save_to_disk(str(tmp_path / "both"))
    assert [row.value for row in read(f"datasets:{tmp_path}/one")] == [{"q": "a", "n": 1}, {"q": "b", "n": 2}]
    assert len(list(read(f"datasets:{tmp_path}/both"))) == 3
    assert [row.value for row in read(SourceSpec(f"datasets:{tmp_path}/both", split="test", columns=("q",)))] == [
        {"q": "b"}
    ]
    with pytest.raises(DataError, match="no split 'dev'; it has train, test"):
        read(SourceSpec(f"datasets:{tmp_path}/both", split="dev"))
    with pytest.raises(DataError, match="no folder that `datasets` saved"):
        read(f"datasets:{tmp_path}")


def test_a_name_without_a_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("datasets.config")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="Without a network"):
        read("datasets:nobody/nothing")


def test_a_scheme_whose_library_is_missing_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/x\.jsonl needs aiohttp: pip install aiohttp"):
        list(read("http://127.0.0.1:9/x.jsonl"))
