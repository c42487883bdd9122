"""Image towers beside their references: difference in float64, and the way back.

    python -m benchmarks.weights_towers     # the table, for docs/weights.md

Every model is small and has random weights in every parameter. It is saved by its own
library, loaded by `vt.load`, and compared at its own size and at one that is not square
("-": not supported by the other library). It is then written by `vt.convert` and read
by its own library again. A figure is the largest difference divided by the largest
answer. The casts of the other library to float32 are switched off. Where it makes
angles, or the places of a resized table, in float32 from the start, the limit is 1e-5.
The script fails beyond its limits.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

import vitral as vt
from benchmarks.weights import no_narrowing, randomize

OWN, OTHER = (64, 64), (48, 80)
SIZES = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}
HIDDEN = {
    "image_size": 64,
    "patch_size": 16,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
}
Answer = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Tower:
    """A model of a library, and how to save, run, and read it again."""

    layout: str
    """Value of `vitral convert --to`."""
    reference: str
    make: Callable[[], nn.Module]
    save: Callable[[nn.Module, Path], None]
    again: Callable[[nn.Module, Path], nn.Module]
    """Reads what vitral wrote."""
    answer: Answer
    ours: Answer
    has_other_size: bool = True
    limit: float = 1e-10


def timm_towers() -> Iterator[Tower]:
    rows: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("timm", "vit_base_patch16_clip_quickgelu_224", {}),
        ("timm", "vit_little_patch16_reg4_gap_256", {}),
        ("timm_dinov3", "vit_small_patch16_dinov3", {"global_pool": "token"}),
        ("timm_dinov3", "vit_small_plus_patch16_dinov3", {}),
        ("timm_beit", "beit_base_patch16_224", {}),
        ("timm_beit", "beitv2_large_patch16_224", {}),
        ("timm_eva", "eva02_tiny_patch14_224", {}),
        ("timm_eva", "eva02_base_patch14_448", {}),
        ("timm_eva", "eva_giant_patch14_224", {}),
        ("timm_eva", "vit_medium_patch16_rope_reg1_gap_256", {}),
        ("timm_aimv2", "aimv2_large_patch14_224", {}),
    )
    for layout, name, changes in rows:
        arguments = {**SIZES, **changes}
        if "patch14" in name:
            arguments["patch_size"] = 16
        if layout != "timm_beit":
            arguments["dynamic_img_size"] = True
        narrow = any(it in name for it in ("rope", "dinov3", "eva02", "beit"))
        make = lambda it=name, given=arguments: timm.create_model(  # noqa: E731
            it, num_classes=5, **given
        )
        yield Tower(
            layout,
            f"timm {name}",
            make,
            lambda model, folder, given=arguments: save_timm(model, folder, given),
            lambda model, file, make=make: load_timm(make(), file),
            run_beit if layout == "timm_beit" else call,
            call,
            limit=1e-5 if narrow else 1e-10,
        )


def save_timm(model: nn.Module, folder: Path, arguments: dict[str, Any]) -> None:
    save_config_for_hf(model, folder / "config.json", {}, model_args=arguments)
    tensors = {name: it.contiguous() for name, it in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")


def load_timm(model: nn.Module, file: Path) -> nn.Module:
    model.load_state_dict(load_file(file))
    return model


def call(model: nn.Module, image: Tensor) -> Tensor:
    answer = model(image)
    assert isinstance(answer, Tensor)
    return answer


def run_beit(model: nn.Module, image: Tensor) -> Tensor:
    """Run timm's BEiT, whose size is changed before it runs."""
    resized: Any = copy.deepcopy(model)
    resized.set_input_size(tuple(image.shape[-2:]))
    return call(resized, image)


def hugging_face_towers() -> Iterator[Tower]:
    relative = {"use_relative_position_bias": True, "num_labels": 5}
    rows: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("huggingface_clip", "CLIPVisionModel", {}),
        ("huggingface", "IJepaForImageClassification", {"num_labels": 5}),
        ("huggingface", "ViTMSNForImageClassification", {"num_labels": 5}),
        ("huggingface_dinov3", "DINOv3ViTModel", {"num_register_tokens": 4}),
        ("huggingface_beit", "BeitForImageClassification", relative),
        ("huggingface_beit", "BeitModel", {"use_shared_relative_position_bias": True}),
        ("huggingface_aimv2", "Aimv2VisionModel", {"use_head": False}),
    )
    for layout, name, changes in rows:
        kind = getattr(transformers, name)
        config = kind.config_class(**HIDDEN, **changes)
        by_flag = name.startswith(("CLIP", "IJepa", "ViTMSN"))
        patches = name == "Aimv2VisionModel"
        yield Tower(
            layout,
            f"transformers {name}",
            lambda kind=kind, config=config: kind(config),
            lambda model, folder: model.save_pretrained(folder),  # type: ignore[operator]
            lambda model, folder: type(model).from_pretrained(folder),  # type: ignore[attr-defined]
            lambda model, image, flag=by_flag: run_hugging_face(model, image, flag),
            mean_of_patches if patches else call,
            has_other_size=not patches,
            limit=1e-5 if "dinov3" in layout else 1e-10,
        )


def run_hugging_face(model: nn.Module, image: Tensor, by_flag: bool) -> Tensor:
    """Return logits, the pooled vector, or the mean of the patches."""
    out = model(image, **({"interpolate_pos_encoding": True} if by_flag else {}))
    for name in ("logits", "pooler_output"):
        answer = getattr(out, name, None)
        if isinstance(answer, Tensor):
            return answer
    answer = out.last_hidden_state.mean(1)
    assert isinstance(answer, Tensor)
    return answer


def mean_of_patches(model: Any, image: Tensor) -> Tensor:
    return model.forward_features(image).patches.flatten(1, 2).mean(1)


def compare(tower: Tower) -> tuple[float, float | None, float]:
    """Return the differences at its own size, at another, and of the way back."""
    torch.manual_seed(0)
    theirs = tower.make()
    randomize(theirs)
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        tower.save(theirs, folder)
        model = vt.load(folder, dtype=torch.float64).model
        vt.convert(folder, folder / "native", "native")
        single = tower.layout.startswith("timm")
        out = folder / ("out.safetensors" if single else "out")
        vt.convert(folder / "native", out, tower.layout)
        again = tower.again(theirs, out).double().eval()
        theirs = theirs.double().eval()
        with torch.no_grad(), no_narrowing():
            sizes = (OWN, OTHER) if tower.has_other_size else (OWN,)
            gaps = [
                gap(tower.ours(model, image), tower.answer(theirs, image))
                for image in map(random_images, sizes)
            ]
            image = random_images(OWN)
            back = gap(tower.answer(again, image), tower.answer(theirs, image))
    return gaps[0], gaps[1] if len(gaps) > 1 else None, back


def random_images(size: tuple[int, int]) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, *size, dtype=torch.float64)


def gap(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def towers() -> list[Tower]:
    return [*timm_towers(), *hugging_face_towers()]


def make_row(tower: Tower) -> str:
    """Return a row of the table.

    Raises:
        AssertionError: a difference is beyond the limit.
    """
    own, other, back = compare(tower)
    worst = max(own, other or 0.0)
    assert worst < tower.limit, (tower.reference, own, other)
    assert back == 0, (tower.reference, back)
    elsewhere = "-" if other is None else f"{other:.0e}"
    return f"| `{tower.layout}` | {tower.reference} | {own:.0e} | {elsewhere} | yes |"


def main() -> None:
    transformers.logging.set_verbosity_error()
    print("| layout | reference | own size | another size | both ways |")
    print("|---|---|---|---|---|")
    for tower in towers():
        print(make_row(tower), flush=True)
    versions = f"torch {torch.__version__}, timm {timm.__version__}"
    print(f"\n{versions}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
