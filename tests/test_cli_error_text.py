"""Errors of the library in the words of a command, and advice that can be followed."""

import ast
import logging
import re
from pathlib import Path

import pytest

import vitral
from photos import make_photos
from vitral.cli import VERBS, main
from vitral.cli.error_text import flags_of, name_flags
from vitral.cli.logs import install_handler, set_verb
from vitral.cli.train_config import config_flags

SOURCE = Path(vitral.__file__).parent
FLAG = re.compile(r"(?<![\w/-])--[a-z][a-z0-9-]*[a-z0-9]")
OTHERS = {"--max-restarts", "--no-python", "--nproc-per-node", "--standalone"}
"""Flags of torchrun."""
OTHERS |= {"--upgrade", "--no-deps", "--sparse"}
"""Flags of pip and tar."""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise `max_bad`.", "raise `--max-bad`."),
        ("set `mixup=0`, `lr=1e-3`", "set `--mixup 0`, `--lr 1e-3`"),
        ("go on with `resume=True`", "go on with `--resume`"),
        ("take `loss=sigmoid`", "take `--loss sigmoid`"),
        ("`patch_size` and `val share`", "`patch_size` and `val share`"),
        ("`cache=False` and `cache`", "`--no-cache` and `--cache`"),
        # Flags of other verbs, where they have a value.
        ("`protocol` and `protocol=knn`", "`protocol` and `--protocol knn`"),
        ("as in `seeds=(0, 1, 2)`", "as in `--seeds 0 1 2`"),
        ("export with `static=False`", "export with no `--static`"),
    ],
)
def test_parameters_become_flags(text, said):
    assert name_flags(text, "train") == said


def test_every_verb_has_its_flags():
    assert "--max-bad" in flags_of("train") & flags_of("data")
    for verb in VERBS:
        assert flags_of(verb) or verb in ("models", "report")


def test_a_share_of_unreadable_files_is_refused_and_accepted(tmp_path, capsys):
    photos = make_photos(tmp_path / "photos", splits=("train", "val"), per_class=15)
    broken = sorted((photos / "train").rglob("*.png"))[0]
    broken.write_bytes(broken.read_bytes()[:60])
    words = ["train", str(photos), "--model", "vit_mu16", "--image-size", "32"]
    words += ["--steps", "1", "--warmup", "0", "--device", "cpu", "--out"]
    assert main([*words, str(tmp_path / "a")]) == 3
    said = capsys.readouterr().err
    assert "1 of 90 images cannot be decoded, more than the 1% that is" in said
    assert said.rstrip().endswith("or raise `--max-bad`.")
    assert main([*words, str(tmp_path / "b"), "--max-bad", "0.02"]) == 0
    assert main([*words, str(tmp_path / "c"), "--max-bad", "-1"]) == 2
    assert "`--max-bad` must not be negative" in capsys.readouterr().err
    assert main(["data", "check", str(photos)]) == 0
    assert "--max-bad 0.02 --out" in capsys.readouterr().out
    assert main(["data", "check", str(photos), "--max-bad", "0"]) == 3
    assert "unreadable: train/" in capsys.readouterr().out
    assert main(["data", "split", str(photos), "--max-bad", "0"]) == 2


def texts(file: Path) -> list[tuple[int, str]]:
    """Return the strings of a file that are no docstring, f-strings joined."""
    tree = ast.parse(file.read_text("utf-8"))
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)
    found = []
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and node not in skipped:
            found.append((node.lineno, node.value))
    return found


def test_flags_in_sentences_are_flags_of_some_verb():
    known = set(config_flags()) | OTHERS | {"--help", "--help-all", "--version"}
    known |= {flag for verb in (*VERBS, "data-size") for flag in flags_of(verb)}
    unknown = [
        f"{file.relative_to(SOURCE)}:{line}: {flag}"
        for file in sorted(SOURCE.rglob("*.py"))
        for line, text in texts(file)
        for flag in FLAG.findall(text)
        if " " in text and flag not in known
    ]
    assert unknown == []


def test_log_lines_name_flags_too(capsys):
    """Only the last sentence of a failed command did."""
    logger = logging.getLogger("vitral.workflows.transfer")
    set_verb("eval")
    install_handler(print)
    logger.info("Give one rate with `lrs`, or raise `max_bad`.")
    logger.info("`class_token` is no flag; `lrs=(0.1, 0.2)` has two rates.")
    assert capsys.readouterr().out.splitlines() == [
        "Give one rate with `--lrs`, or raise `--max-bad`.",
        "`class_token` is no flag; `--lrs 0.1 0.2` has two rates.",
    ]
