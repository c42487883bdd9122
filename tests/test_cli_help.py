"""Help and the one parser: what `--help` costs and shows, and how words are read."""

import importlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import vitral as vt
from vitral.cli import VERBS, main
from vitral.cli.argv import normalize, split
from vitral.cli.parser import WIDTH, Parser

SOURCE = Path(__file__).parents[1] / "src"
HELPS = (*VERBS, "study data-size")
WITH_CONFIG = ("train", "self-train", "verify-resume")
"""Verbs that take the fields of the config as flags."""
COMMON = 13
"""Most flags on the first page."""


def verb_module(verb: str):
    name = verb.split()[-1].replace("-", "_")
    return importlib.import_module(f"vitral.cli.verbs.{name}")


def run_python(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_no_help_imports_torch_or_numpy():
    code = (
        "import contextlib, io, sys\n"
        "from vitral.cli import main\n"
        f"for verb in {HELPS!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        assert main([*verb.split(), '--help']) == 0, verb\n"
        "    slow = {'torch', 'numpy', 'PIL', 'tyro', 'rich'} & set(sys.modules)\n"
        "    assert not slow, (verb, slow)\n"
    )
    run_python(code)


@pytest.mark.parametrize("verb", HELPS)
def test_help_fits_two_screens(verb, capsys):
    assert main([*verb.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: vitral {verb}")
    assert len(lines) <= 50
    assert max(map(len, lines)) <= WIDTH
    assert sum(line.startswith("  -") for line in lines) <= COMMON
    start = lines.index("examples:") + 1
    examples = lines[start : start + 3]
    assert all(line.startswith(f"  vitral {verb}") for line in examples)
    assert lines[start + 3] == ""
    assert lines[-1] == f"`vitral {verb} --help-all` lists every flag."


@pytest.mark.parametrize("verb", HELPS)
def test_examples_of_the_help_parse(verb):
    from vitral.cli.train_config import apply_flags, config_flags
    from vitral.cli.verbs import train
    from vitral.workflows import TrainConfig

    examples = verb_module(verb).make_parser().examples
    assert len(examples) == 3
    for example in examples:
        argv = shlex.split(example)[1 + len(verb.split()) :]
        parser = verb_module(verb).make_parser()
        if verb not in WITH_CONFIG:
            parser.parse(argv)
            continue
        fields = config_flags()
        others = {**fields, **train.make_parser().flags()}
        _, rest = parser.parse_known(argv, fields if verb == "train" else others)
        _, rest = train.make_parser().parse_known(rest, fields)
        apply_flags(TrainConfig(data="DATA", model="vit_s16"), rest)


@pytest.mark.parametrize("verb", HELPS)
def test_every_flag_has_a_help(verb):
    for action in verb_module(verb).make_parser().flags().values():
        assert action.help, action.option_strings


@pytest.mark.parametrize("verb", HELPS)
def test_help_all_lists_every_flag(verb, capsys):
    assert main([*verb.split(), "--help-all"]) == 0
    text = capsys.readouterr().out
    words = set(text.replace(",", " ").split())
    assert set(verb_module(verb).make_parser().flags()) <= words
    if verb in WITH_CONFIG:
        assert set(config_flag_names(vt.TrainConfig(data="DATA", model="m"))) <= words


def config_flag_names(config: object) -> Iterable[str]:
    import dataclasses

    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from config_flag_names(value)
        elif field.name not in ("data", "preprocess_changes"):
            yield "--" + field.name.replace("_", "-")


def defaults_in(capsys, *argv: str) -> str:
    assert main(["train", *argv, "--help-all"]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_all_shows_what_the_recipe_sets(capsys):
    config = vt.recipes.get_recipe("vit.imagenet.b16")("imagenet", "")
    text = defaults_in(capsys, "--recipe", "vit.imagenet.b16")
    assert f"(default: {config.batch_size})" in text
    assert (
        f"The highest learning rate of the schedule. (default: {config.optim.lr})"
        in (text)
    )
    assert "recipe vit.imagenet.b16" in text
    text = defaults_in(capsys, "digits")
    assert "--epochs FLOAT" in text
    assert "Images per update. (default: 64)" in text
    assert "recipe small.scratch for digits" in text
    text = defaults_in(capsys, "digits", "--objective", "mae", "--batch-size", "7")
    assert "--mask-ratio" in text
    assert "Images per update. (default: 7)" in text


def test_literals_are_those_of_the_modules_that_help_may_not_import():
    from vitral.autotune import WAYS
    from vitral.cli import flags
    from vitral.cli.verbs import (
        convert,
        data_size,
        inspect,
        predict,
        self_train,
        train,
        transfer,
        tune_speed,
    )
    from vitral.studies import data_size as study
    from vitral.studies.families import MODELS
    from vitral.tasks import objectives
    from vitral.training.distributed import TIMEOUT
    from vitral.weights import available_layouts
    from vitral.workflows import features
    from vitral.workflows import predict as prediction
    from vitral.workflows import transfer as transferring
    from vitral.workflows.inspect import FIGURES
    from vitral.workflows.self_training import SelfTrainingConfig

    described = train.make_parser().flags()["--objective"].help or ""
    assert [name for name in objectives() if name not in described] == []
    assert train.RANK_TIMEOUT == TIMEOUT
    assert tuple(features.PROTOCOLS) == flags.PROBES
    assert tuple(transferring.PROTOCOLS) == transfer.PROTOCOLS
    assert tuple(transferring.SHOTS) == transfer.SHOTS
    assert tuple(FIGURES) == inspect.FIGURES
    assert tuple(prediction.WRITERS) == predict.WRITERS
    assert tuple(WAYS) == tune_speed.WAYS
    assert {n: lay.title for n, lay in available_layouts().items()} == convert.LAYOUTS
    assert (study.NAME, tuple(study.DRAWS)) == (data_size.NAME, tuple(data_size.DRAWS))
    assert tuple(study.PROTOCOLS) == data_size.PROTOCOLS
    assert tuple(MODELS) == data_size.MODELS
    args = self_train.make_parser().parse([])
    assert self_train._settings(args) == SelfTrainingConfig()
    shown = {f for f in train.make_parser()._later for f in f.option_strings}
    assert shown <= set(config_flags_of_train())


def config_flags_of_train() -> Iterable[str]:
    from vitral.cli.train_config import config_flags

    return config_flags()


# one parser


SPELLINGS = (
    ["--batch-size=4"],
    ["--batch_size=4"],
    ["--batch-size", "4"],
    ["--batch_size", "4"],
    ["-b", "4"],
    ["-b4"],
    ["-b=4"],
)


@pytest.mark.parametrize("flag", SPELLINGS, ids=" ".join)
@pytest.mark.parametrize("first", [False, True])
def test_predict_takes_every_spelling_anywhere(flag, first):
    words = ["RUN", "x.jpg", "y.jpg"]
    argv = [*flag, *words] if first else [*words, *flag]
    args = verb_module("predict").make_parser().parse(argv)
    assert (args.run, args.files) == ("RUN", ["x.jpg", "y.jpg"])
    assert args.batch_size == 4
    args = verb_module("predict").make_parser().parse(["RUN", *flag, *words[1:]])
    assert args.files == ["x.jpg", "y.jpg"]


@pytest.mark.parametrize("verb", [verb for verb in HELPS if verb not in WITH_CONFIG])
def test_every_verb_takes_underscores(verb):
    parser = verb_module(verb).make_parser()
    for name, action in parser.flags().items():
        if "-" not in name.strip("-") or action.nargs == 0:
            continue
        word = str(next(iter(action.choices))) if action.choices else "1"
        spelled = "--" + name[2:].replace("-", "_")
        for argv in ([f"{spelled}={word}"], [spelled, word], [f"{name}={word}"]):
            parts = split(normalize(argv), parser.flags(), {}, 9)
            assert parts.flags[0].partition("=")[0] == name
            assert not parts.unknown


@pytest.mark.parametrize(
    "argv",
    [
        ["DATA", "--out", "x", "--image-size", "32", "48", "--lr", "1e-3"],
        ["--out", "x", "--image-size", "32", "48", "--lr", "1e-3", "DATA"],
        ["--out=x", "--lr=1e-3", "--image_size", "32", "48", "DATA"],
        ["--image-size", "32", "48", "DATA", "--out", "x", "--lr", "1e-3"],
        ["--img_size", "32", "48", "--data", "DATA", "--out", "x", "--lr", "1e-3"],
        ["--data=DATA", "--out", "x", "--image-size", "32", "48", "--lr", "1e-3"],
        [
            "--set",
            "depth=2",
            "DATA",
            "--out",
            "x",
            "--image-size",
            "32",
            "48",
            "--lr=1e-3",
        ],
    ],
    ids=" ".join,
)
def test_data_of_train_stands_anywhere(argv):
    from vitral.cli.train_config import apply_flags, config_flags
    from vitral.cli.verbs import train

    args, rest = train.make_parser().parse_known(argv, config_flags())
    assert (args.data, args.out) == ("DATA", "x")
    config = apply_flags(vt.TrainConfig(data="DATA", model="vit_s16"), rest)
    assert config.image_size == (32, 48)
    assert config.optim.lr == 1e-3


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        (["--dihedral"], True),
        (["--dihedral", "True"], True),
        (["--dihedral=true"], True),
        (["--no-dihedral"], False),
        (["--dihedral", "False"], False),
        (["--dihedral=false"], False),
        (["--no-dihedral", "True"], False),
        (["--no-dihedral=False"], True),
    ],
    ids=str,
)
def test_a_switch_takes_its_value(flag, expected):
    from vitral.cli.train_config import apply_flags, config_flags
    from vitral.cli.verbs import train

    for argv in (["DATA", *flag], [*flag, "DATA"], [*flag, "--flip", "0", "DATA"]):
        args, rest = train.make_parser().parse_known(argv, config_flags(argv))
        assert args.data == "DATA"
        config = apply_flags(vt.TrainConfig(data="DATA", model="vit_s16"), rest)
        assert config.augment.dihedral is expected


def test_a_switch_of_the_verb_takes_its_value():
    from vitral.cli.verbs import train

    for flag, expected in ((["--twin", "True"], True), (["--twin=False"], False)):
        args, _ = train.make_parser().parse_known([*flag, "DATA"], {})
        assert (args.twin, args.data) == (expected, "DATA")


def test_a_flag_of_several_objectives_is_read_as_the_named_one_does():
    from vitral.cli.train_config import config_flags
    from vitral.cli.verbs import train

    argv = ["--target", "price", "rooms", "--out", "x"]
    args, rest = train.make_parser().parse_known(["houses", *argv], config_flags(argv))
    assert (args.data, rest) == ("houses", ["--target", "price", "rooms"])
    argv = ["--objective", "masked_patch", "--target", "pixels", "photos"]
    args, rest = train.make_parser().parse_known(argv, config_flags(argv))
    assert (args.data, rest) == ("photos", ["--target", "pixels"])


@pytest.mark.parametrize(
    ("verb", "argv"),
    [
        ("eval", ["RUN", "--data", "DATA"]),
        ("eval", ["--data=DATA", "RUN"]),
        ("eval", ["--shots", "1", "5", "RUN", "DATA"]),
        ("data", ["check", "--data", "DATA"]),
        ("data", ["--data", "DATA", "check"]),
        ("self-train", ["--data", "DATA", "POOL"]),
        ("verify-resume", ["RECIPE", "--data", "DATA"]),
    ],
    ids=str,
)
def test_data_may_be_named_where_it_is_a_positional(verb, argv):
    args = verb_module(verb).make_parser().parse(argv)
    assert args.data == "DATA"
    assert getattr(args, "unlabelled", "POOL") == "POOL"
    assert getattr(args, "run", "RUN") == "RUN"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (
            ["predict", "RUN", "x.jpg", "--batch-sise=4"],
            "--batch-sise. Did you mean --b",
        ),
        (["predict", "--batch_sise", "4", "RUN", "x.jpg"], "Did you mean --batch-size"),
        (
            ["train", "--batch-sise", "4", "x", "--out", "y"],
            "Did you mean --batch-size",
        ),
        (["train", "digits", "--out", "x", "--mask-ratio", "0.5"], "--mask-ratio."),
        (["train", "digits", "more", "--out", "x"], "unknown argument more."),
        (
            ["train", "digits", "--out", "x", "--lr", "fast"],
            "invalid float value: 'fast'",
        ),
        (["train", "digits", "--out", "x", "--lr"], "argument --lr: expected one arg"),
        (["train", "digits", "--out", "x", "--crop", "all"], "invalid choice: 'all'"),
        (
            ["train", "--out", "x"],
            "needs the data, as in `vitral train DATA --out RUN`",
        ),
        (["eval"], "the following arguments are required: run"),
    ],
    ids=str,
)
def test_what_the_parser_refuses(argv, sentence, capsys):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.out == ""


def test_config_values_of_every_type():
    from vitral.cli.train_config import apply_flags

    config = vt.TrainConfig(data="DATA", model="vit_s16")
    argv = "--image-size 64 --resolutions 32 64 --betas 0.8 0.9 --cache --freeze 2 "
    argv += "--no-cache --class-weights 1 2.5 --head-decay -1 --schedule rsqrt "
    argv += "--monitor loss --model-changes depth 3 qk_norm true"
    changed = apply_flags(config, argv.split())
    assert (changed.image_size, changed.resolutions) == (64, (32, 64))
    assert changed.optim.betas == (0.8, 0.9)
    assert changed.cache is False
    assert changed.objective.class_weights == (1.0, 2.5)
    named = apply_flags(config, ["--class-weights", "salt;pepper=2", "a=b=1e-1"])
    assert named.objective.class_weights == ("salt;pepper=2", "a=b=1e-1")
    auto = apply_flags(config, ["--class-weights", "auto"])
    assert auto.objective.class_weights == ("auto",)
    assert changed.optim.head_decay == -1.0
    assert changed.schedule.schedule == "rsqrt"
    assert changed.model_changes == {"depth": 3, "qk_norm": True}
    assert apply_flags(
        changed, ["--class-weights", "None"]
    ).objective.class_weights is (None)
    assert apply_flags(config, []) == config
    parser = Parser("try", "")
    parser.add_argument("--rate", type=float)
    assert parser.parse(["--rate", "-1e-3"]).rate == -1e-3


def test_words_after_two_dashes_are_no_flags():
    parser = Parser("try", "", usage="FILES...")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--top", type=int)
    args = parser.parse(["--top", "3", "--", "-x.jpg", "--a_b"])
    assert args.files == ["-x.jpg", "--a_b"]
    assert args.top == 3
