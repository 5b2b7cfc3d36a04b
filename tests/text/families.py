"""Families of base models: a small tokenizer with the family's special tokens, and its chat template."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentences import LINES, LLAMA3_WORDS
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from burnish.text.messages import Message

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Family:
    """bos is None where the family has none. `trl` names the stock template and `tagged` the one with generation tags."""

    name: str
    special: tuple[str, ...]
    eos: str
    bos: str | None = None
    plain: tuple[str, ...] = ()
    trl: str = ""
    tagged: str = ""
    system: bool = True
    tools: bool = False

    @property
    def template(self) -> str:
        return (HERE / "templates" / f"{self.name}.jinja").read_text(encoding="utf-8").rstrip("\n")


LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
MISTRAL = ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")
RESULTS = ("[TOOL_RESULTS]", "[/TOOL_RESULTS]")
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PHI3 = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
QWEN_PLAIN = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
FAMILIES = {
    family.name: family
    for family in (
        Family("chatml", CHATML_TOKENS, "<|im_end|>"),
        Family("llama-2", ("<s>", "</s>"), "</s>", "<s>"),
        Family("llama-3", LLAMA3, "<|eot_id|>", "<|begin_of_text|>", trl="llama3", tagged="llama3_training"),
        Family("mistral", MISTRAL, "</s>", "<s>", system=False),
        Family("mistral-late-system", MISTRAL + RESULTS, "</s>", "<s>", tools=True),
        Family("mistral-small", (*MISTRAL, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), "</s>", "<s>"),
        Family(
            "gemma",
            ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
            "<eos>",
            "<bos>",
            trl="gemma",
            tagged="gemma_training",
            system=False,
        ),
        Family(
            "qwen3", CHATML_TOKENS, "<|im_end|>", plain=QWEN_PLAIN, trl="qwen3", tagged="qwen3_training", tools=True
        ),
        Family("phi-3", PHI3, "<|endoftext|>", trl="phi3", tagged="phi3_training"),
        Family("phi-4", ("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>"), "<|im_end|>"),
    )
}


def turn(role: str, content: str, **more: Any) -> Message:
    """A message, with any further keys."""
    return {"role": role, "content": content, **more}  # type: ignore[typeddict-item,return-value]


ONE = [turn("user", "Find me flights."), turn("assistant", "Where to?")]
TWO = [*ONE, turn("user", " London é 🛫\n"), turn("assistant", "New York")]
SYSTEM = [turn("system", "Today is Tuesday."), *TWO]
THINKS = [
    turn("user", "Find"),
    turn("assistant", "<think>\nTo London.\n</think>\n\nLondon"),
    turn("user", "And?"),
    turn("assistant", "<think>\nMore.\n</think>\n\nNew York"),
]
CALL = {"id": "c1", "type": "function", "function": {"name": "search_flights", "arguments": '{"origin":"NYC"}'}}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "search_flights", "parameters": {"type": "object", "properties": {"origin": {}}}},
    }
]
CALLS = [
    turn("system", "Today is Tuesday."),
    turn("user", "Find me flights."),
    turn("assistant", "", tool_calls=[CALL]),
    turn("tool", '{"price": 800}', tool_call_id="c1", name="search_flights"),
    turn("assistant", "800 dollars."),
]
CONVERSATIONS: dict[str, list[Message]] = {"one turn": ONE, "two turns": TWO, "system": SYSTEM}


def conversations(family: Family) -> dict[str, tuple[list[Message], list[dict[str, Any]]]]:
    """The conversations a family's template can render, with their tools."""
    found = {name: (said, []) for name, said in CONVERSATIONS.items() if family.system or name != "system"}
    if family.tools:
        found["tool call"] = (CALLS, TOOLS)
    if family.name == "qwen3":
        found["thinking"] = (THINKS, [])
    return found


def write_folder(folder: Path, family: Family, *, adds_bos: bool = False, template: str | None = None) -> Path:
    """Write a tokenizer folder as the family's base models ship one. `adds_bos`: its post-processor writes BOS too."""
    backend = Backend(models.BPE())
    words = pre_tokenizers.Split(Regex(LLAMA3_WORDS), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=520,
        special_tokens=list(family.special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(LINES * 4, trainer)
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in family.plain])
    if adds_bos and family.bos is not None:
        number = backend.token_to_id(family.bos)
        assert number is not None
        backend.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", pair=f"{family.bos} $A {family.bos} $B", special_tokens=[(family.bos, number)]
        )
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {"eos_token": family.eos, "tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {"bos_token": family.bos} if family.bos else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template or family.template, encoding="utf-8")
    return folder
