"""Who measures: the protocol of an oracle and those that are built in.

What is stored of a measurement belongs in `db`; when an oracle is called, in `loop.stages`.
"""

from flowscout.loop.oracles.function import function_oracle
from flowscout.loop.oracles.lab import LabOracle
from flowscout.loop.oracles.protocol import Oracle, OracleInfo, Request, Result, oracle
from flowscout.loop.oracles.table import numbers, read_table, table_oracle, table_path

__all__ = [
    "LabOracle",
    "Oracle",
    "OracleInfo",
    "Request",
    "Result",
    "function_oracle",
    "numbers",
    "oracle",
    "read_table",
    "table_oracle",
    "table_path",
]
