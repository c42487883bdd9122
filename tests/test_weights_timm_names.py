"""timm's own architectures: what no tensor says is read from their names."""

import pytest
import timm
import torch

import vitral.models
from memory_file import MemoryFile
from vitral.errors import ConfigError, WeightsError
from vitral.models import ViTConfig
from vitral.models.meta_init import meta_init
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


def understood() -> list[str]:
    """Names of timm's that `vt.create` takes."""
    names = []
    for name in timm.list_models():
        try:
            vitral.models.get_config(name)
        except ConfigError:
            continue
        names.append(name)
    return names


@pytest.mark.parametrize("name", understood())
def test_a_name_of_timms_is_a_model_of_as_many_parameters(name):
    """`vit_giant_patch14_dinov2` was the giant of 2106.04560: 1,013 M for 1,136 M."""
    config = vitral.models.get_config(name, {"num_classes": 1000})
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=1000)
    with meta_init():
        ours = vitral.models.build_model(config)
    count = sum(parameter.numel() for parameter in theirs.parameters())
    assert vitral.models.count_parameters(ours) == count


def test_names_of_variants_are_understood():
    found = understood()
    assert len(found) >= 83
    for name in (
        "vit_giant_patch14_dinov2",
        "vit_giant_patch14_reg4_dinov2",
        "vit_base_patch32_clip_224",
        "vit_large_patch14_clip_quickgelu_336",
        "vit_gigantic_patch14_clip_224",
        "vit_small_plus_patch16_dinov3",
        "vit_huge_plus_patch16_dinov3",
    ):
        assert name in found


@pytest.mark.parametrize(
    "name", ["vit_pe_core_tiny_patch16_384", "vit_pe_core_base_patch16_224"]
)
def test_rotary_positions_that_no_tensor_shows_are_refused(name):
    """Its tensors are those of a CLIP tower that pools by attention."""
    _, file = opened(name)
    with pytest.raises(WeightsError, match="has `use_rot_pos_emb` True"):
        layout.read(file)
    alone = LayoutInput(file=file.file)
    with pytest.raises(WeightsError, match="a Perception Encoder"):
        layout.read(alone)
    config = ViTConfig(norm_pre=True, global_pool="map", norm_eps=1e-5, act="gelu")
    assert "rotary positions" in layout.LAYOUT.unsupported_reason(config)
