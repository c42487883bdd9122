"""timm's own architectures: what no tensor says is read from their names."""

import pytest
import timm
import torch

from memory_file import MemoryFile
from vitral.errors import WeightsError
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.layouts.timm import layout as layout
from vitral.weights.mismatch import find_mismatches

ALIKE = [
    "vit_tiny_patch16_224",
    "vit_base_patch32_siglip_256",
    "vit_base_patch32_siglip_gap_256",
    "vit_base_patch16_siglip_256",
    "vit_large_patch16_siglip_512",
    "vit_large_patch16_siglip_384",
    "vit_so400m_patch16_siglip_384",
    "vit_so400m_patch14_siglip_378",
    "vit_giantopt_patch16_siglip_gap_256",
    "vit_base_patch16_gap_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_giant_patch14_dinov2",
    "vit_medium_patch16_reg4_gap_256",
    "deit3_small_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "test_vit",
]


def opened(name: str) -> tuple[torch.nn.Module, LayoutInput]:
    """The model on the meta device, and its file as the hub keeps it."""
    with torch.device("meta"):
        model = timm.create_model(name)
    about = {key: model.pretrained_cfg[key] for key in ("input_size", "mean", "std")}
    beside = {
        "architecture": name,
        "global_pool": model.global_pool,
        "pretrained_cfg": about,
    }
    return model, LayoutInput(file=MemoryFile(model.state_dict()), config_json=beside)


@pytest.mark.parametrize("name", ALIKE)
def test_the_config_is_that_of_timms_model(name):
    model, file = opened(name)
    assert layout.detect(file)
    source = layout.read(file)
    assert find_mismatches(source) == ([], [], [], [])
    config, block = source.config, model.blocks[0]
    assert isinstance(config, ViTConfig)
    if config.mlp == "plain":
        tanh = type(block.mlp.act).__name__ == "GELUTanh"
        assert config.act == ("gelu_tanh" if tanh else "gelu")
    assert config.num_heads == block.attn.num_heads
    assert config.norm_eps == block.norm1.eps
    assert config.global_pool == model.global_pool
    assert config.image_hw == model.patch_embed.img_size
    assert config.norm_after_pool == isinstance(model.norm, torch.nn.Identity)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_base_patch16_rpn_224", "normalises after attention and perceptron"),
        ("test_vit3", "`model_args.pool_include_prefix` is True, expected false"),
    ],
)
def test_other_functions_under_the_same_names_are_refused(name, reason):
    _, file = opened(name)
    with pytest.raises(WeightsError, match=reason):
        layout.read(file)
