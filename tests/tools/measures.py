"""Count what a newcomer meets in the code: names, docstrings, parameters, folders.

    python tests/tools/measures.py [SOURCE_FOLDER] [--list MEASURE]

Prints one line a measure, counted from the syntax trees below SOURCE_FOLDER (by default
src/vitral of this checkout). It is a mirror and no fence: it always exits with 0.
`--list` prints the places behind one measure.
"""

import argparse
import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "vitral"
_IRREGULAR = (
    "asked been begun beheld bound broken brought built called caught chosen come cut "
    "done drawn driven eaten fallen felt fit forgotten found given gone grown held "
    "hidden joined judged kept known laid led left lent let lost made meant met paid "
    "put read ridden risen run said seen sent set shown shut sold sought spent split "
    "spread stood stuck sworn taken taught thought thrown told understood woken won "
    "worn written"
)
IRREGULAR = frozenset(_IRREGULAR.split())
_VERBS_TOO = "read run set put cut let split spread fit bound"
VERBS_TOO = frozenset(_VERBS_TOO.split())
"""Participles that are imperatives as well."""
QUESTIONS = re.compile(r"(What|Whether|Who|How|Why|Where|That)\b")
VARIABLES = ("found", "place", "about", "words", "held", "told", "said", "kept")
FORBIDDEN = (
    "whoever",
    "gone on with",
    "goes on ",
    "in turns",
    "lets go of",
    "is heard",
    "is told",
    "so many-th",
    "the begin ",
    "comes to nothing",
    "by the hundred thousand",
)
LABELS = re.compile(r"multi_label|\bMultiLabel\b|\bClassification\b|num_classes")


def files_of(source: Path) -> dict[Path, ast.Module]:
    """Parse every Python file below `source`."""
    return {
        file: ast.parse(file.read_text(encoding="utf-8"))
        for file in sorted(source.rglob("*.py"))
    }


def functions(trees: dict[Path, ast.Module]) -> Iterator[tuple[Path, ast.FunctionDef]]:
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield file, node  # type: ignore[misc]


def classes(trees: dict[Path, ast.Module]) -> Iterator[tuple[Path, ast.ClassDef]]:
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                yield file, node


def is_participle(name: str) -> bool:
    """Whether the whole name is one irregular participle or one word in -ed."""
    word = name.strip("_")
    regular = re.fullmatch(r"[a-z]{2,}ed", word) and word not in ("seed", "embed")
    return bool(regular) or (word in IRREGULAR and word not in VERBS_TOO)


def has_participle(name: str) -> bool:
    """Whether the name begins or ends with a participle."""
    words = name.strip("_").split("_")
    return is_participle(words[0]) or is_participle(words[-1])


def parameters(node: ast.FunctionDef) -> list[str]:
    args = node.args
    names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def positional(node: ast.FunctionDef) -> list[str]:
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
    return [name for name in names if name not in ("self", "cls")]


def participle_functions(trees: dict[Path, ast.Module]) -> list[str]:
    return [f"{f}: {n.name}" for f, n in functions(trees) if is_participle(n.name)]


def partly_participle_functions(trees: dict[Path, ast.Module]) -> list[str]:
    return [f"{f}: {n.name}" for f, n in functions(trees) if has_participle(n.name)]


def of_functions(trees: dict[Path, ast.Module]) -> list[str]:
    return [
        f"{f}: {n.name}"
        for f, n in functions(trees)
        if n.name.strip("_") == "of" or n.name.endswith("_of")
    ]


def ambiguous_classes(trees: dict[Path, ast.Module]) -> list[str]:
    places = defaultdict(set)
    for file, node in classes(trees):
        places[node.name.lstrip("_")].add(str(file))
    return [f"{n}: {', '.join(sorted(p))}" for n, p in places.items() if len(p) > 1]


def named_tuples(trees: dict[Path, ast.Module]) -> list[str]:
    return [
        f"{file}: {node.name}"
        for file, node in classes(trees)
        if any(ast.unparse(base).endswith("NamedTuple") for base in node.bases)
    ]


def riddles(trees: dict[Path, ast.Module]) -> list[str]:
    lines = []
    for file, tree in trees.items():
        for node in ast.walk(tree):
            kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            text = ast.get_docstring(node) if isinstance(node, kinds) else None
            if text and QUESTIONS.match(text):
                lines.append(f"{file}: {text.splitlines()[0]}")
    return lines


def many_parameters(trees: dict[Path, ast.Module]) -> list[str]:
    return [
        f"{f}: {n.name} {len(parameters(n))}"
        for f, n in functions(trees)
        if len(parameters(n)) > 8
    ]


def many_positional(trees: dict[Path, ast.Module]) -> list[str]:
    return [
        f"{f}: {n.name} {len(positional(n))}"
        for f, n in functions(trees)
        if len(positional(n)) > 5
    ]


def label_modules(trees: dict[Path, ast.Module]) -> list[str]:
    return [
        str(file) for file in trees if LABELS.search(file.read_text(encoding="utf-8"))
    ]


def private_variables(trees: dict[Path, ast.Module]) -> list[str]:
    return [
        f"{file}:{node.lineno} {node.id}"
        for file, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id in VARIABLES
    ]


def config_functions(trees: dict[Path, ast.Module]) -> list[str]:
    """List the functions that take a whole TrainConfig."""
    return [
        f"{file}: {node.name}"
        for file, node in functions(trees)
        for argument in (*node.args.args, *node.args.kwonlyargs)
        if argument.annotation and "TrainConfig" in ast.unparse(argument.annotation)
    ]


def docstrings(trees: dict[Path, ast.Module]) -> Iterator[tuple[Path, str]]:
    for file, tree in trees.items():
        for node in ast.walk(tree):
            kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            text = ast.get_docstring(node) if isinstance(node, kinds) else None
            if text:
                yield file, text


def forbidden_prose(trees: dict[Path, ast.Module]) -> list[str]:
    return [
        f"{file}: {phrase.strip()}"
        for file, text in (*docstrings(trees), *pages())
        for phrase in FORBIDDEN
        if phrase in text
    ]


def pages() -> list[tuple[Path, str]]:
    """Return README and docs without code and tables."""
    files = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]
    fenced = re.compile(r"^```.*?^```$", re.M | re.S)
    table = re.compile(r"^\|.*$", re.M)
    return [(f, table.sub("", fenced.sub("", f.read_text()))) for f in files]


def long_sentences(_: dict[Path, ast.Module]) -> list[str]:
    return [
        f"{file}: {len(words)} words: {' '.join(words[:6])} ..."
        for file, text in pages()
        for sentence in re.split(r"(?<=[.:;!?])\s+(?=[A-Z`*\d-])|\n\n|\n- ", text)
        if len(words := sentence.split()) > 25
    ]


def largest_folder(trees: dict[Path, ast.Module]) -> tuple[int, Path]:
    sizes: dict[Path, int] = defaultdict(int)
    for file in trees:
        sizes[file.parent] += file.name != "__init__.py"
    return max((size, folder) for folder, size in sizes.items())


MEASURES = {
    "functions named by a participle": participle_functions,
    "functions with a participle at one end": partly_participle_functions,
    "functions named of or *_of": of_functions,
    "class names that stand in several files": ambiguous_classes,
    "NamedTuple classes": named_tuples,
    "docstrings that begin with a question word": riddles,
    "functions of more than 8 parameters": many_parameters,
    "functions of more than 5 positional parameters": many_positional,
    "functions that take a whole TrainConfig": config_functions,
    "modules that know what a class label is": label_modules,
    "uses of private words as variables": private_variables,
    "forbidden phrases in docstrings and docs": forbidden_prose,
    "sentences of more than 25 words in docs": long_sentences,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("source", nargs="?", type=Path, default=SOURCE)
    parser.add_argument("--list", choices=tuple(MEASURES))
    args = parser.parse_args()
    trees = files_of(args.source)
    if args.list:
        print("\n".join(MEASURES[args.list](trees)))
        return
    count = sum(1 for _ in functions(trees))
    print(f"{sum(1 for _ in classes(trees)):6}  classes")
    print(f"{count:6}  functions")
    for name, measure in MEASURES.items():
        number = len(measure(trees))
        share = f"  {100 * number / count:.1f} %" if "functions named" in name else ""
        print(f"{number:6}  {name}{share}")
    most = max(len(parameters(node)) for _, node in functions(trees))
    print(f"{most:6}  most parameters of a function")
    size, folder = largest_folder(trees)
    print(f"{size:6}  files in the largest folder, {folder.name}")
    lines = sum(len(f.read_text(encoding="utf-8").splitlines()) for f in trees)
    print(f"{lines:6}  lines in {len(trees)} files")


if __name__ == "__main__":
    main()
