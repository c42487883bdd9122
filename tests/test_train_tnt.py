"""A TNT in a run: it learns from the command line, and goes on from a table."""

import json
from typing import Any

import pytest
import torch

import vitral as vt
from photos import make_photos, tiny_config
from vitral.cli import main
from vitral.data import AugmentConfig
from vitral.models import TNTConfig

pytestmark = pytest.mark.usefixtures("no_report")

SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 24, "num_heads": 3, "mlp_dim": 48}
SMALL |= {"inner_dim": 8, "inner_num_heads": 2, "inner_mlp_dim": 16}


def test_digits_are_learned_from_the_command_line(tmp_path):
    """117 small steps, and eight of ten unseen digits are right; chance is one."""
    words = ["train", "digits", "--out", str(tmp_path / "run"), "--model", "tnt_ti4"]
    words += ["--set", *(f"{name}={number}" for name, number in SMALL.items())]
    words += ["--epochs", "3", "--batch-size", "32", "--lr", "4e-3", "--warmup", "5"]
    words += ["--image-size", "8", "--rotate", "0", "--shift", "0", "--zoom", "0"]
    assert main(words) == 0
    model = vt.load(tmp_path / "run").model
    assert isinstance(model.config, TNTConfig)
    assert (model.config.grid, model.config.word_grid) == ((2, 2), (4, 4))
    found = json.loads((tmp_path / "run" / "predictions" / "test.json").read_text())
    assert found["top1"] > 0.6


def test_train_open_and_go_on_from_a_table(tmp_path):
    few = make_photos(tmp_path / "few", per_class=6)
    fields: dict[str, Any] = {"batch_size": 9, "epochs": 2.0}
    config = tiny_config(few, **fields, model="tnt_ti16", model_changes=SMALL)
    run = vt.train(config, tmp_path / "run")
    loaded = vt.load(run.path)
    image = next(few.rglob("*.png"))
    with torch.no_grad():
        logits = loaded.model(loaded.preprocess(image)[None])
    answer = vt.open(run.path).predict([image])[0]
    assert answer.label == run.classes[int(logits.argmax())]
    frozen = {"model": "", "model_changes": {}, "weights": str(run.path), "freeze": 1}
    frozen |= {"augment": AugmentConfig(views=2), **fields}
    runs = {
        cache: vt.load(
            vt.train(
                tiny_config(few, **frozen, cache=cache), tmp_path / f"on-{cache}"
            ).path
        ).model.state_dict()
        for cache in (False, True)
    }
    before = loaded.model.state_dict()
    moved = {n for n, t in before.items() if not torch.equal(t, runs[True][n])}
    assert moved == {n for n in before if loaded.model.layer_index(n) > 1}
    for name, tensor in runs[False].items():
        torch.testing.assert_close(runs[True][name], tensor, rtol=0, atol=1e-5)
