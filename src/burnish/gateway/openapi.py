"""The gateway's OpenAPI document. What models understand beyond this is for the engine behind it to say."""

from __future__ import annotations

from typing import Any

from burnish import __version__
from burnish.gateway.admin import KeyChange, KeyWanted, Rotation
from burnish.gateway.feedback import Page, Said
from burnish.gateway.settings import NAME_IN_PATH, Route

REFUSALS = {
    "400": "Not JSON, or a key in the URL", "401": "No valid key", "403": "The key may not ask this", "404": "Not there",
    "405": "Another method", "408": "The body was too slow", "413": "Larger than a cap or a limit", "422": "A wrong value",
    "429": "A limit is met; Retry-After says when to come again", "431": "The headers are too large",
    "503": "Busy, stopping, or the engine failed; Retry-After says when to come again",
}  # fmt: skip
ERROR = {
    "type": "object", "required": ["error"],
    "properties": {"error": {
        "type": "object", "required": ["message", "type", "param", "code"],
        "properties": {
            "message": {"type": "string"}, "type": {"type": "string"},
            "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]},
        },
    }},
}  # fmt: skip
MESSAGE = {
    "type": "object", "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "user", "assistant"]}, "content": {"type": "string", "maxLength": 2000},
    },
}  # fmt: skip
SAMPLING = {
    "model": {"type": "string", "minLength": 1, "maxLength": 200},
    "max_tokens": {"type": "integer", "minimum": 1, "maximum": 64},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "stream": {"type": "boolean"},
}  # fmt: skip


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _answers(status: str, what: str) -> dict[str, Any]:
    refusals = {
        code: {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
        for code, text in REFUSALS.items()
    }
    return {status: {"description": what}, **refusals}


def _operation(
    name: str,
    what: str,
    *,
    body: Any = None,
    status: str = "200",
    open_: bool = False,
    place: str = "",
    query: Any = None,
) -> Any:
    operation: dict[str, Any] = {"operationId": name, "summary": what, "responses": _answers(status, what)}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if place:
        schema = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": NAME_IN_PATH}
        operation["parameters"] = [{"name": place, "in": "path", "required": True, "schema": schema}]
    if query is not None:
        fields = _schema(query)["properties"]
        operation["parameters"] = [{"name": field, "in": "query", "schema": schema} for field, schema in fields.items()]
    if open_:
        operation["security"] = []
    return operation


def _schema(model: Any) -> Any:
    return model.model_json_schema(ref_template="#/components/schemas/{model}")


def _document() -> dict[str, Any]:
    schemas: dict[str, Any] = {"Error": ERROR}
    for model in (KeyWanted, KeyChange, Rotation, Said, Route):
        schema = _schema(model)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    ref = {name: {"$ref": f"#/components/schemas/{name}"} for name in schemas}
    chat = _object(
        ["model", "messages"], messages={"type": "array", "minItems": 1, "maxItems": 8, "items": MESSAGE}, **SAMPLING
    )
    complete = _object(["model", "prompt"], prompt={"type": "string", "maxLength": 2000}, **SAMPLING)
    embed = _object(["model", "input"], model=SAMPLING["model"], input={"type": "string", "maxLength": 2000})
    return {
        "openapi": "3.1.0",
        "info": {"title": "burnish gateway", "version": __version__},
        "security": [{"key": []}],
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}, "schemas": schemas},
        "paths": {
            "/v1/models": {"get": _operation("models", "Models that the key may ask")},
            "/v1/models/{model}": {"get": _operation("model", "One of them", place="model")},
            "/v1/chat/completions": {"post": _operation("chat", "An answer to a conversation", body=chat)},
            "/v1/completions": {"post": _operation("complete", "A text goes on", body=complete)},
            "/v1/embeddings": {"post": _operation("embed", "Texts as vectors", body=embed)},
            "/feedback": {
                "post": _operation("feedback", "A vote, a thumb, a correction", body=ref["Said"], status="201")
            },
            "/health/live": {"get": _operation("live", "The process answers", open_=True)},
            "/health/ready": {"get": _operation("ready", "Engine and storage answer", open_=True)},
            "/metrics": {"get": _operation("metrics", "Counters for Prometheus")},
            "/admin/keys": {
                "get": _operation("list_keys", "Keys, without their text"),
                "post": _operation("create_key", "A key; its text is shown once", body=ref["KeyWanted"], status="201"),
            },
            "/admin/keys/{id}": {
                "get": _operation("show_key", "A key and its use", place="id"),
                "post": _operation("limit_key", "Changes of limits and models", body=ref["KeyChange"], place="id"),
                "delete": _operation("revoke_key", "Refused from now on", place="id"),
            },
            "/admin/keys/{id}/rotate": {
                "post": _operation(
                    "rotate_key", "A key in place of one", body=ref["Rotation"], status="201", place="id"
                )
            },
            "/admin/routes": {"get": _operation("routes", "Routes, and what is out of their traffic")},
            "/admin/routes/{alias}": {
                "post": _operation("set_route", "Where an alias leads", body=ref["Route"], place="alias"),
                "delete": _operation("drop_route", "No route", place="alias"),
            },
            "/admin/audit": {"get": _operation("audit", "The newest 200 rows")},
            "/admin/feedback": {"get": _operation("all_feedback", "The newest 500, or what came before", query=Page)},
        },
    }


OPENAPI = _document()
