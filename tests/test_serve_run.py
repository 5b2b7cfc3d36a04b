"""From a trained recipe to answers over HTTP: `burnish run`, `burnish serve`, and every name that a release has."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from burnish.cli import main
from burnish.core.artifacts import Adapter, Release
from burnish.store.home import Home
from burnish.text.messages import Message
from burnish.text.render import render_prompt
from burnish.text.system import with_system
from burnish.text.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[1]
ASKED = "Where is my order 4711?"
NEW_TOKENS = 12


@pytest.fixture
def desk(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`burnish new support` on the tiny base."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BURNISH_HOME", raising=False)
    shutil.copytree(tiny_base, tmp_path / "base")
    assert main(["new", "support", "-q"]) == 0
    recipe = Path("support.yaml").read_text().replace("smollm2-135m-instruct", str(tmp_path / "base"))
    Path("support.yaml").write_text(recipe.replace("json_valid: 0.9", "json_valid: 0.0"))
    return tmp_path


def train(*changes: str) -> None:
    flags = [part for change in changes for part in ("--set", change)]
    assert main(["run", "support.yaml", "-q", "--set", "evaluate.forgetting=false", *flags]) == 0


@pytest.fixture
def served(desk: Path) -> Iterator[dict[str, Any]]:
    """`burnish serve` in the home of one release, with a route to one that is not made yet; what it said when it listened."""
    train("train.learning_rate=0.02")
    (desk / "serve.yaml").write_text("routes: {here: {champion: 'support:1'}, later: {champion: 'support:9'}}\n")
    command = [sys.executable, "-m", "burnish", "serve", "--port", "0", "--json", "--home", str(desk / ".burnish")]
    command += ["--config", str(desk / "serve.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with (desk / "told").open("w") as told:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True, env=environment)
    assert process.stdout is not None
    text = ""
    while not text.rstrip().endswith("}"):
        line = process.stdout.readline()
        assert line, "it ended at once"
        text += line
    yield json.loads(text)
    process.terminate()
    assert process.wait(30) == 0
    process.stdout.close()


def by_peft(desk: Path, release: Release | None) -> str:
    """Return the greedy answer of plain transformers and PEFT to ASKED."""
    home, tokenizer = Home(desk / ".burnish"), load_tokenizer(desk / "base")
    model: Any = AutoModelForCausalLM.from_pretrained(desk / "base", dtype=torch.float32).eval()
    turns = [Message(role="user", content=ASKED)]
    if release is not None:
        adapter = home.load(Adapter, release.adapter)
        turns = with_system(turns, adapter.fingerprint.system, datetime.date.today())
        model = PeftModel.from_pretrained(model, home.path(adapter.weights_file).parent).eval()
    ids = render_prompt(tokenizer, turns)
    answer = model.generate(
        input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
        max_new_tokens=NEW_TOKENS, eos_token_id=sorted(tokenizer.stop_ids), pad_token_id=2,
    )[0, len(ids) :].tolist()  # fmt: skip
    return tokenizer.decode([token for token in answer if token not in tokenizer.stop_ids])


def test_every_name_of_a_release_answers_as_peft_does(desk: Path, served: dict[str, Any]) -> None:
    key = Path(served["chat_key_file"]).read_text().strip()
    client = openai.OpenAI(base_url=f"{served['url']}/v1", api_key=key, max_retries=0)

    def ask(model: str) -> tuple[str, str]:
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": ASKED}], max_tokens=NEW_TOKENS
        )
        return raw.headers["x-burnish-model"], raw.parse().choices[0].message.content or ""

    home = Home(desk / ".burnish")
    (first,) = home.all(Release)
    one, base = by_peft(desk, first), by_peft(desk, None)
    assert one != base, "the adapter was trained"
    assert (ask("base"), ask("support")) == (("base", base), ("support:1", one))

    train("train.learning_rate=0.01")  # another version, made while it serves
    (second,) = [release for release in home.all(Release) if release.version == 2]
    home.save(second.model_copy(update={"alias": "challenger", "version": 3}))
    two = by_peft(desk, second)
    assert {name: ask(name) for name in ("support", "support:1", "support:2", "support@challenger")} == {
        "support": ("support:2", two), "support:1": ("support:1", one), "support:2": ("support:2", two),
        "support@challenger": ("support:3", two),
    }  # fmt: skip
    names = {card.id for card in client.models.list()}
    assert names - {"auto"} == {"base", "support", "support@challenger", "here", "later"}
    told = (desk / "told").read_text()
    assert "the route 'later' leads to 'support:9', which is not there yet" in told
    assert "'here'" not in told
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        ask("support:4")
    assert httpx.get(f"{served['url']}/health/ready").json() == {"status": "ok", "at_work": 0}
