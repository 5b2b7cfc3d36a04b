"""Tool calls and tool schemas, in the spellings that OpenAI, transformers and LLaMA-Factory use.

Canonical are OpenAI's: a call is {type, function: {name, arguments}} with an id where there is one, its arguments a JSON
object as text; a tool is {type, function: {name, description, parameters}}.
"""

from __future__ import annotations

import json
import re
from typing import Any, cast

from burnish.data.formats.refusal import RowRefused, check_depth, listed, short, type_name
from burnish.text.messages import FunctionCall, ToolCall

Form = dict[str, Any]
"""How one thing was spelled, where that is not the usual way."""


def read_calls(value: Any) -> tuple[list[ToolCall], list[Form]]:
    """Read `tool_calls`. Raises RowRefused."""
    if not isinstance(value, list):
        raise RowRefused("wrong type", f"tool_calls is {type_name(value)}, not a list")
    pairs = [_read_call(item) for item in cast(list[Any], value)]
    return [call for call, _ in pairs], [form for _, form in pairs]


def write_calls(calls: list[ToolCall], forms: list[Form]) -> list[dict[str, Any]]:
    """Return the calls as they were spelled; `forms` may be empty for the usual spelling."""
    return [_write_call(call, forms[index] if index < len(forms) else {}) for index, call in enumerate(calls)]


def _read_call(item: Any) -> tuple[ToolCall, Form]:
    if not isinstance(item, dict):
        raise RowRefused("wrong type", f"a tool call is {type_name(item)}, not an object")
    rest = dict(cast(dict[str, Any], item))
    form: Form = {}
    if "function" in rest:
        inner = rest.pop("function")
        if not isinstance(inner, dict):
            raise RowRefused("wrong type", f"function of a tool call is {type_name(inner)}, not an object")
        function = dict(cast(dict[str, Any], inner))
    else:
        form["bare"] = True
        function = {key: rest.pop(key) for key in ("name", "arguments") if key in rest}
    kind = rest.pop("type", None)
    if kind is None:
        form["type"] = "null" if "type" in item else "absent"
    elif kind != "function":
        raise RowRefused("unknown kind of tool call", short(kind))
    call_id = rest.pop("id", None)
    if call_id is None and "id" in item:
        form["id"] = "null"
    call = ToolCall(type="function", function=_read_function(function, form))
    if call_id is not None:
        if not isinstance(call_id, str):
            raise RowRefused("wrong type", f"id of a tool call is {type_name(call_id)}, not text")
        call["id"] = call_id
    if "index" in rest and type(rest["index"]) is int:  # streams number their calls
        form["index"] = rest.pop("index")
    _keep_empty(rest, form, "tool call")
    return call, form


def _read_function(function: dict[str, Any], form: Form) -> FunctionCall:
    for key in ("name", "arguments"):
        if key not in function:
            raise RowRefused("tool call without name or arguments", f"{key} is missing")
    name, arguments = function.pop("name"), function.pop("arguments")
    if function:
        raise RowRefused("tool call with more than name and arguments", listed(function))
    if not isinstance(name, str) or not name:
        raise RowRefused("wrong type", "name of a tool call is " + ("empty" if name == "" else type_name(name)))
    if isinstance(arguments, dict):
        form["object"] = True
        return FunctionCall(name=name, arguments=to_json(arguments))
    if not isinstance(arguments, str):
        raise RowRefused("wrong type", f"arguments of a tool call is {type_name(arguments)}, not a JSON object as text")
    value = parse_json(arguments, "tool call that is not JSON", f"arguments of {short(name)}")
    if not isinstance(value, dict):
        raise RowRefused(
            "tool call that is not JSON", f"arguments of {short(name)} are {type_name(value)}, not an object"
        )
    return FunctionCall(name=name, arguments=arguments)


def _write_call(call: ToolCall, form: Form) -> dict[str, Any]:
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    function = {"name": name, "arguments": json.loads(arguments) if form.get("object") else arguments}
    value: dict[str, Any] = dict(form.get("empty", {}))
    value |= function if form.get("bare") else {"function": function}
    if form.get("type") != "absent":
        value["type"] = None if form.get("type") == "null" else "function"
    if "id" in call or form.get("id") == "null":
        value["id"] = call.get("id")
    if "index" in form:
        value["index"] = form["index"]
    return value


def read_spoken_calls(text: str) -> list[ToolCall]:
    """Read the text of a ShareGPT `function_call` turn: one call {name, arguments} as JSON, or a list of them."""
    value = parse_json(text, "tool call that is not JSON", "the turn")
    calls, _ = read_calls(value if isinstance(value, list) else [value])
    if not calls:
        raise RowRefused("tool call that is not JSON", "the list of calls is empty")
    return calls


def write_spoken_calls(calls: list[ToolCall]) -> str:
    """Return calls as the text of a `function_call` turn."""
    spoken = [
        {"name": call["function"]["name"], "arguments": json.loads(call["function"]["arguments"])} for call in calls
    ]
    return to_json(spoken[0] if len(spoken) == 1 else spoken)


def read_tools(value: Any, key: str) -> tuple[tuple[dict[str, Any], ...], Form]:
    """Read tool schemas: a list, or a list as JSON text. Raises RowRefused."""
    form: Form = {"key": key}
    if isinstance(value, str):
        form |= {"text": True, "raw": value}
        value = parse_json(value, "tools that are not JSON", key) if value.strip() else []
    if not isinstance(value, list):
        raise RowRefused("wrong type", f"{key} is {type_name(value)}, not a list")
    check_depth(value)
    tools: list[dict[str, Any]] = []
    bare: list[bool] = []
    for item in cast(list[Any], value):
        if not isinstance(item, dict):
            raise RowRefused("wrong type", f"a tool is {type_name(item)}, not an object")
        tool = cast(dict[str, Any], item)
        bare.append("function" not in tool)
        inner = tool if bare[-1] else tool["function"]
        if not isinstance(inner, dict) or not isinstance(cast(dict[str, Any], inner).get("name"), str):
            raise RowRefused("tool without a name", listed(tool))
        tools.append({"type": "function", "function": tool} if bare[-1] else tool)
    if any(bare):
        form["bare"] = tuple(bare)
    return tuple(tools), form


def write_tools(tools: tuple[dict[str, Any], ...], form: Form) -> Any:
    """Return tool schemas as they were spelled: as a list, or as JSON text."""
    if "raw" in form:
        return form["raw"]
    bare: tuple[bool, ...] = form.get("bare", ())
    listed_tools = [tool["function"] if index < len(bare) and bare[index] else tool for index, tool in enumerate(tools)]
    return to_json(listed_tools) if form.get("text") else listed_tools


_HALF = re.compile(r"\\[uU][dD][89a-fA-F]")


def parse_json(text: str, reason: str, where: str) -> Any:
    """Return the JSON value in a text. Raises RowRefused with `reason`; a key given twice would hide one of them."""
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise RowRefused(reason, f"{where}: {error.msg.removesuffix(' at')} at character {error.pos}") from error
    except (ValueError, RecursionError) as error:
        raise RowRefused(reason, f"{where}: {short(error)}") from error
    check_depth(value)
    if _HALF.search(text):  # an escape that may be half of a character, which no tokenizer and no file can hold
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise RowRefused("half a surrogate pair", where) from error
    return value


def to_json(value: Any) -> str:
    """Return a value as JSON text. Raises RowRefused for what JSON has no word for (a date of a table, NaN)."""
    check_depth(value)
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RowRefused("wrong type", short(error)) from error


def _keep_empty(rest: dict[str, Any], form: Form, what: str) -> None:
    """Keys that hold nothing (tables fill what a row lacks with null) are set aside; others must not be dropped."""
    full = [key for key, item in rest.items() if not is_empty(item)]
    if full:
        raise RowRefused(f"{what} with more than burnish knows", listed(full))
    if rest:
        form["empty"] = rest


def is_empty(value: Any) -> bool:
    """Return whether a value says nothing: null, or a text, list or object of nothing."""
    return value is None or value in ("", [], {})


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_no_twins)
