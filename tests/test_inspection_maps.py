"""Maps: rollout, relevance, Grad-CAM against numbers made without them."""

import numpy as np
import pytest
import torch

from attention_by_hand import eager, hooks, tiny_deit, tiny_hybrid, tiny_resnet
from helpers import images, tiny_vit
from test_inspection_attention import KINDS, PREFIX, a_mask
from vitral import inspection
from vitral.errors import ConfigError
from vitral.inspection.rollout import accumulate


def by_numpy(weights: np.ndarray) -> np.ndarray:
    """Rollout of one image, [layers, heads, tokens, tokens]."""
    tokens = weights.shape[-1]
    result = np.eye(tokens)
    for layer in weights:
        step = sum(layer) / len(layer) + np.eye(tokens)
        for row in step:
            row /= row.sum()
        result = step @ result
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_rollout_equals_plain_numpy(kind):
    make, changes = KINDS[kind]
    model = make(**changes)
    weights, prefix = eager(model, images()).numpy(), PREFIX[kind]
    matrix = inspection.rollout_matrix(model, images())
    maps = inspection.rollout(model, images())
    assert maps.shape == (2, 3, 5)
    by_class = kind not in ("mean pooling", "map", "registers alone")
    for index in range(2):
        wanted = by_numpy(weights[index])
        np.testing.assert_allclose(matrix[index], wanted, rtol=0, atol=1e-12)
        rows = wanted[0] if by_class else wanted[prefix:].mean(axis=0)
        row = rows[prefix:] / rows[prefix:].max()
        np.testing.assert_allclose(maps[index].flatten(), row, rtol=0, atol=1e-11)
        assert maps[index].max() == 1
    sums = torch.ones(2, matrix.shape[-1]).double()
    torch.testing.assert_close(matrix.sum(-1), sums, rtol=0, atol=1e-12)


def test_a_head_that_reads_patches_alone_gets_the_mean_of_their_rows():
    """A class token without a reader has a row that says nothing."""
    model = tiny_vit(global_pool="avg")
    found = inspection.rollout(model, images())
    matrix = inspection.rollout_matrix(model, images())
    rows = matrix[:, 1:, 1:].mean(1)
    wanted = (rows / rows.amax(1, keepdim=True)).view(2, 3, 5)
    torch.testing.assert_close(found, wanted)
    both = inspection.rollout(tiny_vit(global_pool="token_avg"), images())
    assert not torch.allclose(both, wanted, atol=1e-3)


@pytest.mark.parametrize("after", [{}, {"norm_after_pool": True}])
def test_a_zero_class_token_is_still_read(after):
    model = tiny_vit(**after)
    with torch.no_grad():
        model.cls_token.zero_()
        model.pos_embed[:, 0].zero_()
    matrix = inspection.rollout_matrix(model, images())
    row = matrix[:, 0, 1:]
    wanted = (row / row.amax(1, keepdim=True)).view(2, 3, 5)
    torch.testing.assert_close(inspection.rollout(model, images()), wanted)


def test_goldens_of_uniform_and_identity_attention():
    uniform = torch.full((2, 3, 5, 5), 0.2, dtype=torch.float64)
    found = accumulate([uniform, uniform])
    off, on = 0.75 / 5, 0.25 + 0.75 / 5
    assert (off, on) == (pytest.approx(0.15), pytest.approx(0.40))
    wanted = torch.full((5, 5), off, dtype=torch.float64).fill_diagonal_(on)
    torch.testing.assert_close(found, wanted.expand(2, 5, 5), rtol=0, atol=1e-15)
    nothing = torch.eye(5).double().expand(2, 3, 5, 5)
    assert torch.equal(accumulate(nothing for _ in range(12))[1], torch.eye(5).double())
    with pytest.raises(ConfigError, match="weights of at least one layer: got none"):
        accumulate([])


def test_the_later_layer_multiplies_from_the_left():
    first = torch.tensor([[0.5, 0.5], [0.0, 1.0]]).double()[None, None]
    second = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()[None, None]
    # (second + 1)/2 (first + 1)/2 = [[.5 .5] [.5 .5]] [[.75 .25] [0 1]]
    wanted = torch.tensor([[[0.375, 0.625], [0.375, 0.625]]]).double()
    assert torch.equal(accumulate([first, second]), wanted)


@pytest.mark.parametrize("kind", ["class token", "registers", "mean pooling", "map"])
@pytest.mark.parametrize(
    "call", [inspection.rollout, inspection.relevance, inspection.gradient_rollout]
)
def test_hidden_patches_are_zero_in_maps(call, kind):
    make, changes = KINDS[kind]
    model, mask = make(**changes), a_mask()
    found = call(model, images(), patch_mask=mask)
    assert found.isfinite().all()
    assert found[~mask].count_nonzero() == 0
    assert (found[mask] > 0).sum() > 10
    # What is hidden does not matter.
    other = images()
    other[0, :, 16:32, 32:] = 9.0
    again = call(model, other, patch_mask=mask)
    torch.testing.assert_close(again, found, rtol=0, atol=1e-12)


def by_autograd(model, x, classes) -> list[torch.Tensor]:
    """Mean over heads of (gradient * weights)^+ by a pass that keeps its weights."""
    kept = []

    def watch(module):
        def forward(tokens, grid, mask=None):
            weights = module.attention_weights(tokens, grid, mask)
            weights.retain_grad()
            kept.append(weights)
            v = module.qkv(tokens).unflatten(-1, (3, 3, 8))[:, :, 2].transpose(1, 2)
            return module.proj((weights @ v).transpose(1, 2).flatten(2))

        return forward

    for block in model.blocks:
        block.attn.forward = watch(block.attn)
    logits = model.forward_head(model.forward_features(x))
    logits[torch.arange(len(x)), classes].sum().backward()
    for block in model.blocks:
        del block.attn.forward
    model.zero_grad(set_to_none=True)
    return [(w.grad * w.detach()).clamp(min=0).mean(1) for w in kept]


@pytest.mark.parametrize("kind", KINDS)
def test_relevance_equals_a_pass_that_keeps_its_weights(kind):
    make, changes = KINDS[kind]
    model, prefix = make(**changes), PREFIX[kind]
    classes = torch.tensor([6, 2])
    layers = by_autograd(model, images(), classes)
    tokens = prefix + 15
    by_class = kind not in ("mean pooling", "map", "registers alone")
    rows = {}
    for name in ("relevance", "rollout"):
        matrix = torch.eye(tokens).double().expand(2, tokens, tokens)
        for weighted in layers:
            if name == "relevance":
                matrix = matrix + weighted @ matrix
            else:
                step = weighted + torch.eye(tokens)
                matrix = step / step.sum(-1, keepdim=True) @ matrix
        row = matrix[:, 0] if by_class else matrix[:, prefix:].mean(1)
        rows[name] = row[:, prefix:].view(2, 3, 5)
    for name, call in (
        ("relevance", inspection.relevance),
        ("rollout", inspection.gradient_rollout),
    ):
        found = call(model, images(), classes)
        wanted = rows[name] / rows[name].amax((1, 2), keepdim=True)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
        # By class token, each image's map differs and none is a single peak of skips.
        assert found.flatten(1).std(dim=1).min() > 1e-3
    assert hooks(model) == 0


def test_relevance_of_two_patches_by_hand():
    """One block, one head of width one, the class token and two patches.

    With v = value, w = weights of the class row, the class logit is
    u (c + p sum_j w_j v_j) for a head that reads one channel, if norms are left out:
    d logit / d w_j = u p v_j, so relevance of patch j is (u p v_j w_j)^+.
    """
    model = tiny_vit(
        image_size=(4, 8),
        patch_size=4,
        embed_dim=2,
        depth=1,
        num_heads=1,
        mlp_dim=1,
        num_classes=2,
        representation_size=0,
    )
    block = model.blocks[0]
    for norm in ("norm1", "norm2"):
        setattr(block, norm, torch.nn.Identity())
    model.norm = torch.nn.Identity()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        # Tokens: class (0, 0), left patch (1, 3), right patch (2, -1).
        model.pos_embed[0, 1:] = torch.tensor([[1.0, 3.0], [2.0, -1.0]])
        # No queries: every weight is 1/3. Values: the second channel, in channel 0.
        block.attn.qkv.weight[4, 1] = 1.0
        block.attn.proj.weight[1, 0] = 5.0
        model.head.weight[:] = torch.tensor([[0.0, 2.0], [0.0, -2.0]])
    picture = torch.zeros(1, 3, 4, 8).double()
    # Class 0: 2 * 5 * v_j / 3 = 10, -10/3; only the left patch speaks for it.
    found = inspection.relevance(model, picture, 0)
    torch.testing.assert_close(found, torch.tensor([[[1.0, 0.0]]]).double())
    # Class 1 is its negative: 0 and 10/3.
    found = inspection.relevance(model, picture, 1)
    torch.testing.assert_close(found, torch.tensor([[[0.0, 1.0]]]).double())
    # Three values that share a sign, unlike rollout, which sees equal weights.
    with torch.no_grad():
        model.pos_embed[0, 2, 1] = 1.0
    for call in (inspection.relevance, inspection.gradient_rollout):
        found = call(model, picture, 0)
        torch.testing.assert_close(found, torch.tensor([[[1.0, 1 / 3]]]).double())
    even = inspection.rollout(model, picture)
    torch.testing.assert_close(even, torch.ones(1, 1, 2).double())


EXPLAIN = [inspection.relevance, inspection.gradient_rollout, inspection.grad_cam]


@pytest.mark.parametrize("call", EXPLAIN)
@pytest.mark.parametrize("make", [tiny_vit, tiny_deit, tiny_hybrid])
def test_gradients_of_parameters_are_left_alone(call, make):
    model = make()
    frozen = [model.blocks[0].attn.qkv.weight, model.head.bias, model.cls_token]
    for parameter in frozen:
        parameter.requires_grad_(False)
    marked = model.norm.weight
    marked.grad = torch.full_like(marked, 3.5)
    before = [parameter.requires_grad for parameter in model.parameters()]
    values = [parameter.clone() for parameter in model.parameters()]
    wanted = call(model, images())
    assert not wanted.requires_grad
    with torch.no_grad():
        assert torch.equal(call(model, images()), wanted)
    with torch.inference_mode():
        inside = call(model, images())
    assert torch.equal(inside, wanted)
    for parameter, value, needs in zip(model.parameters(), values, before, strict=True):
        assert parameter.requires_grad is needs
        assert torch.equal(parameter, value)
        expected = torch.full_like(marked, 3.5) if parameter is marked else None
        assert (parameter.grad is None) == (expected is None)
    assert torch.equal(marked.grad, torch.full_like(marked, 3.5))
    model.requires_grad_(False)
    assert torch.equal(call(model, images()), wanted)
    assert hooks(model) == 0


@pytest.mark.parametrize("call", EXPLAIN)
def test_classes_are_the_predicted_ones_unless_named(call):
    model = tiny_vit()
    predicted = model(images()).argmax(1)
    found = call(model, images())
    assert found.shape == (2, 3, 5)
    assert torch.equal(call(model, images(), predicted), found)
    one = call(model, images(), 3)
    assert torch.equal(call(model, images(), torch.tensor([3, 3])), one)
    mixed = call(model, images(), torch.tensor([3, 5]))
    torch.testing.assert_close(mixed[0], one[0])
    assert not torch.allclose(mixed[1], one[1], atol=1e-3)


@pytest.mark.parametrize("call", EXPLAIN)
def test_sentences_about_classes(call):
    with pytest.raises(ConfigError, match="no head, so there is no class whose evid"):
        call(tiny_vit(num_classes=0), images())
    sentence = "between 0 and 6, because the model has 7 classes: got"
    with pytest.raises(ConfigError, match=f"{sentence} 7"):
        call(tiny_vit(), images(), 7)
    with pytest.raises(ConfigError, match=f"{sentence} -1"):
        call(tiny_vit(), images(), torch.tensor([0, -1]))
    with pytest.raises(ConfigError, match=r"one for each image, 2: got 3\."):
        call(tiny_vit(), images(), torch.tensor([0, 1, 2]))


def cam(cells: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Grad-CAM, channel by channel: [batch, rows, columns, channels] of both."""
    total = torch.zeros(cells.shape[:3]).double()
    for channel in range(cells.shape[-1]):
        weight = gradient[..., channel].mean((1, 2))
        total += weight[:, None, None] * cells[..., channel]
    total = total.clamp(min=0)
    peak = total.amax((1, 2), keepdim=True)
    return torch.where(peak > 0, total / peak.clamp(min=1e-300), 0.0)


def test_grad_cam_of_a_resnet_is_the_class_activation_map():
    """Mean and linear head: d logit / d F_c is head[class, c] / cells, everywhere."""
    model, classes = tiny_resnet(), torch.tensor([4, 1])
    with torch.no_grad():
        patches = model.forward_features(images()).patches
    rows = model.head.fc.weight.detach().flatten(1)[classes]
    wanted = (patches * rows[:, None, None, :]).sum(-1).clamp(min=0)
    peak = wanted.amax((1, 2), keepdim=True)
    assert (peak > 0).all()
    found = inspection.grad_cam(model, images(), classes)
    assert found.shape == (2, 6, 10)
    torch.testing.assert_close(found, wanted / peak)
    assert (found == 0).any()


@pytest.mark.parametrize("layer", [None, 0, 1, 2])
@pytest.mark.parametrize("make", [tiny_vit, tiny_deit])
def test_grad_cam_of_tokens(make, layer):
    model, classes = make(), torch.tensor([4, 1])
    prefix, block = model.config.num_prefix_tokens, 1 if layer is None else layer
    tokens = model.forward_blocks(model.embed(images()), 0, block)
    x = tokens.x.detach().requires_grad_()
    logits = model.forward_tokens(tokens._replace(x=x), block)
    logits[torch.arange(2), classes].sum().backward()
    cells = x.detach()[:, prefix:].view(2, 3, 5, 24)
    wanted = cam(cells, x.grad[:, prefix:].view(2, 3, 5, 24))
    found = inspection.grad_cam(model, images(), classes, layer=layer)
    torch.testing.assert_close(found, wanted)
    # After the last block a class token's head has no gradient at the patches.
    assert bool(found.any()) is (layer != 2)


def test_grad_cam_of_a_hybrid_is_of_its_backbone():
    model = tiny_hybrid(patch_size=16)
    cells = model.patch_embed.backbone(images()).detach().requires_grad_()
    embedded = model.patch_embed.proj(cells).flatten(2).transpose(1, 2)
    x = torch.cat([model.cls_token.expand(2, -1, -1), embedded], dim=1)
    tokens = model.embed(images())._replace(x=x + model.pos_embed)
    logits = model.forward_head(model.forward_norm(model.forward_blocks(tokens)))
    logits[:, 5].sum().backward()
    wanted = cam(cells.detach().movedim(1, -1), cells.grad.movedim(1, -1))
    found = inspection.grad_cam(model, images(), 5)
    # Stride 8: two by two cells make a patch of 16.
    assert found.shape == (2, 6, 10)
    torch.testing.assert_close(found, wanted)
    assert inspection.grad_cam(model, images(), 5, layer=1).shape == (2, 3, 5)


def test_grad_cam_of_a_resnet_before_its_end():
    model = tiny_resnet()
    found = inspection.grad_cam(model, images(), 2, layer=1)
    assert found.shape == (2, 12, 20)
    with pytest.raises(ConfigError, match=r"between 0 .* and 3 .*leaves the last\): g"):
        inspection.grad_cam(model, images(), 2, layer=4)
    with pytest.raises(ConfigError, match=r"got -1\."):
        inspection.grad_cam(tiny_vit(), images(), layer=-1)


def test_a_map_with_nothing_in_favour_is_zero():
    model = tiny_resnet()
    with torch.no_grad():
        model.head.fc.weight.fill_(-1.0)
    found = inspection.grad_cam(model, images())
    assert torch.equal(found, torch.zeros(2, 6, 10).double())
