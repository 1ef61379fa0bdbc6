"""Who measures: the protocol of an oracle and those that are built in.

What is stored of a measurement belongs in `db`; when an oracle is called, in `loop.stages`.
"""

from flowscout.loop.oracles.function import raised
from flowscout.loop.oracles.protocol import (
    NOT_KNOWN,
    Calling,
    Closing,
    Hurrying,
    LookUp,
    NotKnown,
    Oracle,
    OracleInfo,
    Request,
    Result,
    oracle,
)
from flowscout.loop.oracles.registry import build_oracle, plug_ins
from flowscout.loop.oracles.table import numbers, read_table

__all__ = [
    "NOT_KNOWN",
    "Calling",
    "Closing",
    "Hurrying",
    "LookUp",
    "NotKnown",
    "Oracle",
    "OracleInfo",
    "Request",
    "Result",
    "build_oracle",
    "numbers",
    "oracle",
    "plug_ins",
    "raised",
    "read_table",
]
