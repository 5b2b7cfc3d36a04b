"""A template that rewrites earlier turns gives a row several renderings: one for each answer, all of them accounted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from preparing import Prepare

from burnish.data.rows import read_token_rows, tokens_path
from burnish.text.render import render_answers
from burnish.text.tokenizer import Tokenizer, load_tokenizer

# Like Qwen 3: only the last answer keeps its thinking.
FORGETS = (
    "{% for message in messages %}{% set content = message['content'] %}"
    "{% if message['role'] == 'assistant' and not loop.last %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def forgets(tokenizer: Tokenizer, tmp_path: Path) -> Tokenizer:
    folder = shutil.copytree(tokenizer.folder, tmp_path / "forgets")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": FORGETS}))
    return load_tokenizer(folder)


def talk(number: int, answers: int, **more: str) -> dict[str, object]:
    turns = [
        {"role": role, "content": text}
        for n in range(answers)
        for role, text in (
            ("user", f"ask w{number}x{n} and v{number}y{n}"),
            ("assistant", f"<think>why {n}</think>so {number} {n}"),
        )
    ]
    return {"messages": turns, **more}


def test_each_answer_of_a_rewritten_conversation_is_trained_once_under_an_id_of_its_own(
    run_prepare: Prepare, forgets: Tokenizer
) -> None:
    rows = [talk(1, 3, split="train"), talk(2, 1, split="train"), talk(3, 2, split="test")]
    done = run_prepare(rows, tokenizer=forgets)
    first, second = done.rows("train")
    tokens = read_token_rows(tokens_path(done.folder, "train"))
    assert [each.row_id for each in tokens] == [f"{first.row_id}#1", f"{first.row_id}#2", first.row_id, second.row_id]
    rendered = [each for row in (first, second) for each in render_answers(forgets, row.messages)]
    assert [(list(t.ids), list(t.mask), t.prompt) for t in tokens] == [(r.ids, r.mask, r.prompt) for r in rendered]
    trained = [forgets.decode([i for i, m in zip(t.ids, t.mask, strict=True) if m]) for t in tokens]
    assert trained == [f"<think>why {n}</think>so 1 {n}" for n in range(3)] + ["<think>why 0</think>so 2 0"]
    split = done.manifest.splits["train"]
    assert (split.rows, split.tokens) == (2, sum(len(t.ids) for t in tokens))
    assert split.trained_tokens == sum(sum(t.mask) for t in tokens)
    assert done.manifest.account.total.trained == split.trained_tokens + done.manifest.splits["test"].trained_tokens
