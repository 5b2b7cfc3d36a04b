"""How a request is refused: the status and error object that OpenAI's clients expect."""

from __future__ import annotations

from pydantic import ValidationError


class ApiError(Exception):
    """A request that cannot be answered, as OpenAI's clients expect it: HTTP status and error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def first_problem(error: ValidationError) -> ApiError:
    """Say what is wrong with the first bad field of a body, without repeating what the person wrote."""
    problem = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    param = str(problem["loc"][0]) if problem["loc"] else None
    if problem["type"] == "extra_forbidden":
        return ApiError(400, f"Unrecognized request argument supplied: {where}", param=param, code="unknown_parameter")
    if problem["type"] == "missing":
        return ApiError(400, f"Missing required parameter: '{where}'.", param=param, code="missing_required_parameter")
    return ApiError(
        400,
        f"Invalid value for '{where or 'body'}': {problem['msg'].removeprefix('Value error, ')}.",
        param=param,
        code="invalid_value",
    )
