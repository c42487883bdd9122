"""What a video model looks at, against whole matrices of attention by hand."""

import pytest
import torch

from attention_by_hand import hooks
from clips_by_hand import by_hand
from helpers import images, tiny_timesformer, tiny_vit
from vitral.errors import ConfigError
from vitral.inspection import (
    class_attention,
    grad_cam,
    gradient_rollout,
    iter_attention,
    relevance,
    rollout,
    rollout_matrix,
)
from vitral.models import from_image
from vitral.models.timesformer.config import STEPS

FRAMES = 4
SCHEMES = tuple(STEPS)
CASES = [
    *((scheme, {}) for scheme in SCHEMES),
    *((scheme, {"class_token_in": "every_step"}) for scheme in SCHEMES[2:]),
    ("divided", {"reg_tokens": 2, "class_token_in": "every_step"}),
    ("space", {"reg_tokens": 2}),
    ("axial", {"class_token": False, "global_pool": "avg"}),
]


def clips(batch=2, frames=FRAMES, height=48, width=80, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, frames, 3, height, width)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def close(found, wanted, atol=1e-10) -> None:
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, atol=atol, rtol=0)


def map_of(matrix, hand, config):
    """[frames, rows, columns] of the rows that the head reads, over its maximum."""
    if config.global_pool == "token":
        row = matrix[:, hand.class_tokens].mean(1)
    else:
        row = matrix[:, torch.tensor(hand.patches).flatten()].mean(1)
    found = row[:, torch.tensor(hand.patches)]
    return found / found.amax((1, 2, 3), keepdim=True)


@pytest.mark.parametrize(("scheme", "changes"), CASES)
def test_rollout_is_the_product_of_whole_matrices(scheme, changes):
    model = tiny_timesformer(attention_type=scheme, **changes)
    hand = by_hand(model, clips())
    with torch.no_grad():
        close(model(clips()), hand.logits.detach())
        matrix = torch.eye(hand.steps[0].shape[-1], dtype=torch.float64)
        for weights in hand.steps:
            mean = weights.mean(1)
            # A token that a step leaves out stays what it is.
            mean = mean + torch.diag_embed((mean.sum(-1) == 0).double())
            matrix = (mean + torch.eye(mean.shape[-1])) / 2 @ matrix
    close(rollout_matrix(model, clips()), matrix)
    close(matrix.sum(-1), torch.ones(matrix.shape[:2]).double(), 1e-12)
    found = rollout(model, clips())
    assert found.shape == (2, FRAMES, 3, 5)
    close(found, map_of(matrix, hand, model.config))
    assert hooks(model) == 0


@pytest.mark.parametrize(("scheme", "changes"), CASES)
def test_relevance_is_that_of_whole_matrices(scheme, changes):
    """A copy's share of a gradient times its weight adds up to the whole row's."""
    model = tiny_timesformer(attention_type=scheme, **changes)
    hand = by_hand(model, clips())
    classes = torch.tensor([5, 2])
    hand.logits.gather(1, classes[:, None]).sum().backward()
    size = hand.steps[0].shape[-1]
    plain = skipping = torch.eye(size, dtype=torch.float64)
    with torch.no_grad():
        for weights in hand.steps:
            positive = (weights * weights.grad).clamp(min=0).mean(1)
            plain = plain + positive @ plain
            whole = positive + torch.eye(size)
            skipping = whole / whole.sum(-1, keepdim=True) @ skipping
    config = model.config
    close(relevance(model, clips(), classes), map_of(plain, hand, config), 1e-8)
    found = gradient_rollout(model, clips(), classes)
    close(found, map_of(skipping, hand, config), 1e-8)
    assert hooks(model) == 0


@pytest.mark.parametrize(("scheme", "changes"), CASES[:-1])
def test_the_class_token_of_the_last_layer(scheme, changes):
    model = tiny_timesformer(attention_type=scheme, **changes)
    hand = by_hand(model, clips())
    row = hand.steps[-1].detach()[:, :, hand.class_tokens].mean(2)
    found = class_attention(model, clips())
    assert found.shape == (2, 3, FRAMES, 3, 5)
    close(found, row[:, :, torch.tensor(hand.patches)])


def test_a_layer_without_the_class_token_is_refused():
    model = tiny_timesformer()
    with pytest.raises(ConfigError, match=r"takes no part in layer 2, an attention al"):
        class_attention(model, clips(), 2)
    close(class_attention(model, clips(), 3), class_attention(model, clips()))
    with pytest.raises(ConfigError, match="no class token, so there is no class_att"):
        class_attention(tiny_timesformer(class_token=False, global_pool="avg"), clips())
    inside = tiny_timesformer(class_token_in="every_step")
    found = class_attention(inside, clips(), 0)
    hand = by_hand(inside, clips())
    row = hand.steps[0].detach()[:, :, 0]
    close(found, row[:, :, torch.tensor(hand.patches)])


OF_PATCHES = [(scheme, 2) for scheme in SCHEMES if scheme != "space"]


@pytest.mark.parametrize(
    ("scheme", "layer"),
    [*((scheme, layer) for layer in (None, 0) for scheme in SCHEMES), *OF_PATCHES],
)
def test_grad_cam_by_finite_differences(scheme, layer):
    """a_c is the mean slope of a logit: the same shift of a channel in all cells."""
    # What leaves the last block has a slope only for a head that reads patches.
    pool = {"class_token": False, "global_pool": "avg"} if layer == 2 else {}
    model = tiny_timesformer(attention_type=scheme, **pool)
    numbers = torch.tensor(by_hand(model, clips()).patches)
    with torch.no_grad():
        first = 1 if layer is None else layer
        tokens = model.forward_blocks(model.embed(clips()), 0, first)
        cells, step = tokens.x[:, numbers], 1e-5
        slopes = torch.zeros(2, 24, dtype=torch.float64)
        for channel in range(24):
            ends = []
            for sign in (1, -1):
                x = tokens.x.clone()
                x[:, numbers.flatten(), channel] += sign * step
                rest = model.forward_blocks(tokens._replace(x=x), first)
                ends.append(model.forward_head(model.forward_norm(rest))[:, 3])
            slopes[:, channel] = (ends[0] - ends[1]) / (2 * step) / numbers.numel()
        wanted = torch.einsum("bfrcd,bd->bfrc", cells, slopes).relu()
        wanted = wanted / wanted.amax((1, 2, 3), keepdim=True).clamp(min=1e-300)
    close(grad_cam(model, clips(), 3, layer), wanted, 1e-6)


@pytest.mark.parametrize("scheme", ["divided", "space"])
def test_equal_frames_roll_out_as_the_image_does(scheme):
    """With a silent time step every frame is the image, up to the class token's row."""
    vit = tiny_vit(init_values=None)
    model = from_image(vit, num_frames=FRAMES, attention_type=scheme).double().eval()
    picture = images()
    clip = picture[:, None].expand(-1, FRAMES, -1, -1, -1)
    with torch.no_grad():
        close(model(clip), vit(picture))
    whole = rollout(vit, picture)[:, None].expand(-1, FRAMES, -1, -1)
    # The time step mixes equal frames, so that each keeps what all of them have.
    close(rollout(model, clip), whole)


def test_fewer_frames_and_another_size():
    model = tiny_timesformer(attention_type="axial")
    assert rollout(model, clips(frames=3, height=64, width=112)).shape == (2, 3, 4, 7)
    one = rollout(model, clips()[:1])
    close(one, rollout(model, clips())[:1])


def test_members_of_a_layer_and_a_mask():
    model = tiny_timesformer(attention_type="local_global", depth=1)
    near, coarse = iter_attention(model, clips())
    assert near.members is not None
    assert near.members.tolist() == [list(range(1, 61))]
    assert coarse.members.tolist() == [list(range(61))]
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    for of in (rollout, relevance):
        with pytest.raises(ConfigError, match="`patch_mask` cannot be used with clips"):
            of(model, clips(), patch_mask=mask)
