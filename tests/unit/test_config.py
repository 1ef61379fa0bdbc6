"""The campaign file: what it means, and what is said when it is wrong."""

import pytest

from flowscout.errors import ConfigError, SchemaError
from flowscout.loop.config import database_url, parse_campaign, read_campaign_file

RIGHT = """\
campaign: binders
space: {type: sequence, alphabet: dna, length: 6}
objectives: [{name: y, direction: maximize}]
oracle: assay:score
batch: {size: 8}
budget: {rounds: 3}
"""


def said(text: str) -> str:
    """Return the complaint about the text of a campaign file."""
    with pytest.raises(ConfigError) as caught:
        parse_campaign(text, name="campaign.yaml")
    message = str(caught.value)
    assert message.startswith("campaign.yaml")
    assert "\n" not in message
    assert len(message) < 400
    return message


def changed(old: str, new: str) -> str:
    assert old in RIGHT
    return RIGHT.replace(old, new)


def test_what_is_left_out_has_its_default():
    config = parse_campaign(RIGHT, name="campaign.yaml")
    assert (config.surrogate.type, config.acquisition.kappa, config.proposer.type) == ("auto", 8.0, "auto")
    assert (config.seed, config.budget.cost, config.batch.explore, config.device) == (None, None, 0.0, "auto")


def test_oracle_written_as_module_and_function_is_a_callable():
    short = parse_campaign(RIGHT, name="campaign.yaml")
    section = "oracle: {type: callable, function: 'assay:score'}"
    assert short.oracle == parse_campaign(changed("oracle: assay:score", section), name="long").oracle


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("batch: {size: 8}", "batsh: {size: 8}", ["unknown key 'batsh' in the file", "did you mean 'batch'"]),
        ("{size: 8}", "{sise: 8}", ["unknown key 'sise' in batch", "did you mean 'size'"]),
        ("direction: maximize", "directoin: maximize", ["unknown key 'directoin' in objectives", "'direction'"]),
        ("{size: 8}", "{size: 8, zzz: 1}", ["unknown key 'zzz' in batch", "known keys are size, explore"]),
        (
            "oracle: assay:score",
            "oracle: {type: table, pfad: x.csv}",
            ["unknown key 'pfad' in oracle", "'path'"],
        ),
        ("length: 6", "lenght: 6", ["unknown key 'lenght' in space", "did you mean 'length'"]),
    ],
)
def test_unknown_key_is_answered_with_the_nearest_known_one(old, new, parts):
    message = said(changed(old, new))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("key", ["campaign", "space", "objectives", "oracle", "batch", "budget"])
def test_missing_section_is_named(key):
    text = "".join(line for line in RIGHT.splitlines(True) if not line.startswith(f"{key}:"))
    assert f"{key} is missing; add it" in said(text)


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("{size: 8}", "{size: 0}", "batch.size is 0: input should be greater than or equal to 1"),
        ("{size: 8}", "{size: many}", "batch.size is 'many'"),
        ("{rounds: 3}", "{rounds: 3, cost: -1}", "budget.cost is -1"),
        ("{rounds: 3}", "{rounds: 3, cost: .inf}", "budget.cost is inf"),
        ("{rounds: 3}", "{rounds: 3, cost: .nan}", "budget.cost is nan"),
        ("batch:", "acquisition: {kappa: .inf}\nbatch:", "acquisition.kappa is inf"),
        ("{rounds: 3}", "{rounds: .nan}", "budget.rounds is nan"),
        ("maximize", "maximise", "objectives.direction is 'maximise'"),
        ("campaign: binders", "campaign: ../other", "campaign is '../other'"),
        ("campaign: binders", "campaign: binders\nseed: -1", "seed is -1"),
        ("alphabet: dna", "alphabet: AA", "alphabet is 'AA'"),
        ("length: 6", "length: 0", "space.length is 0"),
        ("alphabet: dna", "strand: double, alphabet: protein", "expected an alphabet with a complement"),
        ("oracle: assay:score", "oracle: {type: oracl}", "oracle"),
        ("oracle: assay:score", "oracle: 7", "oracle is 7"),
    ],
)
def test_impossible_value_is_shown_with_its_place(old, new, part):
    assert part in said(changed(old, new))


def test_batch_larger_than_the_space_is_refused_with_both_numbers():
    message = said(changed("{size: 8}", "{size: 2000}").replace("length: 6", "length: 5"))
    assert "batch.size is 2000" in message
    assert "1024 objects" in message


def test_batch_as_large_as_the_space_is_allowed():
    text = changed("{size: 8}", "{size: 1024}").replace("length: 6", "length: 5")
    assert parse_campaign(text, name="x").batch.size == 1024


@pytest.mark.parametrize("cost", [".inf", "1.0e+30", "-1"])
def test_a_budget_that_no_database_can_hold_is_refused(cost):
    assert "budget.cost" in said(changed("{rounds: 3}", f"{{rounds: 3, cost: {cost}}}"))


def test_batch_larger_than_any_pool_is_refused():
    message = said(changed("{size: 8}", "{size: 3001}"))
    assert "batch.size" in message
    assert "3000" in message


def test_several_objectives_are_refused_for_now():
    two = "objectives: [{name: y, direction: maximize}, {name: z, direction: minimize}]"
    assert "2 objectives came, expected one" in said(changed("objectives: [{name: y, direction: maximize}]", two))


def test_no_objective_is_refused():
    assert "objectives" in said(changed("[{name: y, direction: maximize}]", "[]"))


def test_broken_yaml_is_told_with_its_line_and_column():
    message = said(changed("batch: {size: 8}", "batch: {size: 8"))
    assert "line 6, column" in message
    assert "not valid YAML" in message


@pytest.mark.parametrize(("text", "kind"), [("", "NoneType"), ("- a\n- b\n", "list"), ("hello", "str")])
def test_file_without_keys_is_refused_with_an_example(text, kind):
    message = said(text)
    assert kind in message
    assert "flowscout init" in message


def test_key_given_twice_is_refused():
    assert "'batch'" in said(RIGHT + "batch: {size: 9}\n")


def test_yaml_that_would_make_python_objects_is_refused():
    assert "not valid YAML" in said(RIGHT + "seed: !!python/object/apply:os.getpid []\n")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml' cannot be read .*flowscout init"):
        read_campaign_file(tmp_path / "nowhere.yaml")


def test_folder_in_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_campaign_file(tmp_path)


def test_file_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "campaign.yaml"
    path.write_bytes(RIGHT.replace("binders", "b\xefnders").encode("latin-1"))
    with pytest.raises(ConfigError, match="not text in UTF-8"):
        read_campaign_file(path)


def test_file_knows_its_folder_and_the_hash_of_its_text(tmp_path):
    path = tmp_path / "campaign.yaml"
    path.write_text(RIGHT)
    file = read_campaign_file(path)
    assert file.folder == tmp_path
    path.write_text(RIGHT + "# a remark\n")
    assert read_campaign_file(path).sha256 != file.sha256
    assert read_campaign_file(path).config == file.config


def test_database_stands_beside_the_file_unless_one_is_named(tmp_path):
    path = tmp_path / "campaign.yaml"
    path.write_text(RIGHT)
    file = read_campaign_file(path)
    assert database_url(file, None) == str(tmp_path / "binders.db")
    assert database_url(file, "other.db") == "other.db"
    with pytest.raises(SchemaError, match="mysql"):
        database_url(file, "mysql://host/lab")


def test_words_that_yaml_1_1_takes_for_switches_are_texts():
    hooked = parse_campaign(RIGHT + "notify: [{on: [conflict], command: [mail]}]\n", name="campaign.yaml")
    assert hooked.notify[0].on == ["conflict"]
    named = parse_campaign(RIGHT + "properties: [{name: on, unit: no}]\n", name="campaign.yaml")
    assert (named.properties[0].name, named.properties[0].unit) == ("on", "no")
    cold = parse_campaign(RIGHT + "proposer: {warm_start: off}\n", name="campaign.yaml")
    assert cold.proposer.warm_start is False


def test_a_length_beyond_all_objects_is_refused_before_its_positions_are_listed():
    with pytest.raises(ConfigError, match=r"space\.length is 10{30}: input should be less than or equal to 10000"):
        parse_campaign(
            "campaign: c\nspace: {type: sequence, alphabet: dna, length: 1" + "0" * 30 + ", letters: {1: AC}}\n"
            "objectives: [{name: y, direction: maximize}]\noracle: {type: lab}\nbatch: {size: 4}\n"
            "budget: {rounds: 1}",
            name="c.yaml",
        )
