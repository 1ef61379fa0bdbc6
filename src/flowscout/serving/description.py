"""What the OpenAPI page says of the endpoint."""

from typing import Any

DESCRIPTION = (
    "Oracles post here what they have measured. Who posts is told by the oracle's token, as `Authorization: "
    "Bearer TOKEN`, or by `X-Flowscout-Signature`: `sha256=` and the HMAC-SHA256, by the token, of "
    "`X-Flowscout-Timestamp`, a point and the body. The same answer again changes nothing."
)

ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["key"],
    "properties": {
        "key": {"type": "string", "minLength": 1, "maxLength": 64, "description": "The key of the request."},
        "value": {"type": "number", "description": "The number of the objective."},
        "values": {"type": "object", "additionalProperties": {"type": "number"}},
        "sem": {"type": ["number", "null"]},
        "n": {"type": ["integer", "null"], "minimum": 1},
        "qualifier": {"type": "string", "enum": ["=", "<", ">"]},
        "unit": {"type": ["string", "null"]},
        "as_run": {"type": ["object", "null"]},
        "cost_usd": {"type": ["number", "null"], "minimum": 0},
        "failure": {"enum": ["transient", "permanent", "infeasible", "unknown", None]},
        "message": {"type": ["string", "null"]},
    },
}

BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "anyOf": [
                    {
                        "type": "object",
                        "required": ["answers"],
                        "properties": {
                            "answers": {"type": "array", "items": ANSWER, "minItems": 1, "maxItems": 1000}
                        },
                    },
                    {"type": "array", "items": ANSWER, "minItems": 1, "maxItems": 1000},
                    ANSWER,
                ]
            },
            "example": {"answers": [{"key": "3f786850e387550fdab836ed7e6dc881de23001b", "value": -7.2}]},
        }
    },
}

WORD: dict[str, Any] = {
    "type": "object",
    "required": ["key", "status"],
    "properties": {
        "key": {"type": ["string", "null"]},
        "status": {"enum": ["recorded", "known", "conflict", "unknown_key", "refused"]},
        "message": {"type": "string"},
    },
}

_WORDS = {"type": "object", "required": ["results"], "properties": {"results": {"type": "array", "items": WORD}}}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def _said(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


ERRORS: dict[int | str, dict[str, Any]] = {
    401: _said("No token or signature of an oracle, or one of another time.", _ERROR),
    503: _said("The history cannot be reached just now; try again after `Retry-After` seconds.", _ERROR),
}

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: _said("Every answer is in the history.", _WORDS),
    207: _said("Some answers are in the history, some were refused.", _WORDS),
    400: _said("The body cannot be read.", _ERROR),
    404: _said("No answer's key names an evaluation of this oracle.", _WORDS),
    408: _said("The body did not come in time.", _ERROR),
    409: _said("The signature was used before.", _ERROR),
    413: _said("The body is too large.", _ERROR),
    422: _said("No answer can be recorded.", {"anyOf": [_WORDS, _ERROR]}),
    **ERRORS,
}

REQUESTS: dict[int | str, dict[str, Any]] = {
    200: _said(
        "What the oracle is to measure.",
        {
            "type": "object",
            "required": ["requests"],
            "properties": {
                "requests": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["key", "object", "candidate_id", "replicate", "fidelity", "campaign"],
                        "properties": {
                            "key": {"type": "string"},
                            "object": {"type": "string"},
                            "candidate_id": {"type": "integer"},
                            "replicate": {"type": "integer"},
                            "fidelity": {"type": "string"},
                            "campaign": {"type": "string"},
                        },
                    },
                }
            },
        },
    ),
    **ERRORS,
}

HEALTH: dict[int | str, dict[str, Any]] = {
    200: _said("It is there.", {"type": "object", "properties": {"status": {"const": "ok"}}})
}

SECURITY: dict[str, Any] = {
    "token": {"type": "http", "scheme": "bearer"},
    "signature": {"type": "apiKey", "in": "header", "name": "X-Flowscout-Signature"},
}
