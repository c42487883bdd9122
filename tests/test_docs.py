"""README and docs: Python runs, commands exist, links lead somewhere.

A Python block runs when the line before it is `<!-- run -->`; the blocks of a file
share their names. They find photos/ with three classes and a trained runs/photos.
"""

import ast
import contextlib
import functools
import importlib
import io
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitral import models, recipes
from vitral.cli import VERBS, main
from vitral.cli.parser import Parser
from vitral.cli.train_config import apply_flags, config_flags
from vitral.data import AugmentConfig
from vitral.errors import ConfigError
from vitral.tasks import get_objective, objectives
from vitral.training import LoopConfig
from vitral.workflows import TrainConfig
from vitral.workflows.train import train

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
DEV = ROOT / "docs" / "dev"
"""Of the repository alone: the sdist leaves it out."""
EXPERIMENTS = sorted((DEV / "experiments").glob("*.md"))
RUNNABLE = re.compile(r"^<!-- run -->\n```python\n(.*?)^```$", re.M | re.S)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.M | re.S)
COMMENT = re.compile(r"<!--.*?-->", re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"^vitral(?: [^|#\n]*)?", re.M)
FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z-]*|-[a-z])(?![\w-])")
HELP = {"--help", "--help-all"}
OWN_PATH = re.compile(
    r"(?:src|tests|docs|benchmarks)/[\w./-]+|Makefile|constraints\.txt|pyproject\.toml"
)


def by_name(page: Path) -> str:
    return page.name


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ with 3 x 12 small images, and a run of four steps on them."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("apple", "banana", "cherry")):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 80, (24, 40, 3)).astype(np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number:02d}.png")
    config = TrainConfig(
        data="photos",
        model="vit_mu8",
        image_size=(24, 40),
        batch_size=8,
        augment=AugmentConfig(flip=0.0),
        loop=LoopConfig(steps=4, eval_every=2),
    )
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()):
        train(config, "runs/photos")
    return folder


@pytest.mark.parametrize(
    "page", [p for p in PAGES if RUNNABLE.search(p.read_text())], ids=by_name
)
def test_marked_python_runs(
    page: Path, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, code in enumerate(RUNNABLE.findall(page.read_text())):
        exec(compile(code, f"{page.name} block {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_all_python_is_python(page: Path) -> None:
    for code in PYTHON.findall(page.read_text()):
        ast.parse(code)


def commands(text: str) -> list[str]:
    """What a reader would type, from fenced blocks and from `inline code`."""
    joined = text.replace("\\\n", " ")
    blocks = FENCED.findall(joined)
    spans = re.findall(r"`([^`\n]+)`", FENCED.sub("", joined))
    return [found for part in (*blocks, *spans) for found in COMMAND.findall(part)]


@functools.cache
def help_of(verb: str) -> str:
    shown = io.StringIO()
    every = (
        [["--objective", name] for name in objectives()] if verb == "train" else [[]]
    )
    with contextlib.redirect_stdout(shown):
        for words in every:
            assert main([verb, *words, "--help-all"]) == 0
    return shown.getvalue()


def test_commands_have_the_verbs_and_flags_that_are_there() -> None:
    known = {verb: HELP | set(FLAG.findall(help_of(verb))) for verb in VERBS}
    found = [(page, line) for page in PAGES for line in commands(page.read_text())]
    assert len(found) > 30
    for page, line in found:
        words = line.split()
        if len(words) == 1 or words[1] in ("VERB", "--help", "--version"):
            continue
        assert words[1] in VERBS, f"{page.name}: {line}"
        missing = set(FLAG.findall(line)) - known[words[1]]
        assert not missing, f"{page.name}: {line}: {missing}"


def parse(words: list[str]) -> None:
    """Read a command line as the command does; it exits where it refuses."""
    verb, *argv = words
    if verb == "study" and argv[:1] == ["data-size"]:
        verb, argv = "data_size", argv[1:]
    module = importlib.import_module(f"vitral.cli.verbs.{verb.replace('-', '_')}")
    parser = module.make_parser()
    if verb == "train":
        parse_train(parser, argv)
    elif verb in ("self-train", "verify-resume"):
        train = importlib.import_module("vitral.cli.verbs.train").make_parser()
        others = {**config_flags(), **train.flags()}
        _, rest = parser.parse_known(argv, others)
        parse_train(train, rest)
    else:
        parser.parse(argv)


def parse_train(parser: Parser, argv: list[str]) -> None:
    args, rest = parser.parse_known(argv, config_flags(argv))
    names = [args.objective] if args.objective else ["supervised", "regression"]
    for number, name in enumerate(names):
        objective = get_objective(name)
        config = TrainConfig(data="DATA", model="vit_ti16", objective=objective)
        try:
            with contextlib.suppress(ConfigError):  # settings of the recipe are missing
                apply_flags(config, rest)
            return
        except SystemExit:
            if number == len(names) - 1:
                raise


def command_words(line: str) -> list[str]:
    """The words behind `vitral`, without what the shell takes; [] for a scheme."""
    words = shlex.split(line.partition(" > ")[0].partition(" && ")[0], comments=True)
    is_scheme = any(word in ("...", "VERB") or "..." in word for word in words)
    return [] if is_scheme or len(words) < 2 else words[1:]


def fenced_commands(page: Path) -> list[str]:
    joined = page.read_text().replace("\\\n", " ")
    return [found for part in FENCED.findall(joined) for found in COMMAND.findall(part)]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if fenced_commands(page)], ids=by_name
)
def test_every_command_parses(page: Path) -> None:
    for line in fenced_commands(page):
        words = command_words(line)
        if not words or HELP & set(words) or words[0].startswith("-"):
            continue
        try:
            parse(words)
        except SystemExit as error:
            pytest.fail(f"{page.name}: {line}: exit {error.code}")


def test_flags_of_training_in_prose_parse() -> None:
    known = {**importlib.import_module("vitral.cli.verbs.train").make_parser().flags()}
    known |= config_flags()
    with_config = ("train", "self-train", "verify-resume")
    for verb in sorted({*VERBS} - {*with_config}):
        module = importlib.import_module(f"vitral.cli.verbs.{verb.replace('-', '_')}")
        known = {
            flag: known[flag] for flag in known.keys() - module.make_parser().flags()
        }
    found = 0
    for page in PAGES:
        for span in re.findall(r"`(--[a-z][^`\n]*)`", page.read_text()):
            words = shlex.split(span)
            is_example = len(words) > 1 and not re.search(r"\b[A-Z]+\b|\.\.\.", span)
            if words[0] not in known or not is_example:
                continue
            found += 1
            data = [] if words[-1] == "photos" else ["DATA"]
            try:
                parse(["train", *data, "--out", "RUN", *words])
            except SystemExit:
                pytest.fail(f"{page.name}: {span}")
    assert found > 30


def test_flags_in_prose_are_flags_of_some_verb() -> None:
    known = {"--version", "--no-python"} | HELP  # the last is torchrun's
    known = known.union(*(FLAG.findall(help_of(verb)) for verb in VERBS))
    for page in PAGES:
        for span in re.findall(r"`(--?[a-z][^`\n]*)`", page.read_text()):
            assert set(FLAG.findall(span)) <= known, f"{page.name}: {span}"


def test_recipes_and_models_in_commands_exist() -> None:
    for page in PAGES:
        for line in commands(page.read_text()):
            for name in re.findall(r"--recipe ([a-z]\S*)", line):
                assert name in recipes.RECIPES, f"{page.name}: {line}"
            for name in re.findall(r"--model ([a-z]\S*)", line):
                models.get_config(name)


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_links_and_paths_resolve(page: Path) -> None:
    check_links(page)
    for span in re.findall(r"`([^`\n]+)`", FENCED.sub("", page.read_text())):
        if OWN_PATH.fullmatch(span):
            assert (ROOT / span).exists(), f"{page.name} names {span}"


@pytest.mark.parametrize("page", EXPERIMENTS, ids=by_name)
def test_links_of_experiments_resolve(page: Path) -> None:
    # Commands and paths stay as they were when the figures were measured.
    check_links(page)


@pytest.mark.skipif(not DEV.exists(), reason="the sdist has no docs/dev")
def test_every_file_of_experiments_is_in_their_index() -> None:
    index = DEV / "experiments" / "index.md"
    assert {page.name for page in EXPERIMENTS} - {index.name} == set(
        LINK.findall(index.read_text())
    )


def check_links(page: Path) -> None:
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if target.is_relative_to(DEV) and not DEV.exists():
            continue
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made for HTML."""
    titles = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.M)
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in plain}


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in PAGES[1:]:
        assert page.name == "index.md" or f"]({page.name})" in index


def test_no_number_is_left_to_fill_in() -> None:
    open_places = [
        f"{page.name}: {line.strip()}"
        for page in (*PAGES, ROOT / "CHANGELOG.md")
        for line in COMMENT.sub("", page.read_text()).splitlines()
        if "TODO_RESULT" in line
    ]
    assert not open_places
