"""A body that does not fit becomes a refusal that names the field."""

from __future__ import annotations

from pydantic import ValidationError

from burnish.core.refusal import Refusal


def first_problem(error: ValidationError) -> Refusal:
    """Say what is wrong with the first bad field of a body, without repeating what the person wrote."""
    problem = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    param = str(problem["loc"][0]) if problem["loc"] else None
    if problem["type"] == "extra_forbidden":
        return Refusal(400, f"Unrecognized request argument supplied: {where}", param=param, code="unknown_parameter")
    if problem["type"] == "missing":
        return Refusal(400, f"Missing required parameter: '{where}'.", param=param, code="missing_required_parameter")
    return Refusal(
        400,
        f"Invalid value for '{where or 'body'}': {problem['msg'].removeprefix('Value error, ')}.",
        param=param,
        code="invalid_value",
    )
