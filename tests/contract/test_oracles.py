"""Every oracle against the one contract."""

import pytest
from http_service import serving

from flowscout.loop.oracles import Result, build_oracle, oracle
from flowscout.loop.oracles.function import RequestOracle, ScoreOracle
from flowscout.loop.oracles.protocol import MARK, OracleInfo
from flowscout.testing.oracles import OracleContract

VALUES = {"AAAA": 1.5, "ACGT": -2.0, "TTTT": 0.0}


class TestTable(OracleContract):
    @pytest.fixture
    def oracle(self, tmp_path):
        rows = [f"{text},{value}" for text, value in VALUES.items()]
        (tmp_path / "values.csv").write_text("\n".join(["object,y", *rows]))
        section = {"type": "table", "path": "values.csv", "cost_usd": 2.5}
        return build_oracle(section, folder=tmp_path, property="y")

    @pytest.fixture
    def objects(self):
        return list(VALUES)

    @pytest.fixture
    def impossible(self):
        return "GGGG"


class TestShippedTable(OracleContract):
    @pytest.fixture(scope="class")
    @classmethod
    def oracle(cls, tmp_path_factory):
        section = {"type": "table", "path": "flowscout:tfbind8_six6", "value": "score"}
        return build_oracle(section, folder=tmp_path_factory.mktemp("campaign"), property="escore")

    @pytest.fixture
    def objects(self):
        return ["AAAAAAAA", "ACGTACGT"]


class TestPlainFunction(OracleContract):
    @pytest.fixture
    def oracle(self):
        def score(objects):
            return [VALUES.get(text, float("nan")) for text in objects]

        return ScoreOracle(score, OracleInfo(name="score"), "y")

    @pytest.fixture
    def objects(self):
        return list(VALUES)

    @pytest.fixture
    def impossible(self):
        return "GGGG"


class TestMarkedFunction(OracleContract):
    @pytest.fixture
    def oracle(self):
        @oracle(cost_usd=120, idempotent=True, name="plate reader", version="3", fidelity="high")
        def assay(requests):
            return [
                Result(values={"y": VALUES[r.object]}, cost_usd=100.0)
                if r.object in VALUES
                else Result(failure="infeasible", message="it cannot be made")
                for r in requests
            ]

        return RequestOracle(assay, getattr(assay, MARK))

    @pytest.fixture
    def objects(self):
        return list(VALUES)

    @pytest.fixture
    def impossible(self):
        return "GGGG"


class TestMarkedFunctionThatMayNotBeRepeated(OracleContract):
    @pytest.fixture
    def oracle(self):
        calls = iter(range(100))

        @oracle()
        def assay(requests):
            return [Result(values={"y": float(next(calls))}) for _ in requests]

        return RequestOracle(assay, getattr(assay, MARK))

    @pytest.fixture
    def objects(self):
        return list(VALUES)


class TestService(OracleContract):
    @pytest.fixture
    def oracle(self, tmp_path):
        with serving(VALUES) as service:
            section = {"type": "http", "url": service.url, "idempotent": True, "cost_usd": 0.5}
            yield build_oracle(section, folder=tmp_path, property="y")

    @pytest.fixture
    def objects(self):
        return list(VALUES)

    @pytest.fixture
    def impossible(self):
        return "GGGG"
