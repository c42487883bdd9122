"""A config.json of a stranger: one sentence, or the model that was saved."""

import copy
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vitral as vt
from helpers import randomise
from vitral.cli import main
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.models import ModelConfig, ViTConfig, build_model
from vitral.models.resnet import ResNetConfig
from vitral.models.tnt import TNTConfig
from vitral.weights.layouts.vitral import save

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    -0.5,
    1e-300,
    10**12,
    10**400,
    1e300,
    "",
    "x" * 5000,
    "\ud800",
    [],
    [[]],
    [-1, 0],
    [0.5, 0.5, -0.5],
    [10**12] * 3,
    [float("nan")] * 3,
    float("nan"),
    float("inf"),
    {},
    {"a": {"b": []}},
)
NUMBERS = ("target_mean", "target_std", "interval_half_width")


def write_model(folder: Path, config: ModelConfig, **extra: Any) -> Path:
    model = build_model(config)
    randomise(model)
    size = config.image_hw
    names, preprocess = ("a", "b", "c"), Preprocess(image_size=size)
    save(folder, model, preprocess, classes=names, extra=extra)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ViTConfig(
        image_size=32, embed_dim=16, depth=2, num_heads=2, mlp_dim=32, num_classes=3
    )
    folder = tmp_path_factory.mktemp("models") / "classes"
    return write_model(folder, config, task="classification", temperature=1.3)


@pytest.fixture(scope="module")
def regressor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = TNTConfig(
        image_size=32,
        embed_dim=16,
        depth=2,
        num_heads=2,
        mlp_dim=32,
        inner_dim=8,
        inner_num_heads=2,
        inner_mlp_dim=16,
        num_classes=3,
    )
    folder = tmp_path_factory.mktemp("models") / "numbers"
    return write_model(
        folder,
        config,
        task="regression",
        target_mean=[1.0, 2.0, 3.0],
        target_std=[1.0, 2.0, 3.0],
        interval_half_width=[0.5, None, 1.0],
    )


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key of the block that the model is read from, and every item of a list."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*at, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*at, key))


def put(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(document)
    parent = changed
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    return changed


def may_be_own(place: tuple[Any, ...], value: Any) -> bool:
    """True for a value of another model that vitral could have written."""
    if place[0] == "classes":
        return value == [] or (isinstance(value, str) and value != "")
    if place[0] in NUMBERS and isinstance(value, list) and len(value) == 3:
        least = 0 if place[0] != "target_mean" else -1
        return all(isinstance(each, int | float) and each > least for each in value)
    if place[-1] in NUMBERS:
        return value is None and place[-1] == "interval_half_width"
    if place[0] == "temperature" and type(value) is float:
        return value == 1.3
    if place[0] not in NUMBERS or isinstance(value, list | dict | str | bool):
        return False
    if value is None:
        return place[0] == "interval_half_width"
    low = {"target_std": 1e-300, "target_mean": -1e100}.get(place[0], 0)
    return bool(low <= value <= 1e100)


def answer(folder: Path) -> list[dict[str, Any]]:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    run = vt.open(folder)
    answers = [item.row() for item in run.decode(run.predict_outputs(pixels))]
    json.dumps(answers, allow_nan=False)
    return [{**row, "image_size": run.preprocess.image_size} for row in answers]


@pytest.mark.parametrize(
    "quick", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["some", "all"]
)
@pytest.mark.parametrize("name", ["classifier", "regressor"])
def test_each_wrong_value_is_refused_or_changes_nothing(name, quick, request, tmp_path):
    source: Path = request.getfixturevalue(name)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(source / "model.safetensors")
    document = json.loads((source / "config.json").read_text())
    expected = answer(source)
    pairs = [
        (("vitral", *place), value)
        for place in places(document["vitral"])
        for value in HOSTILE
    ]
    problems = []
    for place, value in random.Random(20).sample(pairs, 400 if quick else len(pairs)):
        changed = put(document, place, value)
        (folder / "config.json").write_text(json.dumps(changed))
        start = time.monotonic()
        try:
            same = answer(folder) == expected or may_be_own(place[1:], value)
            outcome = "" if same else "another answer"
        except WeightsError as error:
            outcome = "" if len(str(error)) < 1500 else "a long sentence"
        except Exception as error:
            outcome = f"{type(error).__name__}: {str(error)[:200]}"
        seconds = time.monotonic() - start
        outcome = outcome or (f"{seconds:.1f} s" if seconds > 2 else "")
        if outcome:
            where = ".".join(map(str, place))
            problems.append(f"{where} = {ascii(value)[:30]}: {outcome}")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (("config", "depth"), 10**12, "`depth` must lie between 1 and 1024: got 10000"),
        (("config", "depth"), -1, "`depth` must lie between 1 and 1024: got -1"),
        (("config", "depth"), 900, "`depth` asks for 900 blocks, but there are only"),
        (("config", "depth"), 0, "`depth` must lie between 1 and 1024: got 0"),
        (("config", "num_heads"), 0, "`num_heads` must lie between 1 and 4096: got 0"),
        (("config", "image_size"), [32, 2**15], "16,384 patches|position|pos_embed"),
        (("config", "embed_dim"), [16], "expected a whole number, got .16"),
        (("config", "norm_eps"), -1.0, "`norm_eps` must lie between 1e-30 and 1"),
        (
            ("preprocess",),
            {},
            "`preprocess` has no antialias, crop_fraction, image_size",
        ),
        (("task",), "", "There is no task ``"),
        (("temperature",), None, "`temperature` is None, expected a number from"),
        (("temperature",), 0, "`temperature` is 0, expected a number from 0.001"),
        (("temperature",), -1, "`temperature` is -1, expected a number from 0.001"),
        (("temperature",), [1], r"`temperature` is \[1\], expected a number"),
        (("preprocess", "std"), [-1, 1, 1], r"`Preprocess.std` must be a positive"),
        (("preprocess", "crop_fraction"), 1e-9, "`Preprocess.crop_fraction` must be"),
        (("eval_views",), "many", "`eval_views` is 'many', expected one of one, flip"),
        (("classes",), {"a": 1}, "`classes` is .*, expected a list"),
        (("classes", 1), "\ud800", "`classes` holds '.ud800', expected names of Uni"),
        (("task",), "no such", "There is no task `no such`"),
    ],
)
def test_the_sentence_names_the_field(classifier, tmp_path, place, value, sentence):
    document = json.loads((classifier / "config.json").read_text())
    parent = document["vitral"]
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    (tmp_path / "model.safetensors").symlink_to(classifier / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(WeightsError, match=sentence):
        vt.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[" * 10**6, "nested too deeply"),
        ('{"a":' * 10**6 + "1" + "}" * 10**6, "nested too deeply"),
        ('{"vitral": NaN}', "NaN is no number of JSON"),
        ('{"vitral": 1e999}', "1e999 is too large a number"),
        ('{"vitral": ' + "9" * 5000 + "}", "is not readable JSON"),
        ('{"vitral": 7}', "has no object `config`"),
        ("\ufeff{}", "is not readable JSON"),
    ],
)
def test_text_that_is_no_document(classifier, tmp_path, text, sentence, capsys):
    (tmp_path / "model.safetensors").symlink_to(classifier / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    start = time.process_time()
    assert main(["predict", str(tmp_path), "photo.jpg"]) == 4
    assert time.process_time() - start < 2
    assert sentence in capsys.readouterr().err


def test_settings_out_of_bounds_are_refused_in_python_too():
    for fields, name in (({"depth": 10**9}, "depth"), ({"embed_dim": 0}, "embed_dim")):
        with pytest.raises(ConfigError, match=f"`{name}` must lie between"):
            ViTConfig(**fields)
    with pytest.raises(ConfigError, match="`inner_dim` must lie between 1 and"):
        TNTConfig(inner_dim=-24)
    with pytest.raises(ConfigError, match="`width_factor` must lie between 1 and 64"):
        ResNetConfig(width_factor=10**6)
