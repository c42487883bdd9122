"""Flags that a mode of a verb does not read are refused, before anything is opened."""

import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from helpers import TINY, randomise
from photos import photo
from vitral.cli import VERBS, main
from vitral.cli.parser import Parser
from vitral.cli.verbs import inspect as inspect_verb
from vitral.cli.verbs import weights as weights_verb
from vitral.data import Preprocess
from vitral.errors import ConfigError
from vitral.models import ViT, ViTConfig, create
from vitral.weights import save

PROTOCOLS = ("classify", "fewshot", "linear", "knn", "finetune")
START: dict[str, dict[str, list[str]]] = {
    "eval": {name: ["none", "--protocol", name] for name in PROTOCOLS},
    "transfer": {
        name: ["none", "--data", "none", "--protocol", name] for name in PROTOCOLS[1:]
    },
    "inspect": {
        name: ["none", "none", "--out", "none", "--what", name]
        for name in (*inspect_verb.FIGURES, "all")
    },
    "data": {name: [name, "none"] for name in ("check", "split")},
    "export": {
        "": ["none", "none"],
        "--int8": ["none", "none", "--to", "openvino", "--int8"],
    },
    "train": {"": ["none", "--out", "none"], "--dry-run": ["none", "--dry-run"]},
    "weights": {
        name: [name, *([] if name == "list" else ["none"])]
        for name in weights_verb.ACTIONS
    },
    "study": {name: ["head", "--size", name] for name in ("cpu", "paper")},
}
"""Command lines of each mode of the verbs that have some."""
VALUES = {
    "--task": "classify",
    "--bad-files": "refuse",
    "--views": "1x1",
    "--from": "hub",
    "--merge-schedule": "constant",
}
OTHERS = (
    ("study position --protocol knn", "goes with `vitral study data-size`"),
    ("study head --size paper --jobs 2", "goes with `--start`"),
    ("study data-size W D --jobs 2", "goes with `--families`"),
    ("study data-size --families vit --data D --protocol knn", "goes with weights"),
    ("convert none.npz none --explain", "`--explain` says what IN is"),
    ("convert none.npz --to timm --explain", "`--explain` says what IN is"),
    ("self-train D U --out O --dry-run", "`--dry-run` does nothing"),
    ("self-train D U --out O --shard fsdp", "`--shard` does nothing"),
    ("self-train D U --out O --resume", "`--resume` is not needed"),
    ("verify-resume small.scratch --dry-run", "`--dry-run` does nothing"),
    ("verify-resume small.scratch digits --devices 2", "`--devices` does nothing"),
    ("transfer none --data none --protocol linear --shots 1", "`--shots` goes with"),
    ("eval none --protocol classify --img-size 32", "`--img-size` goes with"),
    ("transfer none --data none --protocol knn --img-size 32", "`--img-size` goes"),
)
"""Command lines with a flag that does nothing there, and what is said."""


def parser_of(verb: str) -> Parser:
    module = importlib.import_module(f"vitral.cli.verbs.{verb.replace('-', '_')}")
    return module.make_parser()


def unread(verb: str) -> list[tuple[str, str]]:
    """Each mode of a verb with a flag that it does not read."""
    readers = parser_of(verb).modes().items()
    return [
        (mode, flag)
        for mode in START[verb]
        for flag, modes in readers
        if mode not in modes and flag.startswith("--")
    ]


def words_for(verb: str, flag: str) -> Sequence[str]:
    action = parser_of(verb).flags()[flag]
    if action.nargs == 0:
        return [flag]
    return [flag, VALUES.get(flag, "4")]


def test_every_verb_with_modes_is_here() -> None:
    found = {verb for verb in VERBS if parser_of(verb).modes()}
    assert found == set(START)
    for verb, modes in START.items():
        named = {mode for names in parser_of(verb).modes().values() for mode in names}
        assert named <= {*modes, "--bf16"}


@pytest.mark.parametrize("verb", START)
def test_a_flag_that_a_mode_does_not_read_is_refused(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = unread(verb)
    assert cases
    for mode, flag in cases:
        assert main([verb, *START[verb][mode], *words_for(verb, flag)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"vitral {verb}: `{flag}` goes with `"), (mode, said)
        assert "does nothing" in said


@pytest.mark.parametrize("verb", START)
def test_a_flag_that_a_mode_reads_is_taken(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for mode, words in START[verb].items():
        read = [
            flag for flag, modes in parser_of(verb).modes().items() if mode in modes
        ]
        for flag in read[:2]:
            main([verb, *words, *words_for(verb, flag)])
            assert "does nothing" not in capsys.readouterr().err


@pytest.mark.parametrize(("line", "said"), OTHERS)
def test_other_flags_that_do_nothing(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err


def test_one_of_several_modes_is_enough() -> None:
    parser = Parser("demo", "")
    parser.add("--how", ["a"], "modes")
    parser.add("--b-only", 1, "of b", modes="b")
    parser.parse(["--how", "a", "b", "--b_only", "2"])
    parser.require_read("--how", ["a", "b"])
    with pytest.raises(ConfigError, match="`--b-only` goes with `--how b` and does"):
        parser.require_read("--how", ["a", "c"])
    parser.parse(["--how", "a"])
    parser.require_read("--how", ["a"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = ViT(ViTConfig(**TINY))
    randomise(model)
    save(tmp_path / "model", model.eval(), Preprocess(image_size=(48, 80)))
    photo(0, 1).save(tmp_path / "one.jpg")
    return tmp_path


def grad_cam_of(folder: Path, *flags: str) -> np.ndarray:
    out = folder / f"looked{len(list(folder.iterdir()))}"
    words = [str(folder / "model"), str(folder / "one.jpg"), "--what", "gradcam"]
    assert main(["inspect", *words, *flags, "--out", str(out)]) == 0
    return np.load(out / "gradcam.npz")["gradcam"]


def test_the_layer_of_grad_cam_is_used(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vitral import inspection
    from vitral.weights import load

    loaded = load(folder / "model")
    pixels = loaded.preprocess.load(folder / "one.jpg")[None]
    for layer in (0, 1):
        expected = inspection.grad_cam(loaded.model.eval(), pixels, None, layer)
        np.testing.assert_allclose(
            grad_cam_of(folder, "--layer", str(layer)), expected, atol=1e-6
        )
    first, last = grad_cam_of(folder, "--layer", "0"), grad_cam_of(folder)
    assert np.abs(first - last).max() > 1e-3
    np.testing.assert_array_equal(grad_cam_of(folder, "--layer", "-1"), last)
    words = [str(folder / "model"), str(folder / "one.jpg"), "--out", str(folder / "x")]
    for layer in ("99", "-3"):
        code = main(["inspect", *words, "--what", "gradcam", "--layer", layer])
        assert code == 2
        assert f"got {layer}" in capsys.readouterr().err


def test_a_number_has_no_list_to_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create("vit_mu16", num_classes=1, image_size=32)
    extra = {"task": "regression", "outputs": ["grams"]}
    save(tmp_path / "model", model, Preprocess(image_size=(32, 32)), extra=extra)
    photo(0, 1).save(tmp_path / "one.jpg")
    words = [str(tmp_path / "model"), str(tmp_path / "one.jpg")]
    assert main(["predict", *words, "--top", "3"]) == 2
    assert "`--top` does nothing: a model of regression" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["serve", "predict", "eval", "export", "inspect"])
@pytest.mark.parametrize("offline", [[], ["--offline"]], ids=["", "offline"])
def test_a_flag_of_all_verbs_breaks_none(
    verb: str, offline: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`--offline` reached the settings of the server, which have no such field."""
    words = {"inspect": ["x", "--out", "y"]}.get(verb, ["x"])
    assert main([verb, "nowhere", *words[: verb != "serve" and 9], *offline]) in (2, 4)
    assert "unexpected" not in capsys.readouterr().err
