"""The rules of the house that a machine can check: floors, sizes, settings."""

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from vitral.tasks.classification import SupervisedConfig
from vitral.tasks.objective import ObjectiveConfig
from vitral.workflows import TrainConfig

SOURCE = Path(__file__).parents[1] / "src" / "vitral"
FLOORS = (
    (
        (
            "errors",
            "atomic_io",
            "child_process",
            "nested",
            "npy_header",
            "progress",
            "version",
        ),
        "nothing of vitral",
    ),
    (("config_io", "json_file", "lazy", "validation"), "errors"),
    (("layers",), "tensors"),
    (("models", "data"), "models know layers; data knows no model"),
    (
        ("weights", "evaluation"),
        "weights know models and preprocessing; evaluation knows arrays",
    ),
    (
        ("training", "plots", "inspection"),
        "training knows no model and no data set; plots know arrays",
    ),
    (("document",), "a run folder's plain files; numbers, pictures, blocks of a page"),
    (("tasks",), "all of what a model can be asked; no other room names a task"),
    (("report",), "the files of a run"),
    (("workflows",), "everything above this line"),
    (("recipes", "export"), "settings of runs; finished runs"),
    (("studies", "serve", "autotune"), "runs, recipes, exports and plots"),
    (("cli",), "everything; no room knows it"),
)
"""Rooms of each floor from the ground up, and what they may know."""
FLOOR = {room: floor for floor, (rooms, _) in enumerate(FLOORS) for room in rooms}
DATA_SEES = {
    "errors",
    "atomic_io",
    "child_process",
    "config_io",
    "nested",
    "npy_header",
    "validation",
}
"""Data knows nothing of vitral but the ground; nor does evaluation know a model."""


class Import(NamedTuple):
    line: int
    name: str
    symbol: str = ""
    """What is taken from the module; empty for the module itself."""


class Known(NamedTuple):
    """The modules of vitral by dotted name, and its wings with the names they offer."""

    modules: frozenset[str]
    faces: dict[str, frozenset[str]]
    """A wing is a package inside a room; its face is `__all__`."""


def known(source: Path) -> Known:
    names, faces = set(), {}
    for file in source.rglob("*.py"):
        parts = file.relative_to(source.parent).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
            if len(parts) > 2:
                faces[".".join(parts)] = face(file)
        names.add(".".join(parts))
    return Known(frozenset(names), faces)


def face(file: Path) -> frozenset[str]:
    """Read the names of `__all__` without importing the file."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


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
            for alias in node.names:
                full = f"{base}.{alias.name}"
                if base.split(".")[0] != "vitral" or full == "vitral":
                    continue
                if full in there.modules:
                    yield Import(node.lineno, full)
                elif base != "vitral":
                    yield Import(node.lineno, base, alias.name)
            continue
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
        elif wing := passed_wing(item, ".".join(("vitral", *parts)), there):
            found.append(
                f"{file}:{item.line}: {item.name} is inside {wing}: use its face"
            )
    return found


def passed_wing(item: Import, importer: str, there: Known) -> str:
    """Return the wing whose face an import passes by; empty if it passes none."""
    steps = item.name.split(".")
    for end in range(3, len(steps) + 1):
        wing = ".".join(steps[:end])
        if wing not in there.faces or f"{importer}.".startswith(f"{wing}."):
            continue
        inside = item.name[len(wing) + 1 :] or item.symbol
        if inside and inside not in there.faces[wing]:
            return wing
    return ""


def make_wing(source: Path) -> None:
    """A wing `data/tar` that offers `open_tar`, and a module inside it."""
    wing = source / "data" / "tar"
    wing.mkdir(parents=True)
    (wing / "__init__.py").write_text('__all__ = ["open_tar"]')
    (wing / "deep.py").touch()
    (wing / "beside.py").touch()


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
        (
            "workflows",
            "from vitral.data.tar.deep import x",
            "is inside vitral.data.tar",
        ),
        ("report", "import vitral.data.tar.deep", "is inside vitral.data.tar"),
        (
            "workflows",
            "from vitral.data.tar import hidden",
            "is inside vitral.data.tar",
        ),
        ("data", "from vitral.data.tar.deep import x", "is inside vitral.data.tar"),
    ],
)
def test_the_check_can_fail(tmp_path, room, text, found):
    source = tmp_path / "vitral"
    for name in ("layers", "models", "data", "workflows", "training", room):
        (source / name).mkdir(parents=True, exist_ok=True)
        (source / name / "__init__.py").touch()
    make_wing(source)
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


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("workflows", "from vitral.data.tar import open_tar"),
        ("workflows", "import vitral.data.tar"),
        ("workflows", "from vitral.data import tar"),
        ("data/tar", "from vitral.data.tar.deep import x"),
        ("data/tar", "from vitral.data.tar import deep"),
    ],
)
def test_what_a_wing_offers_is_allowed(tmp_path, place, text):
    source = tmp_path / "vitral"
    for name in ("data", "workflows"):
        (source / name).mkdir(parents=True)
        (source / name / "__init__.py").touch()
    make_wing(source)
    file = source / place / "made_up.py"
    file.write_text(text)
    assert faults(file, source, known(source)) == []


FOLDERS = {"plots": 18, "classification": 18, "recipes": 18, "studies": 18, "verbs": 19}
"""Folders in which each file is one of a kind; another folder holds 15 at most."""


def test_no_folder_is_flat():
    sizes = {
        folder.name: sum(file.name != "__init__.py" for file in folder.glob("*.py"))
        for folder in [SOURCE, *SOURCE.rglob("*")]
        if folder.is_dir()
    }
    assert {n: s for n, s in sizes.items() if s > FOLDERS.get(n, 15)} == {}


def test_the_docs_show_the_floors():
    """`make docs` prints the table into them."""
    page = (SOURCE.parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
    for floor, (rooms, knows) in enumerate(FLOORS):
        names = ", ".join(f"`{room}`" for room in rooms)
        assert f"| {floor} | {names} | {knows} |" in page


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
    assert 40 < leaves(TrainConfig) - leaves(SupervisedConfig) <= 60
    assert max(leaves(objective) for objective in objectives) <= 6


LABEL_WORDS = re.compile(r"\b(multi_label|Classification|MultiLabel)\b")
"""Words that a task alone may know. Foreign names, such as
`multi_label_classification`, are no such words."""
CLASSIFIER_WORKFLOWS = {"self_training", "compare"}
"""Jobs of classifiers alone, which may take functions of their task: pseudo-labels, and
the comparison of two tables of answers."""


def label_words(source: Path) -> list[str]:
    """Name each line outside of `tasks` that knows what a label is."""
    return [
        f"{file.relative_to(source)}:{number}: {found[0]}"
        for file in sorted(source.rglob("*.py"))
        if file.relative_to(source).parts[0] != "tasks"
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1)
        if (found := LABEL_WORDS.search(line))
    ]


def task_imports(source: Path) -> list[str]:
    """Name each import of one task outside of `tasks`."""
    there = known(source)
    own = {folder.name for folder in (source / "tasks").iterdir() if folder.is_dir()}
    found = []
    for file in sorted(source.rglob("*.py")):
        parts = file.relative_to(source).with_suffix("").parts
        if parts[0] == "tasks" or CLASSIFIER_WORKFLOWS & set(parts):
            continue
        text = file.read_text(encoding="utf-8")
        for item in imports(text, ".".join(("vitral", *parts[:-1])), there):
            steps = item.name.split(".")
            if steps[1:2] == ["tasks"] and own & set(steps[2:3]):
                found.append(f"{file.relative_to(source)}:{item.line}: {item.name}")
    return found


def test_only_tasks_know_what_a_label_is():
    assert label_words(SOURCE) == []
    assert task_imports(SOURCE) == []


def test_the_check_of_labels_can_fail(tmp_path):
    for folder in ("tasks/classification", "workflows"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "tasks" / "__init__.py").write_text("multi_label = True")
    file = tmp_path / "workflows" / "made_up.py"
    file.write_text("x = 'multi_label_classification'\nif run.multi_label: pass")
    assert label_words(tmp_path) == ["workflows/made_up.py:2: multi_label"]
    file.write_text("from vitral.tasks.classification import softmax")
    (found,) = task_imports(tmp_path.rename(tmp_path.with_name("vitral")))
    assert found == "workflows/made_up.py:1: vitral.tasks.classification"
