"""Difference of our logits from those of the library that weights come from.

    python benchmarks/weights.py            # the table, for docs/weights.md
    python benchmarks/weights.py --load     # time and memory of loading ViT-B/16

Every model gets random weights, is saved by its own library and loaded by `vt.load`. A
figure is the largest difference of a logit (or feature), divided by the largest logit,
over two random images: in float32 and float64, at the model's size, at a larger one and
at one that is not square ("-": not supported by the other library). timm and
transformers resize positions, and SimpleViT makes its table, in float32 even in a
float64 model: for the float64 figures all use float64. Needs the `dev` extra; about two
minutes.
"""

import argparse
import contextlib
import functools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import vitral as vt

Size = tuple[int, int]
OWN: Size = (224, 224)


@dataclass(frozen=True, slots=True)
class Peer:
    """A model of another library, and how to run it there and here."""

    library: str
    name: str
    make: Callable[[], nn.Module]
    save: Callable[[nn.Module, Path], Path]
    answer: Callable[[nn.Module, Tensor], Tensor]
    sizes: tuple[Size, ...]
    """Its own size; then a larger and one that is not square, if supported."""
    ours: Callable[[nn.Module, Tensor], Tensor] = lambda model, image: model(image)


def randomize(model: nn.Module) -> None:
    """Set all parameters to random values, so that no zero hides an error."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            spread = 0.05 if parameter.ndim > 1 else 0.2
            is_gain = parameter.ndim == 1 and bool((parameter == 1).all())
            parameter.copy_(noise * spread + float(is_gain))


def save_state(model: nn.Module, folder: Path) -> Path:
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "theirs.safetensors")
    return folder / "theirs.safetensors"


def save_pretrained(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def call_model(model: nn.Module, image: Tensor) -> Tensor:
    return model(image)


def call_simple_vit(model: nn.Module, image: Tensor) -> Tensor:
    """Run SimpleViT with its table in the precision of the image."""
    from vit_pytorch.simple_vit import posemb_sincos_2d

    before = torch.get_default_dtype()
    torch.set_default_dtype(image.dtype)
    model.pos_embedding = posemb_sincos_2d(14, 14, 384, dtype=image.dtype)
    torch.set_default_dtype(before)
    return model(image)


def logits(model: nn.Module, image: Tensor) -> Tensor:
    return model(image, interpolate_pos_encoding=True).logits


def tokens(model: nn.Module, image: Tensor) -> Tensor:
    return model(image, interpolate_pos_encoding=True).last_hidden_state[:, 0]


def cls(model: nn.Module, image: Tensor) -> Tensor:
    return model.forward_features(image).cls


def video_logits(model: nn.Module, image: Tensor) -> Tensor:
    """Run the two images as the frames of one clip."""
    return model(image[None]).logits


def of_one_clip(model: nn.Module, image: Tensor) -> Tensor:
    return model(image[None])


def timm_peers() -> Iterator[Peer]:
    import timm

    variants: tuple[tuple[str, dict[str, Any]], ...] = (
        ("vit_base_patch16_224", {}),
        ("vit_small_patch32_224", {}),
        ("vit_base_patch16_siglip_224", {"num_classes": 7}),
        ("vit_small_patch14_dinov2", {"img_size": 224, "num_classes": 7}),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 224, "num_classes": 7}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("deit3_small_patch16_224", {}),
        ("vit_tiny_r_s16_p8_224", {}),
        ("vit_small_r26_s32_224", {}),
        ("vit_base_r50_s16_224", {}),
        ("resnetv2_50x1_bit", {}),
    )
    for name, arguments in variants:
        if not name.startswith("resnet"):
            arguments = {"dynamic_img_size": True, **arguments}
        make = functools.partial(timm.create_model, name, **arguments)
        sizes: tuple[Size, ...] = ((224, 224), (320, 320), (224, 288))
        if "patch14" in name:
            sizes = ((224, 224), (322, 322), (224, 336))
        yield Peer("timm", name, make, save_state, call_model, sizes)
    name = "tnt_s_patch16_224"
    make = functools.partial(timm.create_model, name)
    yield Peer("timm", name, make, save_state, call_model, (OWN,))


def torchvision_peers() -> Iterator[Peer]:
    from torchvision.models import vit_b_16, vit_b_32

    for name, kind in (("vit_b_16", vit_b_16), ("vit_b_32", vit_b_32)):
        yield Peer("torchvision", name, kind, save_state, call_model, (OWN,))


def vit_pytorch_peers() -> Iterator[Peer]:
    from vit_pytorch import SimpleViT, ViT

    sizes = {"image_size": 224, "patch_size": 16, "num_classes": 7}
    sizes |= {"dim": 384, "depth": 6, "heads": 8, "mlp_dim": 1536}
    for kind, answer in ((ViT, call_model), (SimpleViT, call_simple_vit)):
        make = functools.partial(kind, **sizes)
        yield Peer("vit-pytorch", kind.__name__, make, save_state, answer, (OWN,))


def transformers_peers() -> Iterator[Peer]:
    import transformers as hf

    small = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3}
    vit = {**small, "intermediate_size": 768, "image_size": 224, "patch_size": 16}
    dino = {**small, "image_size": 224, "patch_size": 14}
    variants = (
        ("ViTForImageClassification", hf.ViTConfig(**vit, num_labels=7)),
        (
            "DeiTForImageClassificationWithTeacher",
            hf.DeiTConfig(**vit, num_labels=7),
        ),
        ("Dinov2ForImageClassification", hf.Dinov2Config(**dino, num_labels=7)),
        (
            "Dinov2WithRegistersForImageClassification",
            hf.Dinov2WithRegistersConfig(**dino, num_labels=7),
        ),
        ("ViTMAEModel", hf.ViTMAEConfig(**vit, mask_ratio=0.0)),
        ("BitForImageClassification", hf.BitConfig(num_labels=7)),
        (
            "TimesformerForVideoClassification",
            hf.TimesformerConfig(**vit, num_frames=2, num_labels=7),
        ),
    )
    for name, config in variants:
        kind = getattr(hf, name)
        make = lambda kind=kind, config=config: kind(config)  # noqa: E731
        step = 14 if "Dinov2" in name else 16
        sizes: tuple[Size, ...] = ((224, 224), (20 * step, 20 * step), (224, 18 * step))
        answer, ours = logits, call_model
        if name == "ViTMAEModel":
            answer, ours = tokens, cls
        if name == "TimesformerForVideoClassification":
            answer, ours = video_logits, of_one_clip
            # It supports full rows of 14 patches only.
            sizes = ((224, 224), (448, 448), (256, 224))
        if name == "BitForImageClassification" or "Dinov2" in name:
            answer = lambda model, image: model(image).logits  # noqa: E731
        yield Peer("transformers", name, make, save_pretrained, answer, sizes, ours)


@contextlib.contextmanager
def no_narrowing() -> Iterator[None]:
    """Disable casts from float64 to float32 within a library."""
    to = torch.Tensor.to

    def stay(tensor: Tensor, *arguments: Any, **named: Any) -> Tensor:
        narrow = (
            arguments[:1] == (torch.float32,) or named.get("dtype") is torch.float32
        )
        if tensor.dtype == torch.float64 and narrow:
            return tensor
        return to(tensor, *arguments, **named)

    with (
        mock.patch.object(torch.Tensor, "float", lambda tensor: tensor),
        mock.patch.object(torch.Tensor, "to", stay),
    ):
        yield


def differences(peer: Peer) -> list[list[float | None]]:
    """Return relative differences, [precision][size]."""
    torch.manual_seed(0)
    theirs = peer.make().eval()
    randomize(theirs)
    table: list[list[float | None]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = vt.load(peer.save(theirs, Path(folder))).model
        for dtype in (torch.float32, torch.float64):
            theirs, model = theirs.to(dtype), model.to(dtype)
            row: list[float | None] = []
            for height, width in peer.sizes:
                torch.manual_seed(1)
                image = torch.randn(2, 3, height, width).to(dtype)
                is_double = dtype == torch.float64
                with torch.no_grad():
                    with no_narrowing() if is_double else contextlib.nullcontext():
                        expected = peer.answer(theirs, image)
                    actual = peer.ours(model, image)
                gap = (actual - expected).abs().max() / expected.abs().max()
                row.append(float(gap))
            table.append(row + [None] * (3 - len(row)))
    return table


def table(only: str) -> None:
    print("| library | model | float32: own size, larger, not square | float64 |")
    print("|---|---|---|---|")
    worst = {0: 0.0, 1: 0.0}
    for peers in (timm_peers, transformers_peers, torchvision_peers, vit_pytorch_peers):
        for peer in (peer for peer in peers() if only in peer.name):
            rows = differences(peer)
            cells = [
                ", ".join("-" if v is None else f"{v:.0e}" for v in row) for row in rows
            ]
            for kind, row in enumerate(rows):
                worst[kind] = max(worst[kind], *(v for v in row if v is not None))
            print(f"| {peer.library} | {peer.name} | {cells[0]} | {cells[1]} |")
            sys.stdout.flush()
    print(f"\nworst: {worst[0]:.1e} in float32, {worst[1]:.1e} in float64")


LOADERS = {
    "vitral": "import vitral.weights as vw\nmodel = vw.load(path).model",
    "timm": (
        "import timm\nmodel = timm.create_model('vit_base_patch16_224', "
        "checkpoint_path=path)"
    ),
}
PROBE = """
import sys, time, torch
path = sys.argv[1]
{imports}
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
open("/proc/self/clear_refs", "w").write("5")
before = peak()
started = time.perf_counter()
{load}
print(time.perf_counter() - started, (peak() - before) / 1024)
"""


def loading(rounds: int) -> None:
    """Measure seconds and MiB of loading ViT-B/16, each in its own process."""
    import timm

    with tempfile.TemporaryDirectory() as folder:
        model = timm.create_model("vit_base_patch16_224")
        randomize(model)
        files = {"safetensors": save_state(model, Path(folder))}
        from vitral.weights.convert import convert

        files["npz"] = convert(files["safetensors"], f"{folder}/w.npz", "google").path
        for suffix, file in files.items():
            size = file.stat().st_size / 2**20
            results: dict[str, list[tuple[float, float]]] = {
                name: [] for name in LOADERS
            }
            for _ in range(rounds):
                for name, lines in LOADERS.items():
                    imports, load = lines.split("\n")
                    code = PROBE.format(imports=imports, load=load)
                    out = subprocess.run(
                        [sys.executable, "-c", code, str(file)],
                        capture_output=True,
                        text=True,
                        check=True,
                    ).stdout.split()
                    results[name].append((float(out[-2]), float(out[-1])))
            times = {n: statistics.median(t for t, _ in v) for n, v in results.items()}
            for name, values in results.items():
                memory = statistics.median(m for _, m in values)
                print(
                    f"{suffix} {name}: {times[name]:.2f} s, {memory:.0f} MiB = "
                    f"{memory / size:.2f} times the file"
                )
            print(f"{suffix}: vitral / timm = {times['vitral'] / times['timm']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="models whose name has this")
    args = parser.parse_args()
    started = time.perf_counter()
    if args.load:
        loading(args.rounds)
    else:
        table(args.only)
    print(f"{time.perf_counter() - started:.0f} s, torch {torch.__version__}")


if __name__ == "__main__":
    main()
