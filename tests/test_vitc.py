"""ViT_C: the convolutional stem against plain calls of torch, and its arithmetic."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vitral as vt
from helpers import randomise
from vitral.data import Preprocess
from vitral.errors import ConfigError
from vitral.models import build_model, create
from vitral.models.registry import get_model_name
from vitral.models.vitc import ViTCConfig
from vitral.weights.convert import compatible_layouts
from vitral.weights.layouts.vitral import save

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 64, "num_classes": 3}


def config(**changes) -> ViTCConfig:
    return ViTCConfig(**{"image_size": 16, "patch_size": 4, **SMALL, **changes})


def test_the_stem_is_these_convolutions():
    model = build_model(config(in_chans=2)).double()
    randomise(model)
    image = torch.rand(3, 2, 16, 24, dtype=torch.float64)
    state = {k.removeprefix("patch_embed."): v for k, v in model.state_dict().items()}
    x = image
    for i, stride in enumerate((1, 2, 2)):
        x = F.conv2d(x, state[f"convs.{i}.weight"], stride=stride, padding=1)
        mean = x.mean(1, keepdim=True)
        variance = x.var(1, unbiased=False, keepdim=True)
        x = (x - mean) / (variance + 1e-6).sqrt()
        scale, shift = state[f"norms.{i}.weight"], state[f"norms.{i}.bias"]
        x = F.gelu(x * scale[:, None, None] + shift[:, None, None])
    cells = torch.einsum("bchw,dc->bhwd", x, state["proj.weight"][:, :, 0, 0])
    expected = (cells + state["proj.bias"]).reshape(3, 4 * 6, 32)
    assert torch.allclose(model.patch_embed(image), expected, atol=1e-12)


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_widths_double_up_to_the_models(patch):
    widths = config(patch_size=patch).stem_widths
    assert widths[-1] == 32
    assert all(2 * a == b for a, b in pairwise(widths))
    assert len(build_model(config(patch_size=patch)).patch_embed.convs) == len(widths)


def test_the_answer_does_not_depend_on_the_other_images_of_the_batch():
    model = build_model(config()).double()
    randomise(model)
    images = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    model.train()
    alone = torch.cat([model(image[None]) for image in images])
    assert torch.allclose(model(images), alone, atol=1e-12)


@pytest.mark.parametrize("size", [(16, 16), (32, 24)])
def test_macs_are_those_that_a_counter_counts(size):
    settings = config(class_token=False, global_pool="avg", position="sincos_2d")
    model = build_model(settings).eval()
    # The counter knows no products inside the fused kernels.
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        model(torch.zeros(1, 3, *size))
    assert settings.macs(size) == counter.get_total_flops() // 2


def test_the_folder_reads_back_and_no_other_layout_takes_it(tmp_path):
    model = build_model(config())
    randomise(model)
    preprocess = Preprocess(image_size=(16, 16))
    save(tmp_path / "model", model, preprocess)
    back, *_ = vt.load(tmp_path / "model")
    image = torch.rand(2, 3, 16, 16)
    assert torch.equal(back.eval()(image), model.eval()(image))
    assert compatible_layouts(model.config) == ["native"]
    with pytest.raises(ConfigError, match="no such family of models"):
        vt.convert(tmp_path / "model", tmp_path / "timm", to="timm")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"patch_size": 6, "image_size": 24}, "must be 2, 4, 8, 16, .*: got 6"),
        ({"patch_size": (4, 8)}, r"must be 2, 4, 8, 16, .*: got \(4, 8\)"),
        ({"patch_size": 1}, "must be 2, 4, 8, 16"),
        ({"embed_dim": 34, "patch_size": 4}, "multiple of `patch_size`, 4, .*: got 34"),
        ({"norm_pre": True}, "belong to a projection of patches"),
        ({"patch_norm": True}, "belong to a projection of patches"),
    ],
    ids=str,
)
def test_stems_that_cannot_be_built(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        config(**changes)


def test_names_and_a_mask():
    with torch.device("meta"):
        model = create("vitc_s8", image_size=64)
        assert get_model_name(create("vitc_ti16").config) == "vitc_ti16"
    assert (model.config.patch_hw, model.config.embed_dim) == ((8, 8), 384)
    small = build_model(config())
    with pytest.raises(ConfigError, match="looks across the borders of the mask"):
        small.forward_features(
            torch.zeros(1, 3, 16, 16), patch_mask=torch.ones(1, 4, 4, dtype=torch.bool)
        )
