"""The rooms import one way only, and nothing loads heavy packages before they are used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOMES = {
    "flowscout.loop": ROOT / "loop",
    "flowscout.surrogates": ROOT / "surrogates",
    "flowscout.db": ROOT / "db",
    "flowscout.flows": ROOT / "flows",
    "flowscout": ROOT / "src" / "flowscout",
}
# What each room may import, itself apart. The rooms within `loop` import nothing of `loop` but themselves.
ALLOWED = {
    "errors": set(),
    "version": set(),
    "data": set(),
    "surrogates": set(),
    "db": set(),
    "loop.spaces": set(),
    "loop.gflownet": {"loop.spaces"},
    "loop.secrets": set(),
    "loop.oracles": {"loop.secrets"},
    "loop": {"loop.spaces", "loop.gflownet", "loop.oracles", "loop.secrets", "surrogates", "db", "data"},
    "flows": {"loop", "db"},
    "testing": {"loop", "loop.spaces", "loop.gflownet", "loop.oracles", "surrogates", "db", "flows"},
    "face": {"data", "loop", "loop.spaces", "loop.gflownet", "loop.oracles", "loop.secrets", "db", "flows"},
}
GFLOWNET_SEES_OF_SPACES = {"flowscout.loop.spaces.protocol"}


def room_of(module: str) -> str | None:
    """Return the room that a dotted name belongs to; None for the names of the face itself."""
    parts = module.split(".")
    if parts[0] != "flowscout":
        return None
    if len(parts) == 1:
        return None
    if parts[1] == "loop" and len(parts) > 2 and parts[2] in ("spaces", "gflownet", "oracles", "secrets"):
        return f"loop.{parts[2]}"
    return parts[1] if parts[1] in ALLOWED else "face"


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in HOMES.items():
        for path in sorted(folder.rglob("*.py")):
            inner = path.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *inner]).removesuffix(".__init__")
            found.setdefault(name, path)
    return found


def imports_of(path: Path) -> set[str]:
    """Return every module that a file imports from Flowscout, typing-only and local imports included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room they come from"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "flowscout"}


def forbidden_edges(sources: dict[str, set[str]]) -> list[str]:
    """Return each import that crosses a wall, as `module -> imported`."""
    edges = []
    for module, imported in sources.items():
        room = room_of(module) or "face"
        for name in sorted(imported):
            target = room_of(name)
            if target is not None and target not in ("errors", "version", room) and target not in ALLOWED[room]:
                edges.append(f"{module} -> {name}")
    return edges


def cycles(sources: dict[str, set[str]]) -> list[str]:
    """Return the modules that reach themselves by imports."""
    graph = {
        module: {name for name in imported if name in sources and name != module}
        for module, imported in sources.items()
    }
    found = []
    for start in graph:
        seen: set[str] = set()
        frontier = set(graph[start])
        while frontier:
            seen |= frontier
            frontier = {after for name in frontier for after in graph[name]} - seen
        if start in seen:
            found.append(start)
    return found


SOURCES = {module: imports_of(path) for module, path in modules().items()}


def test_no_room_imports_what_it_may_not() -> None:
    assert len(SOURCES) > 40
    assert forbidden_edges(SOURCES) == []


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("flowscout.db.rounds", "flowscout.loop.stages"),
        ("flowscout.surrogates.exact_gp", "flowscout.db"),
        ("flowscout.loop.stages", "flowscout.flows.round"),
        ("flowscout.loop.oracles.table", "flowscout.loop.spaces"),
        ("flowscout.errors", "flowscout.db"),
    ],
)
def test_a_forbidden_import_is_seen(module: str, imported: str) -> None:
    assert forbidden_edges({module: {imported}}) == [f"{module} -> {imported}"]


def test_the_engine_knows_spaces_by_their_protocol_only() -> None:
    for module, imported in SOURCES.items():
        if module.startswith("flowscout.loop.gflownet"):
            seen = {name for name in imported if name.startswith("flowscout.loop.spaces.")}
            assert {".".join(name.split(".")[:4]) for name in seen} <= GFLOWNET_SEES_OF_SPACES, module


def test_no_module_reaches_itself_by_imports() -> None:
    assert cycles({"flowscout.a": {"flowscout.b"}, "flowscout.b": {"flowscout.a"}}) != []
    packages = {module for module, path in modules().items() if path.name == "__init__.py"}
    # A package's public face imports its modules; they import each other by their own names.
    own = {
        m: {name for name in names if name not in packages or not m.startswith(name + ".")}
        for m, names in SOURCES.items()
    }
    assert cycles(own) == []


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import flowscout", {"torch", "prefect", "sqlalchemy", "pydantic", "typer"}),
        ("import flowscout.cli", {"torch", "prefect", "matplotlib", "pandas"}),
        ("import flowscout.db", {"torch", "prefect", "alembic"}),
        ("import flowscout.loop.gflownet, flowscout.loop.spaces", {"sqlalchemy", "prefect", "gpytorch"}),
        ("from flowscout import GFlowNet, SequenceSpace, TrainerSettings", {"sqlalchemy", "prefect", "gpytorch"}),
        ("import flowscout.loop.campaign, flowscout.loop.workbench", {"torch", "prefect"}),
        ("import flowscout.surrogates", {"sqlalchemy", "prefect"}),
        (
            "import flowscout.flows.round, flowscout.flows.train, flowscout.flows.collecting",
            {"torch", "matplotlib"},
        ),
        ("import flowscout.flows.until_done, flowscout.flows.takeover", {"torch", "matplotlib"}),
    ],
)
def test_importing_loads_nothing_heavy_before_its_time(statement: str, absent: set[str]) -> None:
    code = f"import sys; {statement}; print(sorted({absent!r} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"
