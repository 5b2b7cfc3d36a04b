"""YAML as people write it: a key stands once in a mapping, and errors name no text without a name."""

from __future__ import annotations

from typing import Any

import yaml


class KeyTwiceError(Exception):
    """A key stands twice in one mapping."""

    def __init__(self, key: str, line: int) -> None:
        super().__init__(key)
        self.key, self.line = key, line


class _OneKeyOnce(yaml.SafeLoader):
    """YAML without repeated keys: PyYAML would take the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping. Raises KeyTwiceError."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise KeyTwiceError(key.value, key.start_mark.line + 1)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """Return the value of a YAML text, tags of Python refused. Raises KeyTwiceError and yaml.YAMLError."""
    return yaml.load(text, _OneKeyOnce)


def yaml_problem(error: yaml.YAMLError) -> str:
    """What PyYAML says, without its name for a text that came from no file."""
    return " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
