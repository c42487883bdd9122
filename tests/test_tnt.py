"""Transformer in Transformer: counts, the paper's data flow, and the model contract."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vitral.models as models
from helpers import TINY_TNT, count_parameters, images, tiny_tnt
from tnt_by_hand import by_hand
from vitral.errors import ConfigError
from vitral.layers import Grid
from vitral.models import TNTConfig, ViT, ViTConfig
from vitral.models.tnt.tnt import NAMES, WordEmbed
from vitral.workflows.train.frozen_cache import TrainableHead, frozen_output

COUNTS = {"tnt_ti16": 6_076_408, "tnt_s16": 23_768_584, "tnt_b16": 65_428_680}


def test_counts_of_the_paper():
    assert {name: count_parameters(name) for name in NAMES} == COUNTS


def parts_of(dim: int, inner: int, words: int, classes: int) -> int:
    """Parameters of 12 blocks and the rest, from the numbers of table 1."""

    def block(width: int) -> int:
        attention = 4 * width**2 + width
        return attention + 8 * width**2 + 5 * width + 4 * width

    fold = 2 * words * inner + words * inner * dim + 2 * dim
    stem = 49 * 3 * inner + inner + words * inner + fold + dim
    tokens = dim + 197 * dim
    return (
        stem
        + tokens
        + 12 * (block(inner) + fold + block(dim))
        + 2 * dim
        + classes * (dim + 1)
    )


@pytest.mark.parametrize("classes", [0, 7, 1000])
def test_counts_are_the_sum_of_the_parts(classes):
    for name, size in (("ti", (192, 12)), ("s", (384, 24)), ("b", (640, 40))):
        wanted = parts_of(*size, words=16, classes=classes)
        assert count_parameters(f"tnt_{name}16", num_classes=classes) == wanted


@pytest.mark.parametrize(
    ("name", "gmacs"), [("tnt_ti16", 1.4), ("tnt_s16", 5.2), ("tnt_b16", 14.1)]
)
def test_macs_of_the_table(name, gmacs):
    assert models.get_config(name).macs() / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_macs_by_hand():
    """48 x 80 pixels in 15 patches of 16 x 16, each of 4 x 2 words; one class token."""
    patches, words, tokens = 15, 8, 16
    convolution = patches * words * 5 * 15 * 15 * 10
    stem_fold = patches * words * 10 * 24
    inner = patches * (words * (4 * 10 * 10 + 2 * 10 * 14) + 2 * words * words * 10)
    fold = patches * words * 10 * 24
    outer = tokens * (4 * 24 * 24 + 2 * 24 * 40) + 2 * tokens * tokens * 24
    total = convolution + stem_fold + 3 * (inner + fold + outer) + 24 * 7
    assert TNTConfig(**TINY_TNT).macs() == total
    # Twice as high: 30 patches, 31 tokens.
    outer = 31 * (4 * 24 * 24 + 2 * 24 * 40) + 2 * 31 * 31 * 24
    twice = 2 * (convolution + stem_fold) + 3 * (2 * (inner + fold) + outer) + 24 * 7
    assert TNTConfig(**TINY_TNT).macs((96, 80)) == twice


@pytest.mark.parametrize("changes", [{}, {"mlp": "swiglu", "global_pool": "avg"}])
def test_macs_agree_with_a_counter(changes):
    model = tiny_tnt(**changes)
    # The counter does not know the fused kernel of the CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(images(1, 64, 96, 5))
    assert counter.get_total_flops() == 2 * model.config.macs((64, 96))


# The data flow


def test_the_data_flow_written_out():
    model = tiny_tnt()
    x = images(2, channels=5)
    with torch.no_grad():
        difference = (model(x) - by_hand(model, x).logits).abs().max()
    assert difference < 1e-11


def test_a_pixel_reaches_the_words_of_its_patch_only():
    model, image = tiny_tnt(), images(1, channels=5)
    changed = image.clone()
    changed[0, :, 31, 47] += 3.0  # the last pixel of row 1, column 2 of 3 x 5 patches
    with torch.no_grad():
        before, after = model.embed(image), model.embed(changed)
        inner = model.blocks[0].inner
        words = [
            inner(tokens.words.flatten(0, 1), Grid(4, 2)).unflatten(0, (1, 15))
            for tokens in (before, after)
        ]
    for one, other in ((before.words, after.words), tuple(words)):
        moved = (one - other).abs().amax(dim=(0, 2, 3)) > 0
        assert moved.nonzero().flatten().tolist() == [7]
    moved = (before.x - after.x).abs().amax(dim=(0, 2)) > 0
    assert moved.nonzero().flatten().tolist() == [8]
    with torch.no_grad():
        later = [model.forward_blocks(tokens, 0, 1) for tokens in (before, after)]
    assert ((later[0].x - later[1].x).abs().amax(dim=2) > 0).all()
    # Words never hear of another patch, however deep: only patch tokens do.
    last = [model.forward_blocks(tokens).words for tokens in (before, after)]
    moved = (last[0] - last[1]).abs().amax(dim=(0, 2, 3)) > 0
    assert moved.nonzero().flatten().tolist() == [7]


class Patches(nn.Module):
    """The stem alone, as the patch embedding of a Vision Transformer."""

    def __init__(self, stem: WordEmbed) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.stem.fold(self.stem.words(image))


def test_without_the_folds_it_is_a_vision_transformer():
    model, x = tiny_tnt(), images(2, 64, 112, 5)
    same = {name: getattr(model.config, name) for name in ViTConfig.__annotations__}
    same |= {"image_size": (48, 80), "in_chans": 5, "num_classes": 7}
    plain = ViT(ViTConfig(**same)).double().eval()
    with torch.no_grad():
        assert (plain(x) - model(x)).abs().max() > 1e-3
        for block in model.blocks:
            block.fold.norm2.weight.zero_()
            block.fold.norm2.bias.zero_()
    plain.patch_embed = Patches(model.patch_embed)
    ours = {
        name.replace(".outer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("patch_embed.")
        and ".inner." not in name
        and ".fold." not in name
    }
    missing = plain.load_state_dict(ours, strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("patch_embed.") for name in missing.missing_keys)
    with torch.no_grad():
        assert (plain(x) - model(x)).abs().max() < 1e-12


def test_the_order_of_the_words_is_free():
    """Words, their positions and the folds' channels permuted alike change nothing."""
    model, other = tiny_tnt(), tiny_tnt()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    channels = torch.arange(80).view(8, 10)[order].flatten()
    with torch.no_grad():
        embed = other.patch_embed
        embed.word_pos.copy_(embed.word_pos[:, order])
        for fold in (embed.fold, *(block.fold for block in other.blocks)):
            fold.norm1.weight.copy_(fold.norm1.weight[channels])
            fold.norm1.bias.copy_(fold.norm1.bias[channels])
            fold.proj.weight.copy_(fold.proj.weight[:, channels])
        x = images(2, channels=5)
        wanted = model(x)
        bare = model.patch_embed.words(x) - model.patch_embed.word_pos
        words = bare[:, :, order] + embed.word_pos
        tokens = other.build_sequence(embed.fold(words), Grid(3, 5), None)
        found = other.forward_tokens(tokens._replace(words=words))
        assert (found - wanted).abs().max() < 1e-12
        assert (other(x) - wanted).abs().max() > 1e-3  # the pixels' order is not free


# The model contract

KINDS: list[dict[str, Any]] = [
    {},
    {"class_token": False, "global_pool": "avg"},
    {"class_token": False, "global_pool": "map"},
    {"reg_tokens": 2, "init_values": 0.1, "qk_norm": True, "drop_path_rate": 0.1},
    {"position": "relative", "global_pool": "token_avg"},
    {"position_at": "every_layer", "proj_bias": False, "qkv_bias": True},
    {"position": "sincos_2d", "mlp": "swiglu", "act": "gelu_tanh"},
    {"patch_size": (16, 8), "word_size": 4, "word_kernel": 7},
    {"word_size": 16, "word_kernel": 31},
]


@pytest.mark.parametrize("changes", KINDS)
def test_every_kind_keeps_the_model_contract(changes):
    model, x = tiny_tnt(**changes), images(channels=5)
    logits = model(x)
    assert logits.shape == (2, 7)
    features = model.forward_features(x)
    columns = 80 // model.config.patch_hw[1]
    assert features.patches.shape == (2, 3, columns, 24)
    assert torch.equal(model.forward_head(features), logits)
    alone = torch.cat([model(x[:1]), model(x[1:])])
    assert torch.allclose(alone, logits, atol=1e-12)
    assert model(images(1, 80, 64, 5)).shape == (1, 7)
    parts = model.forward_blocks(model.forward_blocks(model.embed(x), 0, 2), 2)
    assert torch.equal(model.forward_head(model.forward_norm(parts)), logits)


@pytest.mark.parametrize("changes", KINDS)
def test_every_parameter_gets_a_gradient(changes):
    model = tiny_tnt(**changes).train()
    torch.manual_seed(1)
    model(images(channels=5)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("changes", KINDS)
def test_a_masked_patch_cannot_be_seen(changes):
    model, x = tiny_tnt(**changes), images(channels=5)
    height, width = model.config.patch_hw
    mask = torch.ones(2, 3, 80 // width, dtype=torch.bool)
    mask[0, 1, 2] = False
    changed = x.clone()
    changed[0, :, height : 2 * height, 2 * width : 3 * width] += 5.0
    with torch.no_grad():
        logits = model(x, mask)
        assert torch.equal(model(changed, mask)[0], logits[0])
        assert (model(changed)[0] - model(x)[0]).abs().max() > 1e-3
        assert torch.allclose(logits[1], model(x)[1], atol=1e-12)


def test_positions_are_resized_and_words_keep_theirs():
    model, x = tiny_tnt(), images(1, 64, 112, 5)
    tokens = model.embed(x)
    assert (tokens.rows, tokens.columns) == (4, 7)
    with torch.no_grad():
        stem = model.patch_embed
        wanted = stem.fold(stem.words(x)) + model.positions(Grid(4, 7))[:, 1:]
        assert torch.equal(tokens.x[:, 1:], wanted)
        model.pos_embed.zero_()
        other = model.embed(x)
    assert torch.equal(other.words, tokens.words)
    assert (other.x - tokens.x).abs().max() > 1e-3


def test_freezing_and_depth_of_each_parameter():
    model = tiny_tnt(drop_rate=0.5, drop_path_rate=0.5)
    depths = {model.layer_index(name) for name, _ in model.named_parameters()}
    assert depths == {0, 1, 2, 3, 4}
    assert model.layer_index("patch_embed.fold.proj.weight") == 0
    assert model.layer_index("patch_embed.word_pos") == 0
    assert model.layer_index("blocks.1.inner.attn.qkv.weight") == 2
    assert model.layer_index("blocks.2.fold.norm2.bias") == 3
    assert model.layer_index("norm.weight") == 4
    model.freeze(2)
    model.train()
    x = images(channels=5)
    once, again = (model.forward_blocks(model.embed(x), 0, 2) for _ in range(2))
    assert torch.equal(once.x, again.x)
    assert torch.equal(once.words, again.words)
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) is (model.layer_index(name) > 2), name


@pytest.mark.parametrize("num_blocks", [0, 2])
def test_a_table_of_frozen_outputs_holds_the_words_too(num_blocks):
    model = tiny_tnt(reg_tokens=1)
    model.freeze(num_blocks)
    x = images(channels=5)
    table = frozen_output(model, x)
    assert table.shape == (2, 17, 24 + 8 * 10)
    tail = TrainableHead(model)
    assert torch.equal(tail(table), model(x))
    tail(table).square().sum().backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    model(x).square().sum().backward()
    for name, gradient in found.items():
        assert torch.equal(model.get_parameter(name).grad, gradient), name


def test_initialisation():
    torch.manual_seed(0)
    model = models.create("tnt_s16", qkv_bias=True)
    assert model.head.weight.abs().max() == 0
    for name, parameter in model.named_parameters():
        drawn = name in ("cls_token", "pos_embed", "patch_embed.word_pos")
        drawn = drawn or name.endswith(("qkv.weight", "fc1.weight", "fc2.weight"))
        drawn = drawn or (name.endswith("proj.weight") and parameter.ndim == 2)
        if drawn:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15), name
        elif "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, "weight" in name))
        elif name.endswith("bias") and name != "patch_embed.proj.bias":
            assert parameter.abs().max() == 0, name


# Names, and what is refused


def test_names():
    assert models.get_config("tnt_s16").word_grid == (4, 4)
    assert (
        models.get_model_name(models.get_config("tnt_b16", {"image_size": 384}))
        == "tnt_b16"
    )
    small = models.get_config("tnt_ti8")
    assert (small.word_hw, small.word_kernel, small.word_grid) == ((2, 2), 3, (4, 4))
    assert models.get_model_name(small) == "tnt_ti8"
    assert models.get_model_name(models.get_config("tnt_ti4")) == "tnt_ti4"
    assert models.get_model_name(TNTConfig(**TINY_TNT)) == ""
    theirs = models.get_config("tnt_s_patch16_224.in1k")
    assert theirs.position_resize == "bicubic_antialias"
    assert models.get_model_name(theirs) == "tnt_s16"
    assert models.get_family_name(theirs) == "tnt"


@pytest.mark.parametrize("name", ["tnt_s_legacy_patch16_224", "tnt_s_legacy_x.in1k"])
def test_the_legacy_port_of_timm_is_refused_by_name(name):
    wanted = f"timm's `{name}` is another function than the paper's: it convolves the"
    with pytest.raises(ConfigError, match=wanted):
        models.get_config(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"word_size": (4, 6)},
            r"`patch_size` must be a multiple of `word_size`: got 16 and \(4, 6\)\.",
        ),
        ({"word_size": 0}, "`word_size` must lie between 1 and 1024: got 0"),
        (
            {"word_kernel": 16},
            r"`word_kernel` must be odd and at least 2 \* `word_size`",
        ),
        ({"word_kernel": 13}, r"be seen by no word: got 13 and \(4, 8\)\."),
        (
            {"inner_num_heads": 3},
            "`inner_dim` must be a multiple of `inner_num_heads`: got 10 and 3",
        ),
        ({"patch_norm": True}, "`patch_norm` normalises the pixels of a patch"),
        ({"image_size": (48, 81)}, "`image_size` must be a multiple of `patch_size`"),
    ],
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(ConfigError, match=message):
        TNTConfig(**{**TINY_TNT, **changes})


def test_images_that_do_not_fit():
    model = tiny_tnt()
    with pytest.raises(ConfigError, match="takes images of 5 channels: got 3"):
        model(images())
    with pytest.raises(ConfigError, match="got width 72 and 16"):
        model(images(1, 48, 72, 5))
