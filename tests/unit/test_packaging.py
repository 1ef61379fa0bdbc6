"""The hand-kept list of packages, the constraints and the face agree with what is on the disk."""

import re
import tomllib
from pathlib import Path

import flowscout

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = {"flowscout": "src/flowscout"} | {f"flowscout.{r}": r for r in ("loop", "surrogates", "db", "flows")}


def test_every_package_on_disk_is_listed_and_mapped() -> None:
    found = {}
    for package, folder in ROOMS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder).parts
            found[".".join([package, *inner])] = init.parent.relative_to(ROOT).as_posix()
    tool = PROJECT["tool"]["setuptools"]
    assert set(tool["packages"]) == set(found)
    for package, folder in tool["package-dir"].items():
        assert found[package] == folder


def test_every_dependency_is_pinned_by_the_constraints() -> None:
    pinned = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = [*PROJECT["project"]["dependencies"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        wanted.extend(extra)
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~ ]", one)[0]).lower() for one in wanted}
    assert names - pinned - {"flowscout"} == set()


def test_constraints_name_no_registry() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert "--" not in text
    assert "+cpu" not in text


def test_every_public_name_can_be_had() -> None:
    for name in flowscout.__all__:
        assert getattr(flowscout, name) is not None
