"""TimeSformer's five schemes written out query by query, from the state dict alone."""

import itertools
import math

import pytest
import torch
from torch import nn

from helpers import assert_near, tiny_timesformer
from test_timesformer import SCHEMES, clips
from vitral.models import TimeSformer
from vitral.models.timesformer.config import STEPS
from vitral.training.optim import kernel_names

HEADS, DIM = 3, 24


class ByHand:
    """One clip, its tokens in a dictionary: a place (frame, row, column), or the name
    of a prefix token and of the frame whose it is ("space" alone has one a frame)."""

    def __init__(self, model: TimeSformer) -> None:
        self.config, self.state = model.config, model.state_dict()

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        spread = (x.var(dim=-1, correction=0, keepdim=True) + 1e-6).sqrt()
        unit = (x - x.mean(dim=-1, keepdim=True)) / spread
        return unit * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def dense(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def attention(self, query, keys, name: str) -> torch.Tensor:
        """What one normalised token gets from a list of normalised tokens."""
        keys = torch.stack(keys)
        q = self.dense(query, f"{name}.qkv")[:DIM].view(HEADS, -1)
        kv = self.dense(keys, f"{name}.qkv")[:, DIM:].view(len(keys), 2, HEADS, -1)
        heads = []
        for head in range(HEADS):
            logits = kv[:, 0, head] @ q[head] / math.sqrt(DIM / HEADS)
            heads.append(logits.softmax(dim=0) @ kv[:, 1, head])
        return self.dense(torch.cat(heads), f"{name}.proj")

    def groups_of(self, kind: str, tokens: list, prefix: list) -> list[list]:
        """The groups of tokens that see each other, prefix tokens in each."""
        shared = {
            "clip": lambda t, r, c: 0,
            "space": lambda t, r, c: t,
            "time": lambda t, r, c: (r, c),
            "width": lambda t, r, c: (t, r),
            "height": lambda t, r, c: (t, c),
        }[kind]
        groups: dict = {}
        for place in tokens:
            groups.setdefault(shared(*place), []).append(place)
        return [[*prefix, *group] for group in groups.values()]

    def step(self, x: dict, prefix: list, kind: str, norm: str, name: str) -> dict:
        """What every token of `x` gets in one attention step."""
        normed = {key: self.norm(token, norm) for key, token in x.items()}
        places = [key for key in x if key not in prefix]

        def get(query, keys):
            return self.attention(normed[query], [normed[key] for key in keys], name)

        if kind in ("local", "strided"):
            coarse = [at for at in places if not any(side % 2 for side in at)]
            rows, columns = (max(at[axis] for at in places) + 1 for axis in (1, 2))
            found = {}
            for at in places:
                near = [
                    to
                    for to in places
                    if abs(to[1] - at[1]) <= rows // 4
                    and abs(to[2] - at[2]) <= columns // 4
                ]
                found[at] = get(at, [*prefix, *(coarse if kind == "strided" else near)])
            heard = coarse if kind == "strided" else places
            return {**found, **{one: get(one, [*prefix, *heard]) for one in prefix}}
        groups = self.groups_of(kind, places, prefix)
        found = {at: get(at, group) for group in groups for at in group[len(prefix) :]}
        for one in prefix:
            found[one] = sum(get(one, group) for group in groups) / len(groups)
        return found

    def block(self, x: dict, layer: int, scheme: str, prefix: list) -> dict:
        at = f"blocks.{layer}."
        for step in STEPS[scheme]:
            inside = not step.name or self.config.class_token_in == "every_step"
            own = prefix if inside else []
            part = {key: x[key] for key in x if inside or key not in prefix}
            within = f"{step.name}_" if step.name else ""
            got = self.step(
                part, own, step.kind, f"{at}{within}norm1", f"{at}{within}attn"
            )
            for key, value in got.items():
                x[key] = x[key] + (
                    self.dense(value, f"{at}{step.name}_fc") if step.name else value
                )
        for key, token in x.items():
            hidden = self.dense(self.norm(token, f"{at}norm2"), f"{at}mlp.fc1")
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            x[key] = token + self.dense(hidden, f"{at}mlp.fc2")
        return x

    def logits(self, clip: torch.Tensor) -> torch.Tensor:
        config, scheme = self.config, self.config.attention_type
        names = ["cls", *(f"reg{i}" for i in range(config.reg_tokens))]
        first = [self.state["cls_token"][0, 0], *self.state.get("reg_token", [[]])[0]]
        kernel = self.state["patch_embed.proj.weight"].flatten(1)
        positions = self.state["pos_embed"][0]
        x = {}
        for frame, row, column in itertools.product(
            range(len(clip)), *map(range, (3, 5))
        ):
            cut = clip[
                frame, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16
            ]
            token = kernel @ cut.flatten() + self.state["patch_embed.proj.bias"]
            token = token + positions[len(names) + 5 * row + column]
            if scheme != "space":
                token = token + self.state["time_embed"][0, frame]
            x[frame, row, column] = token
        prefix = {
            name: token + positions[at]
            for at, (name, token) in enumerate(zip(names, first, strict=True))
        }
        if scheme == "space":
            frames = []
            for frame in range(len(clip)):
                own = {at: x[at] for at in x if at[0] == frame}
                tokens = {**prefix, **own}
                for layer in range(config.depth):
                    tokens = self.block(tokens, layer, scheme, names)
                frames.append(tokens["cls"])
            cls = sum(frames) / len(frames)
        else:
            tokens = {**prefix, **x}
            for layer in range(config.depth):
                tokens = self.block(tokens, layer, scheme, names)
            cls = tokens["cls"]
        return self.dense(self.norm(cls, "norm"), "head")


@pytest.mark.parametrize("changes", [{}, {"class_token_in": "every_step"}])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_written_out(scheme, changes):
    model = tiny_timesformer(attention_type=scheme, act="gelu", reg_tokens=1, **changes)
    x = clips(2)
    by_hand = ByHand(model)
    with torch.no_grad():
        wanted = torch.stack([by_hand.logits(clip) for clip in x])
        assert_near(model(x), wanted, 1e-10)
        assert_near(model.forward_head(model.forward_features(x)), wanted, 1e-10)


def test_the_two_rules_for_the_class_token_differ():
    first, second = (
        tiny_timesformer(class_token_in=rule)(clips())
        for rule in ("last_step", "every_step")
    )
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_stochastic_depth_keeps_or_drops_whole_clips(scheme):
    """One clip many times: a residual of the last block is there for all frames of a
    clip, or for none, so there are four answers for each further step."""
    model = tiny_timesformer(attention_type=scheme, depth=1).train()
    for name, module in model.blocks[0].named_modules():
        if name.endswith(("drop_path", "drop_path1", "drop_path2")):
            module.rate = 0.5
    torch.manual_seed(0)
    x = clips(1).expand(400, -1, -1, -1, -1)
    tokens = model.embed(x[:1])
    tokens = tokens._replace(x=tokens.x.expand(400, -1, -1))
    with torch.no_grad():
        answers = model.forward_tokens(tokens)
    kinds = torch.unique(answers.mul(1e6).round(), dim=0)
    assert len(kinds) <= 2 ** (1 + len(STEPS[scheme]))
    assert len(kinds) >= 4


@pytest.mark.parametrize("scheme", SCHEMES)
def test_positions_and_tokens_do_not_decay(scheme):
    model = tiny_timesformer(attention_type=scheme, reg_tokens=1)
    matrices = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    assert kernel_names(model) == matrices
    tables = {"cls_token", "reg_token", "pos_embed", "time_embed"}
    assert not tables & kernel_names(model)
