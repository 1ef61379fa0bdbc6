"""The wheel holds everything: installed elsewhere, it runs from a folder far from the checkout."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a new environment that holds the wheel, and sees our dependencies only."""
    folder = tmp_path_factory.mktemp("wheel house")  # a space in the path, on purpose
    source = folder / "source"  # a copy: what an earlier build left in the checkout must not get in
    for name in ("src", "loop", "surrogates", "db", "flows"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(folder.glob("flowscout-*.whl"))
    venv.create(folder / "env", with_pip=True)
    found = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install = [str(found), "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    site = subprocess.run(
        [str(found), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    # A path line adds the folder, without the link files in it: our own editable install is not seen.
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return found


def test_the_installed_wheel_runs_a_campaign_from_another_folder(python: Path, tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()  # a user's own folders of our rooms' names
    (tmp_path / "flows").mkdir()
    (tmp_path / "db" / "__init__.py").write_text("raise RuntimeError('the wrong db')\n")
    code = (
        "import flowscout, flowscout.db, flowscout.loop.spaces as s; print(flowscout.__file__); "
        "print(flowscout.db.__file__); print(s.__file__)"
    )
    where = subprocess.run([str(python), "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert all("wheel" in line for line in where.stdout.split("\n")[:-1]), where.stdout

    def flowscout(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-m", "flowscout", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert flowscout("init", "mine").returncode == 0
    asked = flowscout("ask", "mine/campaign.yaml", "-n", "3", "--json")
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.count("candidate_id") == 3


def test_the_wheel_carries_the_landscape_and_its_source(python: Path, tmp_path: Path) -> None:
    code = (
        "from importlib.resources import files as f; d = f('flowscout.data');"
        "print((d / 'tfbind8_six6.csv.gz').is_file(), 'Barrera' in (d / 'README.md').read_text())"
    )
    printed = subprocess.run([str(python), "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert printed.stdout.split() == ["True", "True"]
