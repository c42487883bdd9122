"""Fraction of a saliency map on the moving square: trained, shuffled and by chance.

    python benchmarks/moving_looks.py --task appearance --attention-type divided

A tiny TimeSformer is trained on vitral.data.sources.synthetic for 300 steps. The
figures are means over 200 unseen clips.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitral as vt
from vitral.data import Preprocess, Sampling
from vitral.data.sources.synthetic import MovingClips, draw_patterns, moving_squares
from vitral.inspection import grad_cam, relevance, rollout
from vitral.models import VisionModel

FRAMES, HEIGHT, WIDTH, PATCH, SIDE = 4, 16, 24, 4, 8
TRAINED_ON, LOOKED_AT, STEPS, BATCH = 1_800, 200, 300, 64
MAPS: dict[str, Callable[[VisionModel, Tensor], Tensor]] = {
    "rollout": rollout,
    "relevance": relevance,
    "Grad-CAM": grad_cam,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=("motion", "appearance"), default="motion")
    parser.add_argument("--attention-type", default="divided")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    size = (HEIGHT, WIDTH)
    squares = moving_squares(2_400, size, 0, label=args.task, frames=FRAMES, side=SIDE)
    preprocess = Preprocess(
        image_size=size, resize="squash", sampling=Sampling(frames=FRAMES)
    )
    pixels = torch.from_numpy(squares.clips).movedim(-1, 2).contiguous()
    clips, labels = preprocess.normalize(pixels), torch.from_numpy(squares.labels)
    model = train_model(
        clips[:TRAINED_ON], labels[:TRAINED_ON], args.attention_type, args.seed
    )
    seen = slice(TRAINED_ON, TRAINED_ON + LOOKED_AT)
    with torch.no_grad():
        predictions = model(clips[TRAINED_ON:]).argmax(1)
    accuracy = (predictions == labels[TRAINED_ON:]).float().mean()
    cover = square_cover(squares, seen)
    print(f"{accuracy:.1%} of {len(predictions)} unseen clips right")
    print(f"chance: {cover.mean():.3f} of a map, {(cover > 0).mean():.1%} of peaks")
    for name, explain in MAPS.items():
        report(name, explain(model, clips[seen]).numpy(), cover)
    report(
        "rollout, shuffled weights", rollout(shuffle_weights(model), clips[seen]), cover
    )


def train_model(
    clips: Tensor, labels: Tensor, attention_type: str, seed: int
) -> VisionModel:
    """Train with the initial weights and rate of vitral.studies.timesformer."""
    torch.manual_seed(seed)
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_dim": 64}
    model = vt.create(
        "timesformer_ti16",
        2,
        (HEIGHT, WIDTH),
        attention_type=attention_type,
        patch_size=PATCH,
        num_frames=FRAMES,
        **sizes,
    )
    for name, parameter in model.named_parameters():
        if name in ("pos_embed", "time_embed"):
            nn.init.normal_(parameter, std=0.5)
        elif parameter.ndim == 2 and not name.startswith("head"):
            nn.init.xavier_uniform_(parameter)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        decay = 0.5 * (1 + np.cos(np.pi * step / STEPS))
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 30) * decay
        chosen = torch.randint(0, len(clips), (BATCH,), generator=generator)
        loss = F.cross_entropy(model(clips[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def square_cover(squares: MovingClips, seen: slice) -> np.ndarray:
    """Return each patch's fraction on the square, [clips, frames, rows, columns]."""
    patterns = draw_patterns(SIDE)[:2]
    mask = np.zeros(squares.clips[seen].shape[:4])
    for clip, marks in zip(squares.clips[seen], mask, strict=True):
        for frame, mark in zip(clip, marks, strict=True):
            for top in range(HEIGHT - SIDE + 1):
                for left in range(WIDTH - SIDE + 1):
                    window = np.s_[top : top + SIDE, left : left + SIDE]
                    if any((frame[window] == pattern).all() for pattern in patterns):
                        mark[window] = 1
    rows, columns = HEIGHT // PATCH, WIDTH // PATCH
    cells = mask.reshape(LOOKED_AT, FRAMES, rows, PATCH, columns, PATCH)
    return cells.mean(axis=(3, 5))


def shuffle_weights(model: VisionModel) -> VisionModel:
    """Shuffle the values of every tensor in place."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return model


def report(name: str, maps: np.ndarray | Tensor, cover: np.ndarray) -> None:
    heats = np.asarray(maps).reshape(LOOKED_AT, -1)
    marks = cover.reshape(LOOKED_AT, -1)
    total = heats.sum(axis=1)
    nonzero = total > 0
    share = (heats * marks).sum(axis=1)[nonzero] / total[nonzero]
    peak = marks[np.arange(LOOKED_AT), heats.argmax(axis=1)] > 0
    print(f"{name}: {share.mean():.3f} of the map, {peak.mean():.1%} of peaks")


if __name__ == "__main__":
    main()
