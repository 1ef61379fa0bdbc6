"""The catalogue: its tree, what it says of objects, and the file it is read from."""

import gzip
import math

import pytest
import torch

from flowscout.errors import ConfigError, ObjectError
from flowscout.loop.gflownet import Trainer, TrainerSettings, exact_law, target_law, total_variation
from flowscout.loop.gflownet.exact import unfold
from flowscout.loop.spaces.catalogue import NEAREST, CatalogueSpace
from flowscout.loop.spaces.listing import read_listing
from flowscout.loop.spaces.tree import balanced_tree, shape_of


def numbers(n, d=3, *, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def named(n):
    return [f"c{row}" for row in range(n)]


def uniform_law(space):
    """Return the probability of each object, in the order of the list, where every legal action is as likely."""
    graph = unfold(space)
    state, log_p = graph.terminal, torch.zeros(space.size, dtype=torch.float64)
    while space.backward_mask(state).any():
        state = space.step_back(state, torch.zeros(len(state), dtype=torch.int64))
        log_p -= space.forward_mask(state).sum(dim=1).double().log()
    rows = [space.rules.row(text) for text in space.decode(graph.terminal)]
    return log_p.exp()[torch.tensor(rows).argsort()]


@pytest.mark.parametrize(
    ("n", "branching", "expected"),
    [(1, 16, (1, 1)), (16, 16, (1, 16)), (17, 16, (2, 5)), (100_000, 16, (5, 10)), (8, 2, (3, 2)), (9, 2, (4, 2))],
)
def test_depth_and_width_are_the_least_that_hold_all(n, branching, expected):
    assert shape_of(n, branching) == expected


@pytest.mark.parametrize("n", [2, 17, 33, 100, 257, 1000])
def test_uniform_choices_reach_all_objects_with_nearly_one_probability(n):
    law = uniform_law(CatalogueSpace(named(n), numbers(n)))
    assert abs(float(law.sum()) - 1) < 1e-12
    # Sizes of siblings differ by one: the smallest that are divided have 3 rows or so beside 4.
    assert float(law.max() / law.min()) < 2


def test_every_row_is_one_leaf():
    for n in (1, 2, 5, 16, 17, 300):
        tree = balanced_tree(numbers(n), branching=16)
        assert sorted(tree.row[-n:].tolist()) == list(range(n))
        assert (tree.row[:-n] == -1).all()


def test_mean_of_a_node_is_that_of_the_rows_below_it():
    X = numbers(50)
    tree = balanced_tree(X, branching=4)
    below = {node: [int(tree.row[node])] for node in range(len(tree)) if tree.row[node] >= 0}
    for node in reversed(range(1, len(tree))):
        below.setdefault(int(tree.parent[node]), []).extend(below[node])
    for node, rows in below.items():
        torch.testing.assert_close(tree.mean[node], X[rows].mean(dim=0).float())


def test_near_objects_share_their_way():
    """Clusters far apart are told apart by the first choice."""
    X = 100.0 * torch.arange(16).repeat_interleave(16).unsqueeze(1) + numbers(256, 1)
    shuffled = torch.randperm(256, generator=torch.Generator().manual_seed(1))
    space = CatalogueSpace(named(256), X[shuffled])
    parents = space.step_back(space.enumerate(), torch.zeros(256, dtype=torch.int64)).node
    clusters = shuffled // 16
    assert {len(set(parents[clusters == one].tolist())) for one in range(16)} == {1}


def test_same_list_makes_the_same_tree():
    one, other = (CatalogueSpace(named(200), numbers(200, 40)) for _ in range(2))
    assert torch.equal(one.encode(one.enumerate()), other.encode(other.enumerate()))


def test_features_are_the_columns_as_given():
    X = numbers(40) * torch.tensor([1.0, 1e6, 1e-6]) + 5
    space = CatalogueSpace(named(40), X)
    assert torch.equal(space.features(space.enumerate()), X)
    assert torch.equal(space.features(space.parse(["c7", "c0"])), X[[7, 0]])


def test_distance_is_euclid_on_standardised_features():
    X = numbers(30) * torch.tensor([1.0, 1e6, 1e-6])
    space = CatalogueSpace(named(30), torch.cat([X, torch.full((30, 1), 3.0)], dim=1))
    Z = X / X.std(dim=0, correction=0)
    expected = (Z.unsqueeze(1) - Z.unsqueeze(0)).square().sum(dim=2).sqrt()
    found = space.distance(space.enumerate(), space.enumerate())
    # Two orders of the same sums of three squares; different objects are 1e-9 apart at least.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("most", [2, 6, 40])
def test_tanimoto_distance_is_one_less_minima_over_maxima(most):
    X = torch.randint(0, most, (25, 12), generator=torch.Generator().manual_seed(0)).double()
    space = CatalogueSpace(named(25), X, metric="tanimoto")
    low = torch.minimum(X.unsqueeze(1), X.unsqueeze(0)).sum(dim=2)
    high = torch.maximum(X.unsqueeze(1), X.unsqueeze(0)).sum(dim=2)
    found = space.distance(space.enumerate(), space.enumerate())
    torch.testing.assert_close(found, 1 - low / high, rtol=1e-12, atol=1e-9)  # whole numbers, and one division


def test_objects_of_equal_features_are_not_one_object():
    space = CatalogueSpace(["a", "b", "c"], [[1.0], [1.0], [2.0]])
    distance = space.distance(space.enumerate(), space.enumerate())
    assert (distance == 0).sum() == 3
    assert 0 < distance[0, 1] < 1e-6


@pytest.mark.parametrize(("metric", "d"), [("euclid", 3), ("euclid", 40), ("tanimoto", 5)])
def test_neighbours_are_the_nearest_others(metric, d):
    X = numbers(90, d).abs()
    space = CatalogueSpace(named(90), X, metric=metric)
    everything = space.enumerate()
    distance = space.distance(everything, everything).fill_diagonal_(torch.inf)
    expected = distance.argsort(dim=1)[:, :NEAREST]
    for _ in range(2):  # looked for, then kept
        found = space.decode(space.neighbours(space.parse(["c3", "c80", "c3"])))
        assert found == [f"c{row}" for start in (3, 80, 3) for row in expected[start].tolist()]


def test_mutant_is_one_of_the_nearest_and_each_as_often():
    space = CatalogueSpace(named(60), numbers(60))
    start = space.parse(["c5"] * 3200)
    mutants = space.decode(space.mutate(start, torch.Generator().manual_seed(0)))
    near = space.decode(space.neighbours(space.parse(["c5"])))
    assert set(mutants) == set(near)
    counts = torch.tensor([mutants.count(name) for name in near])
    assert ((counts - 200).abs() < 5 * math.sqrt(200)).all()  # 5 standard errors of 3,200 draws over 16


def test_the_only_object_has_no_neighbour():
    space = CatalogueSpace(["a"], [[1.0]])
    state = space.parse(["a"])
    assert len(space.neighbours(state)) == 0
    assert space.decode(space.mutate(state, torch.Generator())) == ["a"]
    assert len(space.neighbours(space.parse([]))) == len(space.mutate(space.parse([]), torch.Generator())) == 0


def test_name_is_compared_without_the_space_around_it():
    space = CatalogueSpace([" CCO", "CCN "], [[1.0], [2.0]])
    assert space.decode(space.enumerate()) == ["CCO", "CCN"]
    assert space.key(" CCO ") == "CCO"


def test_object_outside_the_catalogue_is_refused():
    space = CatalogueSpace(["CCO", "CCN"], [[1.0], [2.0]])
    for refuse in (lambda: space.parse(["CCC"]), lambda: space.key("CCC")):
        with pytest.raises(ObjectError, match=r"'CCC' is not in the catalogue, expected one of its 2 names"):
            refuse()
    assert "add a row with its features" in space.validate("CCC")
    assert space.validate(7) is not None
    with pytest.raises(ObjectError, match="One text came"):
        space.parse("CCO")


@pytest.mark.parametrize(
    ("names", "features", "options", "said"),
    [
        (["a", "b", "a"], [[1.0], [2.0], [3.0]], {}, "rows 1 and 3 both have the name 'a'"),
        (["a", " "], [[1.0], [2.0]], {}, "row 2 has no name"),
        (["a"], [[math.nan]], {"columns": ["logp"]}, "'a' has nan as 'logp', expected a finite number"),
        (["a", "b"], [[1.0]], {}, r"2 names came with features of shape \(1, 1\)"),
        ([], [], {}, "0 names came"),
        (["a"], [[1.0]], {"columns": ["x", "y"]}, "2 column names came with 1 features"),
        (["a"], [[1.0]], {"metric": "cosine"}, "metric is 'cosine', expected euclid or tanimoto"),
        (["a"], [[-1.0]], {"metric": "tanimoto", "columns": ["q"]}, "'a' has -1 as 'q', expected numbers of at"),
        (["a"], [[1.0]], {"branching": 1}, "branching is 1, expected a whole number of at least 2"),
        ("abc", [[1.0]] * 3, {}, "names are 'abc', expected a list"),
    ],
)
def test_what_cannot_be_is_refused(names, features, options, said):
    with pytest.raises(ConfigError, match=said):
        CatalogueSpace(names, features, **options)


def test_trained_policy_samples_in_proportion_to_the_reward():
    X = numbers(400)
    space = CatalogueSpace(named(400), X)
    trainer = Trainer(
        space, lambda state: 2 * space.features(state)[:, 0].tanh(), seed=0, settings=TrainerSettings()
    )
    graph = unfold(space)
    target = target_law(space, trainer.log_reward, graph.terminal)
    before = total_variation(exact_law(space, trainer.policy, graph=graph), target)
    trainer.fit(300)
    after = total_variation(exact_law(space, trainer.policy, graph=graph), target)
    assert before > 0.4
    assert after < 0.1  # it is 0.05 with this seed


CSV = "smiles,supplier,logp,weight\nCCO,A1,-0.1,46\nCCN,A1,-0.2,45\nCCC,B2,1.8,44\n"


def written(tmp_path, text=CSV, name="compounds.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_file_is_read_with_all_its_numeric_columns(tmp_path):
    listing = read_listing(written(tmp_path))
    assert (listing.names, listing.columns) == (("CCO", "CCN", "CCC"), ("logp", "weight"))
    assert listing.features.tolist() == [[-0.1, 46], [-0.2, 45], [1.8, 44]]


def test_columns_may_be_named_or_left_out(tmp_path):
    path = written(tmp_path)
    assert read_listing(path, column="smiles", features=["weight"]).features.tolist() == [[46], [45], [44]]
    assert read_listing(path, without=["logp"]).columns == ("weight",)
    assert CatalogueSpace.from_csv(path, features=["logp"]).rules.columns == ("logp",)


def test_gzipped_file_and_names_that_look_like_missing_values_or_numbers(tmp_path):
    path = tmp_path / "c.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("name,x\nNA,1\n007,2\nnull,3\n")
    assert read_listing(path).names == ("NA", "007", "null")


@pytest.mark.parametrize(
    ("old", "new", "options", "said"),
    [
        ("-0.2", "high", {}, r"'compounds.csv', line 3, column 'logp': 'high' came, expected a finite number"),
        ("-0.2", "", {}, r"line 3, column 'logp': '' came"),
        ("-0.2", "inf", {}, r"line 3, column 'logp': inf came"),
        ("-0.2", "", {"features": ["logp"]}, r"line 3, column 'logp'"),
        ("CCC", "CCO", {}, r"'compounds.csv', lines 2 and 4, column 'smiles': both are 'CCO'"),
        ("CCN", " ", {}, r"line 3, column 'smiles': the cell is empty"),
        ("CCN", "\n\nCCO", {}, r"lines 2 and 5, column 'smiles': both are 'CCO'"),
        ("", "", {"column": "name"}, "no column 'name' for the objects, expected one of smiles, supplier"),
        ("", "", {"features": ["logq"]}, r"features are \['logq'\], expected distinct columns of supplier, logp"),
        ("", "", {"features": []}, "none came"),
        ("", "", {"features": ["supplier"]}, r"line 2, column 'supplier': 'A1' came"),
        ("", "", {"without": ["logp", "weight"]}, "expected a numeric one beside 'smiles'"),
    ],
)
def test_mistake_in_a_file_is_named_by_line_and_column(tmp_path, old, new, options, said):
    path = written(tmp_path, CSV.replace(old, new) if old else CSV)
    with pytest.raises(ConfigError, match=said):
        read_listing(path, **options)


@pytest.mark.parametrize(("text", "said"), [("smiles,x\n", "no rows"), ("", "cannot be read")])
def test_empty_file_is_refused(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        read_listing(written(tmp_path, text))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no catalogue at .*none\.csv.*relative to the campaign file"):
        read_listing(tmp_path / "none.csv")
