"""The rules of the house that a machine can check: floors, sizes, settings."""

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from vitral.objectives import ObjectiveConfig, SupervisedConfig
from vitral.workflows import TrainConfig

SOURCE = Path(__file__).parents[1] / "src" / "vitral"
FLOORS = (
    ("errors", "atomic_io", "version"),
    ("config_io", "validation"),
    ("layers",),
    ("models", "data"),
    ("weights", "objectives", "evaluation"),
    ("training", "plots", "inspection"),
    ("report",),
    ("workflows",),
    ("recipes", "export"),
    ("studies", "serve", "autotune"),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
DATA_SEES = {"errors", "atomic_io", "config_io", "validation"}
"""Data knows nothing of vitral but the ground; nor does evaluation know a model."""


class Import(NamedTuple):
    line: int
    name: str


class Known(NamedTuple):
    """Which files there are: the rooms and modules of vitral by dotted name."""

    modules: frozenset[str]


def known(source: Path) -> Known:
    names = set()
    for file in source.rglob("*.py"):
        parts = file.relative_to(source.parent).with_suffix("").parts
        names.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return Known(frozenset(names))


def imports(text: str, package: str, there: Known) -> Iterator[Import]:
    """What a module takes from vitral, wherever in it; `if TYPE_CHECKING` apart."""
    tree = ast.parse(text)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for part in node.body
        for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            whole = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in there.modules else base for name in whole]
        elif _is_import_module(node):
            assert isinstance(node, ast.Call)
            names = [ast.literal_eval(node.args[0])]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "vitral" and name != "vitral":
                yield Import(node.lineno, name)


def _is_import_module(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("importlib.import_module", "__import__")
        and isinstance(node.args[0], ast.Constant)
    )


def faults(file: Path, source: Path, there: Known) -> list[str]:
    """One line for each import that does not point downwards."""
    parts = file.relative_to(source).with_suffix("").parts
    room = parts[0]
    if room in ("__init__", "__main__"):
        return []
    if room not in FLOOR:
        return [f"{file}: the room {room} has no floor in this test"]
    package = ".".join(("vitral", *parts[:-1]))
    found = []
    for item in imports(file.read_text(encoding="utf-8"), package, there):
        other = item.name.split(".")[1]
        lower = other in FLOOR and FLOOR[other] < FLOOR[room]
        if room in ("data", "evaluation"):
            lower = other in DATA_SEES
        if other != room and not lower:
            found.append(f"{file}:{item.line}: {room} imports {item.name}")
    return found


def test_every_import_points_downwards():
    there = known(SOURCE)
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 50
    assert [fault for file in files for fault in faults(file, SOURCE, there)] == []


@pytest.mark.parametrize(
    ("room", "text", "found"),
    [
        ("layers", "import vitral.models", "layers imports vitral.models"),
        ("layers", "from vitral import models", "layers imports vitral.models"),
        (
            "layers",
            "def f():\n    from vitral.workflows import x",
            "layers imports vitral.workflows",
        ),
        ("layers", "from ..data import x", "layers imports vitral.data"),
        ("layers", "from .. import data", "layers imports vitral.data"),
        ("plots", "import vitral.training.loop", "plots imports vitral.training.loop"),
        ("models", "from vitral import data as d", "models imports vitral.data"),
        ("data", "from vitral.layers import x", "data imports vitral.layers"),
        ("evaluation", "from vitral.models import x", "evaluation imports vitral.mod"),
        (
            "report",
            "importlib.import_module('vitral.workflows')",
            "report imports vitral.workflows",
        ),
        ("utils", "", "the room utils has no floor"),
    ],
)
def test_the_check_can_fail(tmp_path, room, text, found):
    source = tmp_path / "vitral"
    for name in ("layers", "models", "data", "workflows", "training", room):
        (source / name).mkdir(parents=True, exist_ok=True)
        (source / name / "__init__.py").touch()
    file = source / room / "made_up.py"
    file.write_text(text)
    (fault,) = faults(file, source, known(source))
    assert found in fault


@pytest.mark.parametrize(
    "text",
    [
        "import vitral\nvitral.__version__",
        "from vitral.errors import ConfigError",
        "from vitral import config_io",
        "from vitral.models.names import create",
        "from . import names",
        "import torch, vitralike.run",
        "if TYPE_CHECKING:\n    from vitral.workflows import Run",
    ],
)
def test_what_is_allowed(tmp_path, text):
    source = tmp_path / "vitral"
    (source / "models").mkdir(parents=True)
    file = source / "models" / "made_up.py"
    file.write_text(text)
    (source / "models" / "names.py").touch()
    (source / "config_io.py").touch()
    assert faults(file, source, known(source)) == []


def test_the_lazy_names_are_those_that_type_checkers_see():
    import vitral

    for name in vitral.__all__:
        assert getattr(vitral, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vitral.nothing


def test_no_file_is_long():
    lengths = {
        file: len(file.read_text(encoding="utf-8").splitlines())
        for file in SOURCE.rglob("*.py")
    }
    assert {file: length for file, length in lengths.items() if length > 350} == {}


def test_no_function_is_long():
    long = []
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno + 1 > 80:
                    long.append(f"{file}:{node.lineno} {node.name}")
    assert long == []


def test_there_is_no_utils():
    names = {file.stem for file in SOURCE.rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def leaves(kind: type) -> int:
    number = 0
    for field in dataclasses.fields(kind):
        inner = field.default_factory
        nested = isinstance(inner, type) and dataclasses.is_dataclass(inner)
        number += leaves(inner) if nested else 1
    return number


def test_settings_stay_few():
    """Those of the objective are its own, as those of the model are."""
    objectives = ObjectiveConfig.__subclasses__()
    assert len(objectives) > 3
    assert 40 < leaves(TrainConfig) - leaves(SupervisedConfig) < 60
    assert max(leaves(objective) for objective in objectives) <= 6
