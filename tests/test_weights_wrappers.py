"""The wrappings of training programs: whatever is around a model, it is that model."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer

import vitral as vt
from helpers import assert_near, images, randomise
from vitral.errors import WeightsError

State = dict[str, torch.Tensor]
SIZES: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 16,
    "embed_dim": 64,
    "depth": 2,
    "num_heads": 1,
    "num_classes": 3,
}


def made(seed: int = 0, **changes: Any) -> VisionTransformer:
    model = VisionTransformer(**{**SIZES, **changes})
    randomise(model, seed)
    return model.eval()


MODEL, OTHER = made(), made(seed=1)


def state(model: torch.nn.Module = MODEL, prefix: str = "") -> State:
    return OrderedDict((prefix + k, v) for k, v in model.state_dict().items())


def load(folder: Path, content: Any):
    torch.save(content, folder / "foreign.pth")
    return vt.load(folder / "foreign.pth")


def same(loaded, theirs: torch.nn.Module = MODEL) -> str:
    """Check that the logits are equal; return the notes."""
    assert loaded.ledger.layout == "timm"
    image = images(2, 32, 32).float()
    with torch.no_grad():
        assert_near(loaded.model(image), theirs(image), 1e-5)
    return "\n".join(loaded.ledger.notes)


PREFIXES = (
    "model.",
    "net.",
    "backbone.",
    "module.",
    "_orig_mod.",
    "_orig_mod.module.",
    "module._orig_mod.",
    "model._orig_mod.module.",
    "visual.trunk.",
    "timm_model.",
    "any.name.at.all.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_common_prefix_is_left_off_and_said(tmp_path, prefix):
    notes = same(load(tmp_path, state(prefix=prefix)))
    parts = [part for part in prefix.split(".") if part]
    assert all(part in notes for part in parts)
    save_file(
        {k: v.contiguous() for k, v in state(prefix=prefix).items()},
        tmp_path / "w.safetensors",
    )
    same(vt.load(tmp_path / "w.safetensors"))


def lightning(tensors: State) -> dict[str, Any]:
    return {
        "epoch": 3,
        "global_step": 9,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": tensors,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": 1}}},
        "callbacks": {"ModelCheckpoint{}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 1e-3, "class_weights": torch.ones(3)},
    }


WRAPPED = {
    "a tutorial": {"model_state_dict": state(), "optimizer_state_dict": {}, "epoch": 3},
    "keys in keys": {"checkpoint": {"training": {"net": state(prefix="module.")}}},
    "four dictionaries": {"a": {"b": {"c": {"d": state()}}}},
    "lightning": lightning(state(prefix="model.")),
    "lightning, a loss with weights": lightning(
        {**state(prefix="net."), "criterion.weight": torch.ones(3)}
    ),
    "an average of torch": {**state(prefix="module."), "n_averaged": torch.tensor(7)},
    "an average and its counter": {
        "model": state(OTHER),
        "model_ema": {**state(prefix="module."), "num_updates": torch.tensor(3)},
    },
    "an average in lightning": lightning(
        {**state(OTHER, "model."), **state(prefix="ema_model.")}
    ),
    "an average of timm": {"state_dict": state(OTHER), "state_dict_ema": state()},
    "two names of one thing": {"state_dict": state(), "model": state(OTHER)},
    "a teacher": {"student": state(OTHER), "teacher": state()},
    "a teacher in names": {**state(OTHER, "student."), **state(prefix="teacher.")},
    "momentum": {**state(OTHER, "backbone_momentum."), **state(prefix="backbone.")},
    "compiled block by block": {
        name.replace("blocks.0.", "blocks.0._orig_mod."): tensor
        for name, tensor in state().items()
    },
}


@pytest.mark.parametrize("what", WRAPPED)
def test_the_model_of_a_training_program_is_read(tmp_path, what):
    assert same(load(tmp_path, WRAPPED[what]))


def test_what_is_left_out_is_said(tmp_path):
    tensors = {**state(prefix="model."), "classifier.weight": torch.ones(3, 64)}
    assert "left out: classifier (1)" in same(load(tmp_path, tensors))
    averaged = {**state(prefix="module."), "n_averaged": torch.tensor(7)}
    assert "left out: n_averaged, of an average" in same(load(tmp_path, averaged))


def test_the_target_encoder_of_ijepa_is_read(tmp_path):
    changes: dict[str, Any] = {"num_classes": 0, "class_token": False}
    changes |= {"global_pool": "avg", "fc_norm": False}
    target, encoder = made(**changes), made(seed=1, **changes)
    whole = {
        "encoder": state(encoder, "module."),
        "target_encoder": state(target, "module."),
        "predictor": {"module.w": torch.zeros(4)},
        "opt": {},
        "scaler": None,
        "epoch": 3,
    }
    notes = same(load(tmp_path, whole), target)
    assert "under `target_encoder/module` of a training checkpoint: the aver" in notes
    assert f"left out: encoder ({len(state(encoder))}), predictor (1)" in notes


def test_the_base_encoder_of_moco_is_read_without_its_head(tmp_path):
    encoder, momentum = made(num_classes=0), made(seed=1, num_classes=0)
    tensors = {
        **state(encoder, "module.base_encoder."),
        **state(momentum, "module.momentum_encoder."),
        "module.base_encoder.head.0.weight": torch.zeros(8, 64),
        "module.base_encoder.head.1.running_mean": torch.zeros(8),
        "module.predictor.0.weight": torch.zeros(8, 8),
    }
    loaded = load(tmp_path, {"state_dict": tensors, "arch": "vit_small"})
    assert loaded.model.config.num_classes == 0
    assert "base_encoder` of a training checkpoint: the publ" in same(loaded, encoder)
    dropped = [it for it in loaded.ledger.lines if it.action == "dropped"]
    assert [it.name for it in dropped] == ["head.0.weight", "head.1.running_mean"]
    assert all("a head of several layers" in it.detail for it in dropped)


def test_models_without_a_reason_to_choose_are_refused(tmp_path):
    tensors = {**state(prefix="left."), **state(OTHER, "right.")}
    with pytest.raises(WeightsError, match=r"holds 2 models, under `left`, `right`, "):
        load(tmp_path, tensors)


def test_an_unknown_tensor_under_a_prefix_is_refused(tmp_path):
    tensors = {**state(prefix="model."), "model.adapter.weight": torch.ones(2)}
    with pytest.raises(WeightsError, match=r"has adapter\.weight that the model has"):
        load(tmp_path, tensors)
