"""Masked autoencoder: transformers as a reference, golden tables and counts, masks."""

import math
from dataclasses import replace

import pytest
import torch
import transformers
from torch import nn

from helpers import images, randomise, tiny_tnt
from objectives_batch import Killed, batch_of, encoder, run
from vitral.errors import ConfigError
from vitral.layers import Grid
from vitral.models import ViT, ViTConfig, create
from vitral.tasks.objective import BatchLike
from vitral.tasks.representation import MAE, MAEConfig, MaskedPatchConfig
from vitral.tasks.representation.mae import init_encoder, num_visible, shuffle_patches
from vitral.tasks.representation.mae_decoder import sincos
from vitral.tasks.representation.patches import from_patches, to_patches

DECODER = {"decoder_dim": 20, "decoder_depth": 3, "decoder_heads": 5}


def tiny(seed=0, **changes) -> MAE:
    """A float64 MAE whose every parameter is random; 15 patches, 3 visible."""
    objective = MAE(encoder(), MAEConfig(**{**DECODER, **changes})).double()
    randomise(objective, seed)
    return objective


def noise_of(batch=2, patches=15):
    generator = torch.Generator().manual_seed(4)
    return torch.rand(batch, patches, generator=generator, dtype=torch.float64)


# The reference


def layer_names(theirs: str, ours: str) -> dict[str, tuple[str, ...]]:
    """Our names in a block, and where transformers 5 keeps the same numbers."""
    qkv = tuple(f"{theirs}.attention.{name}_proj" for name in "qkv")
    modules = {
        "attn.qkv": qkv,
        "attn.proj": (f"{theirs}.attention.o_proj",),
        "norm1": (f"{theirs}.layernorm_before",),
        "norm2": (f"{theirs}.layernorm_after",),
        "mlp.fc1": (f"{theirs}.mlp.fc1",),
        "mlp.fc2": (f"{theirs}.mlp.fc2",),
    }
    return {
        f"{ours}.{module}.{kind}": tuple(f"{name}.{kind}" for name in names)
        for module, names in modules.items()
        for kind in ("weight", "bias")
    }


def translated(theirs: nn.Module, depth: int) -> dict[str, torch.Tensor]:
    """Their state dict under our names, none left over."""
    names: dict[str, tuple[str, ...]] = {
        "model.cls_token": ("vit.embeddings.cls_token",),
        "model.pos_embed": ("vit.embeddings.position_embeddings",),
        "decoder.mask_token": ("decoder.mask_token",),
    }
    for ours, module in (
        ("model.patch_embed.proj", "vit.embeddings.patch_embeddings.projection"),
        ("model.norm", "vit.layernorm"),
        ("decoder.embed", "decoder.decoder_embed"),
        ("decoder.norm", "decoder.decoder_norm"),
        ("decoder.pred", "decoder.decoder_pred"),
    ):
        for kind in ("weight", "bias"):
            names[f"{ours}.{kind}"] = (f"{module}.{kind}",)
    for layer in range(depth):
        names |= layer_names(f"vit.layers.{layer}", f"model.blocks.{layer}")
    for layer in range(DECODER["decoder_depth"]):
        names |= layer_names(
            f"decoder.decoder_layers.{layer}", f"decoder.blocks.{layer}"
        )
    state = theirs.state_dict()
    taken = [name for group in names.values() for name in group]
    assert {*taken, "decoder.decoder_pos_embed"} == state.keys()
    return {
        ours: torch.cat([state[name] for name in group])
        if len(group) > 1
        else state[group[0]]
        for ours, group in names.items()
    }


@pytest.mark.parametrize("norm_pix", [False, True], ids=["pixels", "normalised"])
@pytest.mark.parametrize(
    ("dtype", "tolerance", "ratio"),
    [(torch.float32, 1e-5, 0.75), (torch.float64, 1e-10, 0.6)],
    ids=["float32", "float64"],
)
def test_mae_equals_transformers(norm_pix, dtype, tolerance, ratio):
    settings = transformers.ViTMAEConfig(
        image_size=64,
        patch_size=16,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        layer_norm_eps=1e-5,
        mask_ratio=ratio,
        norm_pix_loss=norm_pix,
        decoder_hidden_size=20,
        decoder_num_hidden_layers=3,
        decoder_num_attention_heads=5,
        decoder_intermediate_size=80,
    )
    theirs = transformers.ViTMAEForPreTraining(settings).double()
    randomise(theirs)
    table = sincos(Grid(4, 4), 20, torch.zeros(1, dtype=torch.float64))
    with torch.no_grad():  # theirs is a parameter, ours a function of the grid
        theirs.decoder.decoder_pos_embed[0] = nn.functional.pad(table, (0, 0, 1, 0))
    model = encoder(image_size=64, norm_eps=1e-5, act="gelu")
    config = MAEConfig(mask_ratio=ratio, norm_pix_loss=norm_pix, **DECODER)
    ours = MAE(model, config).double()
    ours.load_state_dict(translated(theirs, depth=2))
    theirs, ours = theirs.to(dtype).eval(), ours.to(dtype).eval()
    image, noise = images(3, 64, 64).to(dtype), noise_of(3, 16).to(dtype)
    with torch.no_grad():
        wanted = theirs(image, noise=noise)
        found = ours.forward_masked(image, noise)
        latent = theirs.vit(image, noise=noise)
        tokens = ours.model.embed(image)
        shuffle = shuffle_patches(noise, num_visible(Grid(4, 4), ratio))
        seen = ours.forward_encoder(tokens.x, Grid(4, 4), shuffle.ids_keep)
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(seen, latent.last_hidden_state, **close)
    torch.testing.assert_close(found.prediction, wanted.logits, **close)
    torch.testing.assert_close(found.loss, wanted.loss, **close)
    assert found.hidden.equal(wanted.mask.bool())
    assert shuffle.ids_restore.equal(wanted.ids_restore)


# Tables, sizes, patches


def test_positions_are_the_golden_ones():
    like = torch.zeros(1, dtype=torch.float64)
    table = sincos(Grid(14, 14), 768, like)
    corner, right, below = table[0], table[1], table[14]
    assert corner[[0, 192, 384, 576]].tolist() == [0, 1, 0, 1]
    assert right[[0, 1, 192, 384, 576]].tolist() == pytest.approx(
        [0.84147098, 0.81525065, 0.54030231, 0, 1], abs=1e-8
    )
    assert below[[0, 192, 384, 385, 576]].tolist() == pytest.approx(
        [0, 1, 0.84147098, 0.81525065, 0.54030231], abs=1e-8
    )
    assert float(table.sum()) == pytest.approx(69594.493859, abs=1e-6)
    assert float(table.square().sum()) == pytest.approx(196 * 384, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "rows", "total", "decoder"),
    [
        ("vit_b16", 14, 111_907_840, 26_109_184),
        ("vit_l16", 14, 329_541_888, 26_240_256),
        ("vit_h14", 16, 657_074_508, 26_309_708),
    ],
)
def test_sizes_are_the_published_ones(name, rows, total, decoder):
    with torch.device("meta"):
        objective = MAE(create(name, num_classes=0), MAEConfig())
    own = sum(p.numel() for p in objective.decoder.parameters())
    table = (rows**2 + 1) * 512  # the published count holds the decoder's positions
    assert own + table == decoder
    assert sum(p.numel() for p in objective.parameters()) + table == total


@pytest.mark.parametrize(
    ("width", "depth", "expected"),
    [
        (1280, 32, (512, 8, 16)),  # ViT-H, as in the paper
        (768, 3, (512, 8, 16)),
        (384, 12, (256, 8, 8)),
        (192, 12, (128, 8, 4)),
        (128, 6, (96, 4, 3)),  # that of small.scratch
        (24, 2, (32, 1, 1)),
    ],
)
def test_the_decoder_is_of_the_size_of_the_encoder(width, depth, expected):
    config = ViTConfig(embed_dim=width, depth=depth, num_heads=2, image_size=32)
    found = MAEConfig().for_encoder(config)
    sizes = (found.decoder_dim, found.decoder_depth, found.decoder_heads)
    assert sizes == expected
    set_by_hand = MAEConfig(decoder_dim=48, decoder_heads=6).for_encoder(config)
    assert set_by_hand.decoder_dim == 48
    assert set_by_hand.decoder_heads == 6


def test_a_small_encoder_has_a_smaller_decoder():
    config = ViTConfig(
        embed_dim=128, depth=6, num_heads=4, mlp_dim=256, image_size=32, patch_size=4
    )
    model = ViT(replace(config, num_classes=0))
    objective = MAE(model, MAEConfig())
    own = sum(p.numel() for p in objective.decoder.parameters())
    assert own < sum(p.numel() for p in model.parameters())  # was 26 million
    macs, size = MAEConfig().count_macs(config, (32, 32)), (32, 32)
    fixed = MAEConfig(decoder_dim=96, decoder_depth=4, decoder_heads=3)
    assert macs == fixed.count_macs(config, size) < 2 * config.macs(size)


def test_a_run_of_an_older_version_resumes_with_its_decoder():
    old = MAEConfig(decoder_dim=512, decoder_depth=8, decoder_heads=16)
    assert MAEConfig(mask_ratio=0.5).resume_from(old) == replace(old, mask_ratio=0.5)
    assert MAEConfig(decoder_dim=64).resume_from(old).decoder_dim == 64
    assert MAEConfig().resume_from(MaskedPatchConfig()) == MAEConfig()


def test_start_gives_the_published_number_of_trained_parameters():
    objective = MAE(create("vit_b16", num_classes=0, depth=1), MAEConfig())
    init_encoder(objective.model)
    block = 12 * 768**2 + 13 * 768
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    assert trained + 11 * block == 111_655_680


def test_start_fixes_positions_and_draws_the_rest():
    model = encoder()
    init_encoder(model)
    like = model.pos_embed
    assert not like.requires_grad
    assert not like[0, 0].any()
    torch.testing.assert_close(like[0, 1:], sincos(Grid(3, 5), 24, like))
    bound = math.sqrt(6 / (24 + 3 * 16 * 16))
    largest = float(model.patch_embed.proj.weight.detach().abs().max())
    assert 0.95 * bound < largest <= bound
    fused = math.sqrt(6 / (24 + 72))
    assert (
        0.9 * fused
        < float(model.blocks[0].attn.qkv.weight.detach().abs().max())
        <= fused
    )
    assert not any(block.mlp.fc1.bias.any() for block in model.blocks)
    assert model.cls_token.any()


def test_patches_are_rows_of_pixels_with_the_channel_fastest():
    image = images(2, 48, 80)
    patches = to_patches(image, (16, 8))
    assert patches.shape == (2, 3 * 10, 16 * 8 * 3)
    # Patch 13 is in row 1, column 3; value 2 + 3 * (5 + 8 * 7) is blue at (7, 5).
    assert patches[1, 13, 2 + 3 * (5 + 8 * 7)] == image[1, 2, 16 + 7, 24 + 5]
    assert from_patches(patches, Grid(3, 10), (16, 8)).equal(image)


# Masks


def test_three_quarters_are_hidden_and_the_way_back_is_the_inverse():
    shuffle = shuffle_patches(noise_of(5, 196), 49)
    assert shuffle.hidden.sum(dim=1).tolist() == [147] * 5
    order = noise_of(5, 196).argsort(dim=1)
    assert order.gather(1, shuffle.ids_restore).equal(torch.arange(196).expand(5, -1))
    for kept, hidden in zip(shuffle.ids_keep, shuffle.hidden, strict=True):
        assert not hidden[kept].any()


@pytest.mark.parametrize(
    ("ratio", "visible"), [(0.75, 3), (0.6, 6), (0.5, 7), (0.9, 1)]
)
def test_the_visible_patches_are_rounded_down(ratio, visible):
    assert num_visible(Grid(3, 5), ratio) == visible


def test_hidden_pixels_reach_the_loss_and_not_the_encoder():
    objective = tiny(norm_pix_loss=False)
    image, noise = images(), noise_of()
    shuffle = shuffle_patches(noise, 3)
    patches = to_patches(image, (16, 16))
    changed = torch.where(shuffle.hidden[:, :, None], patches + 0.5, patches)
    other = from_patches(changed, Grid(3, 5), (16, 16))
    one, two = (objective.forward_masked(x, noise) for x in (image, other))
    assert one.prediction.equal(two.prediction)
    assert abs((one.loss - two.loss).item()) > 0.01


def test_the_loss_is_the_mean_square_over_hidden_patches_alone():
    objective = tiny(norm_pix_loss=True)
    image, noise = images(), noise_of()
    found = objective.forward_masked(image, noise)
    errors = []
    for example, hidden in enumerate(found.hidden):
        for place in hidden.nonzero().flatten().tolist():
            row, column = divmod(place, 5)
            patch = image[example, :, 16 * row : 16 * row + 16, 16 * column :][
                :, :, :16
            ].permute(1, 2, 0)
            scaled = (patch - patch.mean()) / (patch.var(correction=1) + 1e-6).sqrt()
            gap = found.prediction[example, place] - scaled.flatten()
            errors.append(gap.square().mean().item())
    assert len(errors) == 2 * 12
    assert found.loss.item() == pytest.approx(sum(errors) / 24, rel=1e-12)


def test_every_visible_patch_gives_the_features_of_the_plain_model():
    objective = tiny()
    image = images()
    tokens = objective.model.embed(image)
    kept = noise_of().argsort(dim=1)
    seen = objective.forward_encoder(tokens.x, Grid(3, 5), kept)
    features = objective.model.forward_features(image)
    torch.testing.assert_close(seen[:, 0], features.cls)
    wanted = features.patches.flatten(1, 2)
    for example in range(2):
        torch.testing.assert_close(seen[example, 1:], wanted[example, kept[example]])


@pytest.mark.parametrize(
    "changes",
    [{"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}],
    ids=["registers", "no class token"],
)
def test_other_prefixes_and_other_grids(changes):
    objective = MAE(encoder(**changes), MAEConfig(**DECODER)).double()
    randomise(objective)
    found = objective.forward_masked(images(2, 64, 112), noise_of(2, 28))
    assert found.prediction.shape == (2, 28, 768)
    assert int(found.hidden.sum()) == 2 * 21


def test_every_parameter_gets_a_gradient():
    objective = tiny()
    objective(batch_of(images()))["loss"].backward()
    assert [n for n, p in objective.named_parameters() if p.grad is None] == []


# Randomness


def test_a_mask_is_a_function_of_the_step_and_the_example():
    objective = tiny().train()
    image = images(4)
    hidden = []
    for seed, order in ((3, [0, 1, 2, 3]), (3, [2, 0]), (4, [0, 1, 2, 3])):
        batch = batch_of(image)
        part = batch._replace(image=image[order], id=tuple(batch.id[i] for i in order))
        torch.manual_seed(seed)
        hidden.append(hidden_of(objective, part))
    assert hidden[1].equal(hidden[0][[2, 0]])
    assert not hidden[2].equal(hidden[0])
    assert not hidden[0][0].equal(hidden[0][1])


def hidden_of(objective, batch, generator=None):
    """Which patches forward hid: those whose pixels the encoder did not get."""
    seen = []
    hook = objective.decoder.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[2])
    )
    objective(batch, generator)
    hook.remove()
    return seen[0] >= 3


def test_a_generator_can_be_given():
    objective, batch = tiny().train(), batch_of(images())
    before = torch.random.get_rng_state()
    one = hidden_of(objective, batch, torch.Generator().manual_seed(8))
    two = hidden_of(objective, batch, torch.Generator().manual_seed(8))
    other = hidden_of(objective, batch, torch.Generator().manual_seed(9))
    assert one.equal(two)
    assert not one.equal(other)
    assert torch.random.get_rng_state().equal(before)


def test_evaluation_hides_the_same_patches_at_every_step():
    objective, batch = tiny().eval(), batch_of(images())
    torch.manual_seed(1)
    one = objective(batch)["loss"]
    torch.manual_seed(2)
    assert objective(batch)["loss"] == one
    assert objective(batch_of(images(), first=5))["loss"] != one


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    def fresh():
        objective = MAE(encoder(drop_path_rate=0.3), MAEConfig(**DECODER))
        init_encoder(objective.model)
        randomise(objective.decoder)
        randomise(objective.model.blocks)
        nn.init.ones_(objective.model.cls_token)
        randomise(objective.model.patch_embed)
        return objective

    whole = run(fresh(), tmp_path / "whole")
    with pytest.raises(Killed):
        run(fresh(), tmp_path / "killed", kill=True)
    resumed = run(fresh(), tmp_path / "killed", resume=True)
    assert whole.keys() == resumed.keys()
    assert all(whole[name].equal(resumed[name]) for name in whole)
    first = fresh().state_dict()
    assert not whole["decoder.mask_token"].equal(first["decoder.mask_token"])
    assert whole["model.pos_embed"].equal(first["model.pos_embed"])


# Learning and drawing


def test_reconstruction_keeps_visible_patches_and_draws_the_others():
    for norm_pix in (False, True):
        objective = tiny(norm_pix_loss=norm_pix)
        image, noise = images(), noise_of()
        drawn = objective.reconstruct(image, noise)
        assert drawn.hidden.shape == (2, 3, 5)
        patches = to_patches(drawn.image, (16, 16))
        truth = to_patches(image, (16, 16))
        hidden = drawn.hidden.flatten(1)
        assert patches[~hidden].equal(truth[~hidden])
        prediction = objective.forward_masked(image, noise).prediction[hidden]
        if norm_pix:
            scale = (truth[hidden].var(dim=1, keepdim=True) + 1e-6).sqrt()
            prediction = prediction * scale + truth[hidden].mean(dim=1, keepdim=True)
        torch.testing.assert_close(patches[hidden], prediction)


def test_a_decoder_that_answers_zero_scores_the_variance_of_its_target():
    objective = tiny(norm_pix_loss=True)
    nn.init.zeros_(objective.decoder.pred.weight)
    nn.init.zeros_(objective.decoder.pred.bias)
    loss = objective(batch_of(images()))["loss"].item()
    assert loss == pytest.approx((768 - 1) / 768, abs=1e-5)


def test_loss_falls_on_a_fixed_batch():
    torch.manual_seed(0)
    objective = MAE(encoder(), MAEConfig(norm_pix_loss=False, **DECODER))
    init_encoder(objective.model)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    steps = torch.linspace(-1, 1, 80).expand(4, 3, 48, 80)
    batch = batch_of(steps * torch.tensor([1.0, -1, 0.5, -0.5])[:, None, None, None])
    losses = []
    for _ in range(40):
        found = objective(batch)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append(found["loss"].item())
    assert losses[-1] < 0.3 * losses[0]
    assert float(found["hidden"]) == pytest.approx(12 / 15)


def test_half_precision_keeps_a_float32_loss():
    objective = MAE(encoder(), MAEConfig(**DECODER))
    batch = batch_of(images().float())
    whole = objective.eval()(batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = objective(batch)["loss"]
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(whole.item(), rel=0.05)


# Errors


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mask_ratio": 1.0}, "`mask_ratio` must lie between 0 and 1: got 1.0."),
        ({"mask_ratio": 0.0}, "`mask_ratio` must lie between 0 and 1: got 0.0."),
        ({"decoder_depth": -1}, "`decoder_depth` must be at least 0: got -1."),
        (
            {"decoder_dim": 20, "decoder_heads": 3},
            "must be a multiple of 4 and of `decoder_heads`: got 20 and 3.",
        ),
    ],
    ids=["all hidden", "none hidden", "no decoder", "uneven heads"],
)
def test_settings_that_cannot_be(settings, sentence):
    with pytest.raises(ConfigError) as caught:
        MAEConfig(**settings)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (tiny_tnt(), "plain Vision Transformer: got TNT."),
        (encoder(position_at="every_layer"), "set `position_at=stem`, got"),
        (encoder(position="relative"), "with `position=relative`."),
        (
            encoder(norm_after_pool=True, global_pool="avg"),
            "set `norm_after_pool=False`",
        ),
        (encoder(patch_size=1, in_chans=1, image_size=3), "use larger patches"),
    ],
    ids=["no ViT", "every layer", "relative", "norm after pool", "one value"],
)
def test_models_that_cannot_be_the_encoder(model, sentence):
    with pytest.raises(ConfigError) as caught:
        MAE(model, MAEConfig(**DECODER))
    assert sentence in str(caught.value)


def test_start_needs_a_table_of_its_own():
    with pytest.raises(ConfigError, match="`position=learned_1d`"):
        init_encoder(encoder(position="learned_2d"))
    fixed = encoder(position="sincos_2d")
    init_encoder(fixed)
    assert not fixed.blocks[0].mlp.fc1.bias.any()
    assert "pos_embed" not in dict(fixed.named_parameters())


def test_too_few_patches_and_uneven_images():
    objective = MAE(encoder(), MAEConfig(mask_ratio=0.95, **DECODER))
    with pytest.raises(ConfigError, match="leaves no patch of 3 x 5 visible"):
        objective(batch_of(images().float()))
    with pytest.raises(ConfigError, match="multiple of `patch_size`"):
        objective(batch_of(images(2, 50, 80).float()))


def test_the_batch_of_these_tests_is_one():
    assert isinstance(batch_of(images()), BatchLike)
