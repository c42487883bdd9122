"""Attention weights: exact, for every family, and without a trace in the model."""

import weakref

import pytest
import torch

from attention_by_hand import eager, hooks, tiny_deit, tiny_hybrid, tiny_resnet
from helpers import images, tiny_vit
from vitral import inspection
from vitral.errors import ConfigError
from vitral.inspection.capture import eval_mode, record_inputs
from vitral.layers import Attention
from vitral.models import Features

KINDS = {
    "class token": (tiny_vit, {}),
    "registers": (tiny_vit, {"reg_tokens": 4}),
    "registers alone": (
        tiny_vit,
        {"class_token": False, "reg_tokens": 2, "global_pool": "avg"},
    ),
    "mean pooling": (tiny_vit, {"class_token": False, "global_pool": "avg"}),
    "map": (tiny_vit, {"class_token": False, "global_pool": "map"}),
    "relative": (tiny_vit, {"position": "relative"}),
    "2-D": (tiny_vit, {"position": "learned_2d"}),
    "qk_norm": (tiny_vit, {"qk_norm": True}),
    "deit": (tiny_deit, {}),
    "deit with registers": (tiny_deit, {"reg_tokens": 3}),
    "hybrid": (tiny_hybrid, {}),
}
PREFIX = {
    "class token": 1,
    "registers": 5,
    "registers alone": 2,
    "mean pooling": 0,
    "map": 0,
    "relative": 1,
    "2-D": 1,
    "qk_norm": 1,
    "deit": 2,
    "deit with registers": 5,
    "hybrid": 1,
}


def a_mask() -> torch.Tensor:
    """2 images of 3 x 5 patches; not the same ones are hidden."""
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    mask[0, 1, 2:] = False
    mask[1, 0, 0] = mask[1, 2, 4] = False
    return mask


@pytest.mark.parametrize("kind", KINDS)
def test_weights_equal_an_eager_softmax(kind):
    make, changes = KINDS[kind]
    model = make(**changes)
    tokens = PREFIX[kind] + 15
    found = inspection.attention(model, images())
    assert found.shape == (2, 2, 3, tokens, tokens)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    torch.testing.assert_close(found, eager(model, images()), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2, 3, tokens).double())
    # Not near one half, nor uniform: a softmax of nothing would pass otherwise.
    assert found.std() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_float32_weights_stay_float32(kind):
    make, changes = KINDS[kind]
    model = make(**changes)
    wanted = eager(model, images())
    found = inspection.attention(model.float(), images().float())
    assert found.dtype == torch.float32
    error = (found.double() - wanted).abs().max()
    # The float32 pass rounds its residual stream; the weights themselves are exact.
    assert error < 1e-5
    own = eager(model, images().float())
    torch.testing.assert_close(found, own, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(32, 112), (96, 64), (16, 16)])
@pytest.mark.parametrize("kind", ["class token", "deit", "hybrid"])
def test_images_of_other_sizes(kind, height, width):
    make, changes = KINDS[kind]
    model = make(**changes)
    other = images(3, height, width)
    found = inspection.attention(model, other)
    tokens = PREFIX[kind] + (height // 16) * (width // 16)
    assert found.shape == (3, 2, 3, tokens, tokens)
    torch.testing.assert_close(found, eager(model, other), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["class token", "registers", "relative", "map"])
def test_hidden_patches_are_zero(kind):
    make, changes = KINDS[kind]
    model, mask = make(**changes), a_mask()
    found = inspection.attention(model, images(), patch_mask=mask)
    wanted = eager(model, images(), mask)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    hidden = torch.nn.functional.pad(~mask.flatten(1), (PREFIX[kind], 0))
    rows = found.permute(0, 3, 1, 2, 4)
    assert rows[hidden].count_nonzero() == 0
    assert found.permute(0, 4, 1, 2, 3)[hidden].count_nonzero() == 0
    sums = rows[~hidden].sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_images_with_nothing_visible_are_free_of_nan():
    model = tiny_vit(class_token=False, global_pool="avg")
    mask = a_mask()
    mask[1] = False
    found = inspection.attention(model, images(), patch_mask=mask)
    assert found.isfinite().all()
    assert found[1].count_nonzero() == 0
    maps = inspection.rollout(model, images(), patch_mask=mask)
    assert maps.isfinite().all()
    assert maps[1].count_nonzero() == 0


def test_layers_and_heads_come_in_the_order_asked_for():
    model = tiny_vit(depth=4)
    whole = inspection.attention(model, images())
    part = inspection.attention(model, images(), layers=[-1, 0, -1], heads=[2, -3])
    assert part.shape == (2, 3, 2, 16, 16)
    assert torch.equal(part, whole[:, [3, 0, 3]][:, :, [2, 0]])
    assert not torch.equal(whole[:, 0], whole[:, 3])


def test_a_batch_is_its_images():
    model = tiny_deit()
    whole = inspection.attention(model, images())
    for index in range(2):
        alone = inspection.attention(model, images()[index : index + 1])
        torch.testing.assert_close(alone[0], whole[index], rtol=0, atol=1e-12)


def same(one: Features, other: Features) -> bool:
    pairs = [pair for pair in zip(one, other, strict=True) if pair[0] is not None]
    return len(pairs) > 0 and all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pass_is_bit_equal_while_it_is_watched(kind):
    make, changes = KINDS[kind]
    model = make(**changes).float()
    x = images().float()
    with torch.no_grad():
        before = model.forward_features(x)
        watched = dict(enumerate(block.attn for block in model.blocks))
        with record_inputs(watched) as calls:
            during = model.forward_features(x)
        assert [call.index for call in calls] == [0, 1]
        inspection.attention(model, x)
        after = model.forward_features(x)
    assert same(before, during)
    assert same(before, after)
    assert hooks(model) == 0


def test_each_layer_tells_its_geometry():
    model, mask = tiny_deit(reg_tokens=1), a_mask()
    whole = inspection.attention(model, images(), patch_mask=mask)
    layers = list(inspection.iter_attention(model, images(), patch_mask=mask))
    assert [layer.index for layer in layers] == [0, 1]
    for layer in layers:
        assert torch.equal(layer.weights, whole[:, layer.index])
        assert tuple(layer.grid) == (3, 5)
        assert layer.num_prefix_tokens == 3
        assert layer.mask is not None
        assert torch.equal(layer.mask, mask)
        assert layer.is_global
    assert next(inspection.iter_attention(model, images())).mask is None


def test_one_layer_is_in_memory_at_a_time(monkeypatch):
    model, made = tiny_vit(depth=5), []
    weights = Attention.attention_weights

    def remember(self, *args):
        result = weights(self, *args)
        made.append(weakref.ref(result))
        return result

    def alive() -> int:
        return sum(ref() is not None for ref in made)

    monkeypatch.setattr(Attention, "attention_weights", remember)
    layers = inspection.iter_attention(model, images())
    for number in range(5):
        layer = next(layers)
        assert len(made) == number + 1
        assert made[-1]() is layer.weights
        assert alive() == 1
        del layer
        assert alive() == 0
    assert next(layers, None) is None
    # What makes a map or a table from all layers holds no more while it looks.
    made.clear()
    most = []
    encode = type(model).forward_blocks

    def count(self, *args):
        most.append(alive())
        return encode(self, *args)

    monkeypatch.setattr(type(model), "forward_blocks", count)
    inspection.rollout(model, images())
    inspection.attention_distance(model, images())
    assert len(made) == 10
    assert most == [0] * 10


def test_no_hook_between_two_layers_nor_after_an_exception(monkeypatch):
    model = tiny_vit(depth=3)
    layers = inspection.iter_attention(model, images())
    next(layers)
    assert hooks(model) == 0

    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    model.train()
    model.blocks[1].eval()
    monkeypatch.setattr(model.blocks[1].mlp, "forward", broken)
    calls = (
        inspection.attention,
        inspection.rollout,
        inspection.relevance,
        inspection.gradient_rollout,
        inspection.grad_cam,
        inspection.attention_distance,
        inspection.feature_colors,
    )
    for call in calls:
        # Grad-CAM starts where the last block does, so that it meets the fault too.
        monkeypatch.setattr(model.blocks[2].mlp, "forward", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            call(model, images())
        assert hooks(model) == 0
        assert model.training
        assert model.blocks[0].attn.training
        assert not model.blocks[1].mlp.training


def test_dropout_is_off_and_modes_return():
    model = tiny_vit(drop_rate=0.5, drop_path_rate=0.5)
    wanted = inspection.attention(model, images())
    model.train()
    model.freeze(1)
    modes = [module.training for module in model.modules()]
    assert True in modes
    assert False in modes
    assert torch.equal(inspection.attention(model, images()), wanted)
    assert [module.training for module in model.modules()] == modes
    with eval_mode(model.modules()):
        assert not any(module.training for module in model.modules())


def test_class_attention_is_the_class_tokens_row():
    model = tiny_deit(reg_tokens=1)
    whole = inspection.attention(model, images())
    found = inspection.class_attention(model, images())
    assert found.shape == (2, 3, 3, 5)
    assert torch.equal(found, whole[:, 1, :, 0, 3:].reshape(2, 3, 3, 5))
    first = inspection.class_attention(model, images(), layer=0)
    assert torch.equal(first[:, :, 2, 1], whole[:, 0, :, 0, 3 + 11])
    hidden = inspection.class_attention(model, images(), patch_mask=a_mask())
    assert hidden[0, :, 1, 2:].count_nonzero() == 0
    assert hidden[0, :, 0].count_nonzero() == 15


WITHOUT = "A ResNet has no attention to look at. What can be seen of it: grad_cam, embe"


@pytest.mark.parametrize(
    "call",
    [
        inspection.attention,
        inspection.iter_attention,
        inspection.class_attention,
        inspection.rollout,
        inspection.rollout_matrix,
        inspection.attention_distance,
        inspection.relevance,
        inspection.gradient_rollout,
    ],
)
def test_a_resnet_says_what_is_possible_instead(call):
    with pytest.raises(ConfigError, match=WITHOUT):
        call(tiny_resnet(), images())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"layers": [0, 2]},
            r"There are 2 layers, so one is named by -2 to 1: got 2\.",
        ),
        ({"layers": [-3]}, r"There are 2 layers, so one is named by -2 to 1: got -3\."),
        ({"heads": [3]}, r"There are 3 heads, so one is named by -3 to 2: got 3\."),
        (
            {"layers": []},
            r"`layers` must name at least one of the 2 layers: got none\. Leave it out",
        ),
        ({"heads": []}, r"`heads` must name at least one of the 3 heads: got none\."),
    ],
)
def test_what_there_is_not(arguments, sentence):
    with pytest.raises(ConfigError, match=sentence):
        inspection.attention(tiny_vit(), images(), **arguments)


def test_other_sentences():
    with pytest.raises(ConfigError, match=r"got height 15 and 16\. The nearest sizes"):
        inspection.attention(tiny_vit(), images(2, 15, 32))
    with pytest.raises(ConfigError, match=r"got \[3, 48, 80\]\. Give `image\[None\]`"):
        inspection.attention(tiny_vit(), images()[0])
    mask = torch.ones(2, 5, 3, dtype=torch.bool)
    with pytest.raises(ConfigError, match=r"one value per patch, 3 x 5: got \(5, 3\)"):
        inspection.rollout(tiny_vit(), images(), patch_mask=mask)
    with pytest.raises(ConfigError, match="`patch_mask` cannot be used with a hybrid"):
        inspection.attention(tiny_hybrid(), images(), patch_mask=a_mask())
    pooled = tiny_vit(class_token=False, reg_tokens=2, global_pool="avg")
    with pytest.raises(ConfigError, match="no class token, so there is no class_atten"):
        inspection.class_attention(pooled, images())
    with pytest.raises(ConfigError, match=r"There are 2 layers, .* got 2\."):
        inspection.class_attention(tiny_vit(), images(), layer=2)


def test_layers_of_different_shapes_are_asked_for_one_by_one():
    """A model whose second attention works inside something else than the image."""
    model = tiny_vit()
    original = model.blocks[1].forward

    def in_pairs(x, grid, mask=None):
        half = x.reshape(4, 8, 24)
        return original(half, grid, mask).reshape(2, 16, 24)

    model.blocks[1].forward = in_pairs
    with pytest.raises(ConfigError, match=r"layer 1 has weights \[4, 3, 8, 8\], one"):
        inspection.attention(model, images())
    assert inspection.attention(model, images(), layers=[1]).shape == (4, 1, 3, 8, 8)
    first, second = inspection.iter_attention(model, images())
    assert first.is_global
    assert not second.is_global
    assert second.num_prefix_tokens == 0
    alone = inspection.rollout_matrix(model, images())
    step = (first.weights.mean(1) + torch.eye(16)) / 2
    torch.testing.assert_close(alone, step)
    assert inspection.attention_distance(model, images()).shape == (1, 3)
    with pytest.raises(ConfigError, match=r"Layer 1 attends to 8 tokens that are not"):
        inspection.class_attention(model, images())
