"""What a request says, checked; errors in the shape that clients of OpenAI know."""

import json
from dataclasses import dataclass

__all__ = ["ApiError", "Wanted", "parse"]

DEFAULT_MAX_TOKENS, MAX_STOPS = 256, 4

# Fields that would change the answer and that are not offered, with the values that ask for nothing.
_NOT_OFFERED = {
    "n": (1,), "best_of": (1,), "echo": (False,), "suffix": ("",), "logprobs": (False, 0), "top_logprobs": (0,),
    "logit_bias": ({},), "frequency_penalty": (0,), "presence_penalty": (0,),
    "tools": ([],), "tool_choice": ("none",), "functions": ([],),
    "function_call": ("none",), "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (),
}
_ROLES = ("system", "developer", "user", "assistant")


class ApiError(Exception):
    """An answer of status 400 or more: ``{"error": {"message", "type", "param", "code"}}``."""

    def __init__(self, status, message, *, param=None, code=None, headers=None):
        super().__init__(message)
        self.status, self.headers = status, headers
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            status, "server_error" if status >= 500 else "invalid_request_error")
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True)
class Wanted:
    """A request.

    Members
    -------
    messages : list of {"role", "content"} or None
        The conversation of a chat.
    prompt : str, list of int or None
        Text or token ids of a completion.
    max_tokens : int
        Tokens of the answer.
    temperature, top_p, seed : float, float, int or None
        See ``Sampler``.
    stop : tuple of str
        Strings that end the answer.
    stream, include_usage : bool
        Whether the answer comes in pieces, and whether the last of them counts tokens.
    """

    messages: list | None
    prompt: str | list | None
    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple
    stream: bool
    include_usage: bool


def parse(data, *, chat, model, most_tokens):
    """:class:`Wanted` of the bytes of a body; :class:`ApiError` where it does not ask for what ``model`` (a name) offers in answers
    of up to ``most_tokens`` tokens."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body must be JSON, and is not: {error}") from None
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object")
    if body.get("model") not in (None, model):
        raise ApiError(404, f"The model must be {model!r}, the one that is loaded, not {body['model']!r}", param="model",
                       code="model_not_found")
    for name, nothing in _NOT_OFFERED.items():
        if body.get(name) is not None and body[name] not in nothing:
            raise ApiError(400, f"{name} is not offered here: leave it out", param=name, code="unsupported_parameter")
    longest = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise ApiError(400, "stream_options must be an object", param="stream_options")
    return Wanted(
        messages=_messages(body.get("messages")) if chat else None,
        prompt=None if chat else _prompt(body.get("prompt")),
        max_tokens=_number(body, longest, int, min(DEFAULT_MAX_TOKENS, most_tokens), 1, most_tokens),
        temperature=_number(body, "temperature", float, 1.0, 0, 2),
        top_p=_number(body, "top_p", float, 1.0, 1e-6, 1),
        seed=_number(body, "seed", int, None, 0, (1 << 63) - 1),
        stop=_stops(body.get("stop")),
        stream=_flag(body, "stream"),
        include_usage=_flag(options or {}, "include_usage"),
    )


def _number(body, name, kind, default, low, high):
    value = body.get(name)
    if value is None:
        return default
    right = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if not right or not low <= value <= high:
        what = "an integer" if kind is int else "a number"
        raise ApiError(400, f"{name} must be {what} of {low} to {high}, not {str(value):.40}", param=name)
    return kind(value)


def _flag(body, name):
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise ApiError(400, f"{name} must be true or false", param=name)
    return bool(value)


def _text(value, param):
    """A string that can be written as UTF-8."""
    if not isinstance(value, str):
        raise ApiError(400, f"{param} must be a text", param=param)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ApiError(400, f"{param} must be Unicode, and has half a surrogate pair", param=param) from None
    return value


def _stops(value):
    values = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(values, list) or len(values) > MAX_STOPS or not all(isinstance(each, str) and each for each in values):
        raise ApiError(400, f"stop must be a text or up to {MAX_STOPS} of them, none of them empty", param="stop")
    return tuple(values)


def _messages(value):
    if not isinstance(value, list) or not value:
        raise ApiError(400, "messages must be a list of at least one message", param="messages")
    return [_message(each, f"messages[{i}]") for i, each in enumerate(value)]


def _message(value, param):
    if not isinstance(value, dict) or value.get("role") not in _ROLES:
        raise ApiError(400, f"{param} must have a role, one of {', '.join(_ROLES)}", param=f"{param}.role")
    content = value.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise ApiError(400, f"{param} must have parts of text only", param=f"{param}.content")
        content = "".join(_text(part.get("text"), f"{param}.content") for part in content)
    return {"role": value["role"], "content": _text(content, f"{param}.content")}


def _prompt(value):
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], (str, list)):
        (value,) = value
    if isinstance(value, list) and value and all(isinstance(token, int) and not isinstance(token, bool) for token in value):
        return value
    if not isinstance(value, str) or not value:
        raise ApiError(400, "prompt must be one text, or one list of token ids, and not empty", param="prompt")
    return _text(value, "prompt")
