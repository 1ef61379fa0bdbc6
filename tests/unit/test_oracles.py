"""What is special to each oracle: its errors, and where it finds what it names."""

import subprocess
import sys
from textwrap import dedent

import pytest

from flowscout.errors import LabelError, OracleError, OracleImportError
from flowscout.loop.oracles import Request, Result, build_oracle
from flowscout.testing.oracles import requests_for


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A campaign's folder; what importing from it leaves in this process is undone."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def table(folder, text, **section):
    (folder / "values.csv").write_text(dedent(text))
    return build_oracle({"type": "table", "path": "values.csv", **section}, folder=folder, property="y")


def function(folder, body, name, *, of="score"):
    (folder / f"{name}.py").write_text(dedent(body))
    section = {"type": "callable", "function": f"{name}:{of}", "cost_usd": None}
    return build_oracle(section, folder=folder, property="y")


def test_table_takes_the_column_named_like_the_objective(folder):
    found = table(folder, "name,other,y\nAC,1,2\n")
    assert found(requests_for(["AC"])) == [Result(values={"y": 2.0})]


def test_table_takes_the_columns_that_the_file_names(folder):
    found = table(folder, "other,name,y\n1,AC,2\n", object="name", value="other")
    assert found(requests_for(["AC"])) == [Result(values={"y": 1.0})]


def test_object_that_is_missing_from_the_table_fails_for_good(folder):
    (result,) = table(folder, "object,y\nAC,1\n")(requests_for(["GG"]))
    assert (result.failure, result.values) == ("permanent", {})
    assert "'GG' is not in the table 'values.csv'" in result.message


@pytest.mark.parametrize("cell", ["nan", "NaN", "", "inf", "-inf", "high", "1,5", "<3"])
def test_table_with_a_cell_that_is_no_finite_number_is_refused_with_its_row(folder, cell):
    with pytest.raises(LabelError, match=r"'values.csv', row 2: y is .*, expected a finite number"):
        table(folder, f'object,y\nAC,1\nGT,"{cell}"\n')


@pytest.mark.parametrize(
    ("text", "section", "message"),
    [
        ("object,y\nAC,1\nAC,1\n", {}, "'AC' more than once"),
        ("object,y\nAC,1\n", {"value": "z"}, "no column 'z'; it has object, y"),
        ("object,y\nAC,1\n", {"object": "seq"}, "no column 'seq'; it has object, y"),
        ("object\nAC\n", {}, "has one column, expected two or more"),
        ("object,y\n", {}, "no rows below its header"),
        ("", {}, "cannot be read"),
        ("object,y\nAC,1\nGT,1,2,3\n", {}, "cannot be read"),
    ],
)
def test_table_that_cannot_be_used_is_refused(folder, text, section, message):
    with pytest.raises(LabelError, match=message):
        table(folder, text, **section)


def test_table_that_is_not_there_is_refused_with_those_that_are_shipped(folder):
    with pytest.raises(LabelError, match=r"no table at .*Shipped with Flowscout: .*flowscout:tfbind8_six6"):
        build_oracle({"type": "table", "path": "flowscout:six7"}, folder=folder, property="y")


def test_table_that_is_no_text_is_refused(folder):
    (folder / "values.csv").write_bytes(b"object,y\n\xff\xfe,1\n")
    with pytest.raises(LabelError, match="UTF-8"):
        build_oracle({"type": "table", "path": "values.csv"}, folder=folder, property="y")


def test_table_that_only_looks_gzipped_is_refused(folder):
    (folder / "values.csv.gz").write_text("object,y\nAC,1\n")
    with pytest.raises(LabelError, match="cannot be read"):
        build_oracle({"type": "table", "path": "values.csv.gz"}, folder=folder, property="y")


@pytest.mark.parametrize("name", ["assay", "assay:", ":score", ""])
def test_name_without_module_or_function_is_refused(folder, name):
    with pytest.raises(OracleImportError, match="not of the form module:function"):
        build_oracle({"type": "callable", "function": name}, folder=folder, property="y")


def test_module_that_is_not_there_is_refused_with_where_it_was_looked_for(folder):
    with pytest.raises(OracleImportError, match=r"no_such_assay.*cannot be imported.*no_such_assay\.py stands"):
        build_oracle({"type": "callable", "function": "no_such_assay:score"}, folder=folder, property="y")


def test_function_that_is_not_there_is_answered_with_those_that_are(folder):
    with pytest.raises(OracleImportError, match="no function 'scor'; it has score"):
        function(folder, "def score(objects): return objects\nlimit = 3\n", "assay_a", of="scor")


def test_name_that_is_no_function_is_refused(folder):
    with pytest.raises(OracleImportError, match="no function 'score'; it has none"):
        function(folder, "score = 3\n", "assay_b")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def score(objects) return []\n", "SyntaxError"),
        ("import no_such_module_of_theirs\n", "ModuleNotFoundError: No module named 'no_such_module_of_theirs'"),
        ("raise RuntimeError('no licence')\n", "RuntimeError: no licence"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    ],
)
def test_module_that_fails_to_import_is_refused_with_its_reason(folder, body, message):
    with pytest.raises(OracleImportError, match=message) as caught:
        function(folder, body, f"assay_{abs(hash(body))}")
    assert "\n" not in str(caught.value)


def test_campaigns_of_one_process_each_have_their_own_module_of_the_same_name(folder):
    section = {"type": "callable", "function": "theirs:score"}
    for name, value in (("a", 1.0), ("b", 2.0)):
        (folder / name).mkdir()
        (folder / name / "theirs.py").write_text("import helper\ndef score(objects): return [helper.VALUE]\n")
        (folder / name / "helper.py").write_text(f"VALUE = {value}\n")
    found = [build_oracle(section, folder=folder / name, property="y") for name in ("a", "b", "a")]
    assert [oracle(requests_for(["AC"]))[0].values["y"] for oracle in found] == [1.0, 2.0, 1.0]


def test_module_is_imported_once_for_a_folder(folder):
    body = "import time\nLOADED = time.perf_counter()\ndef score(objects): return [LOADED for _ in objects]\n"
    first = function(folder, body, "assay_once")
    section = {"type": "callable", "function": "assay_once:score"}
    again = build_oracle(section, folder=folder, property="y")
    assert first(requests_for(["AC"])) == again(requests_for(["AC"]))


def test_unknown_type_is_answered_with_the_known_ones(folder):
    with pytest.raises(OracleImportError, match="not known, expected one of callable, http, lab, process, table"):
        build_oracle({"type": "magic"}, folder=folder, property="y")


def test_price_in_the_campaign_file_overrides_the_declared_one(folder):
    body = """\
        from flowscout import oracle

        @oracle(cost_usd=5, name="dear")
        def score(requests):
            return []
        """
    assert function(folder, body, "assay_c").info.cost_usd == 5.0
    section = {"type": "callable", "function": "assay_c:score", "cost_usd": 0.0}
    info = build_oracle(section, folder=folder, property="y").info
    assert (info.name, info.cost_usd, info.idempotent) == ("dear", 0.0, False)


@pytest.mark.parametrize("values", ["[1.0]", "[1.0, 2.0, 3.0]", "[]"])
def test_function_that_returns_another_number_of_values_breaks_its_contract(folder, values):
    found = function(folder, f"def score(objects): return {values}\n", f"assay_n{len(values)}")
    with pytest.raises(OracleError, match="values for 2 objects, expected one for each"):
        found(requests_for(["AC", "GT"]))


@pytest.mark.parametrize("returned", ["None", "3.0", "{'AC': 1.0, 'GT': 2.0}", "'12'"])
def test_function_that_returns_no_list_breaks_its_contract(folder, returned):
    found = function(folder, f"def score(objects): return {returned}\n", f"assay_l{abs(hash(returned))}")
    with pytest.raises(OracleError, match=r"expected (one for each|a list)"):
        found(requests_for(["AC", "GT"]))


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "None", "'high'", "[1.0]"])
def test_value_that_is_no_finite_number_is_a_failure_and_never_a_number(folder, value):
    found = function(folder, f"def score(objects): return [1.0, {value}]\n", f"assay_v{abs(hash(value))}")
    good, bad = found(requests_for(["AC", "GT"]))
    assert good == Result(values={"y": 1.0})
    assert (bad.failure, bad.values) == ("permanent", {})
    assert "for 'GT', expected a finite number" in bad.message


def test_numbers_of_other_libraries_are_numbers(folder):
    body = "import numpy as np\ndef score(objects): return np.arange(len(objects), dtype=np.float32)\n"
    results = function(folder, body, "assay_d")(requests_for(["AC", "GT"]))
    assert [result.values for result in results] == [{"y": 0.0}, {"y": 1.0}]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[1.0 for _ in requests]", "returned a float for 2 requests"),
        ("[Result(values={'y': 1.0})]", "returned 1 results for 2 requests"),
        ("None", "returned a NoneType, expected a list"),
    ],
)
def test_marked_function_that_returns_anything_but_results_breaks_its_contract(folder, returned, message):
    body = f"""\
        from flowscout import Result, oracle

        @oracle(idempotent=True)
        def score(requests):
            return {returned}
        """
    found = function(folder, body, f"assay_m{abs(hash(returned))}")
    with pytest.raises(OracleError, match=message):
        found(requests_for(["AC", "GT"]))


def test_laboratory_is_never_called(tmp_path):
    lab = build_oracle({"type": "lab", "name": "bench"}, folder=tmp_path, property="y")
    assert lab.info.waits_for_people
    with pytest.raises(OracleError, match="flowscout tell"):
        lab([Request("AC", 1, "key")])


def test_users_own_packages_named_like_our_rooms_hide_nothing(tmp_path):
    for room in ("db", "flows", "loop", "surrogates"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text(f"WHOSE = 'the user of {room}'\n")
    (tmp_path / "assay.py").write_text(
        dedent("""\
        import db, flows, loop, surrogates

        def score(objects):
            assert {m.WHOSE for m in (db, flows, loop, surrogates)} == {
                f"the user of {room}" for room in ("db", "flows", "loop", "surrogates")}
            return [float(text.count("A")) for text in objects]
        """)
    )
    (tmp_path / "campaign.yaml").write_text(
        dedent("""\
        campaign: c
        space: {type: sequence, alphabet: dna, length: 4}
        objectives: [{name: y, direction: maximize}]
        oracle: assay:score
        batch: {size: 4}
        budget: {rounds: 1}
        """)
    )
    code = """
        import sys
        from flowscout import Campaign
        with Campaign.from_yaml("campaign.yaml") as campaign:
            assert campaign.run_round().complete
        import flowscout.flows.settings
        ours = [n for n in sys.modules if n.startswith(("loop.", "db.", "flows.", "surrogates."))]
        print(len(campaign.workbench.config.objectives), ours)
        """
    # As with a script in that folder, the user's packages stand first on the path.
    done = subprocess.run(
        [sys.executable, "-c", dedent(code)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1) == ["1", "[]\n"]
