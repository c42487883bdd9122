"""Models of other libraries by the hundred: each loads, or is refused with its name.

    python benchmarks/weights_sweep.py            # the table, for docs/weights.md

Every transformer of timm and every vision class of transformers is built without
numbers (meta device) and read from its names, its shapes and its config.json. A sample
gets random numbers and is compared in float64.
"""

import json
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from safetensors.torch import save_file
from timm.models import VisionTransformer
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

import vitral as vt
from vitral.errors import VitralError
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.detect import detect_layout, read_layout
from vitral.weights.files import TensorFile, TensorInfo
from vitral.weights.layouts import naming_the_family
from vitral.weights.mismatch import check

ATTENTION = ("attn.", "attn_in.", "qkv", "attention.", "token_mixer.", "q_proj")
"""Parts of the names by which a model is a transformer."""
VISION = (
    "IMAGE",
    "VIDEO",
    "SEGMENTATION",
    "DEPTH",
    "DETECTION",
    "KEYPOINT",
    "BACKBONE",
)
"""Words in the names of transformers' tables of classes that take pictures."""
TOLERANCE = 1e-10


class ShapesOnly(TensorFile):
    """Names and shapes of a model without numbers."""

    format = "safetensors"

    def __init__(self, model: nn.Module) -> None:
        infos = {
            name: TensorInfo(tuple(tensor.shape), tensor.dtype)
            for name, tensor in model.state_dict().items()
        }
        super().__init__(Path("model.safetensors"), infos)

    def _data(self, name: str) -> Tensor:
        raise AssertionError(name)


@dataclass(frozen=True)
class Outcome:
    """Result for one model: loaded, or the sentence of its refusal."""

    library: str
    family: str
    name: str
    sentence: str
    """Empty: it loads."""

    @property
    def is_named(self) -> bool:
        return self.name in self.sentence or self.family in self.sentence

    @property
    def is_right(self) -> bool:
        return not self.sentence or self.is_named


@dataclass(frozen=True)
class Candidate:
    """A model without numbers, and its config.json."""

    library: str
    family: str
    name: str
    model: nn.Module
    config_json: dict[str, Any]

    def read(self) -> Outcome:
        """Read it; anything but a refusal of vitral's is a fault and raised."""
        opened = LayoutInput(file=ShapesOnly(self.model), config_json=self.config_json)
        sentence = ""
        try:
            layout = detect_layout(opened)
            with naming_the_family(opened):
                source = read_layout(layout, opened)
                check(source)
            assert _heads(self.model) in (None, getattr(source.config, "num_heads", 0))
        except VitralError as error:
            sentence = str(error)
        return Outcome(self.library, self.family, self.name, sentence)


def _heads(model: nn.Module) -> int | None:
    """Return the heads of timm's first block, which no tensor shows."""
    if not isinstance(model, VisionTransformer):
        return None
    heads = model.blocks[0].attn.num_heads
    assert isinstance(heads, int)
    return heads


def timm_config(model: nn.Module) -> dict[str, Any]:
    """Return the config.json that timm writes for a model."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        save_config_for_hf(model, file, model_config={})
        content = json.loads(file.read_text())
    assert isinstance(content, dict)
    return content


def timm_modules() -> dict[str, list[str]]:
    """Return the architectures of each module of timm that has attention."""
    modules: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        modules[timm.model_entrypoint(name).__module__.rsplit(".", 1)[-1]].append(name)
    return {
        module: names
        for module, names in modules.items()
        if _has_attention(min(names, key=len))
    }


def _has_attention(name: str) -> bool:
    with torch.device("meta"):
        names = timm.create_model(name).state_dict()
    return any(part in key for key in names for part in ATTENTION)


def timm_candidates(modules: dict[str, list[str]]) -> Iterator[Candidate]:
    for module, names in modules.items():
        for name in names:
            with torch.device("meta"):
                model = timm.create_model(name)
            yield Candidate("timm", module, name, model, timm_config(model))


def hugging_face_classes() -> dict[str, str]:
    """Return the model type of each class that takes pictures or clips."""
    classes: dict[str, str] = {}
    for table in dir(modeling_auto):
        if table.endswith("_MAPPING_NAMES") and any(word in table for word in VISION):
            classes |= _classes(getattr(modeling_auto, table))
    types = set(classes.values())
    plain = _classes(modeling_auto.MODEL_MAPPING_NAMES)
    classes |= {name: kind for name, kind in plain.items() if kind in types}
    return dict(sorted(classes.items(), key=lambda it: (it[1], it[0])))


def _classes(table: dict[str, Any]) -> dict[str, str]:
    return {
        name: kind
        for kind, names in table.items()
        for name in ([names] if isinstance(names, str) else names)
    }


def hugging_face_candidates(classes: dict[str, str]) -> Iterator[Candidate]:
    """Build each class with its default settings; those that have none are left out."""
    for name, kind in classes.items():
        try:
            made = getattr(transformers, name)
            config = made.config_class()
            with torch.device("meta"):
                model = made(config)
        except Exception:  # transformers' own classes, of any fault
            continue
        content = json.loads(config.to_json_string(use_diff=False))
        content["architectures"] = [name]
        kind = content.get("architecture") or content["model_type"] or kind
        yield Candidate("transformers", kind, name, model, content)


# real tensors

REAL_TIMM = (
    "vit_tiny_patch16_224",
    "vit_tiny_r_s16_p8_224",
    "vit_small_r26_s32_224",
    "vit_small_patch32_224",
    "vit_small_patch8_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch16_224_miil",
    "vit_base_patch16_gap_224",
    "vit_base_patch16_siglip_224",
    "vit_base_patch16_siglip_gap_224",
    "vit_base_patch32_siglip_256",
    "vit_base_patch16_plus_240",
    "vit_large_patch16_siglip_256",
    "vit_huge_patch14_224",
    "vit_so150m_patch16_reg4_map_256",
    "vit_so150m_patch16_reg4_gap_256",
    "vit_so400m_patch14_siglip_224",
    "vit_so400m_patch14_siglip_gap_224",
    "vit_so400m_patch16_siglip_256",
    "vit_medium_patch16_gap_240",
    "vit_medium_patch16_gap_256",
    "vit_medium_patch16_reg1_gap_256",
    "vit_betwixt_patch16_reg4_gap_256",
    "vit_little_patch16_reg4_gap_256",
    "vit_wee_patch16_reg1_gap_256",
    "vit_mediumd_patch16_reg4_gap_256",
    "vit_giant_patch14_dinov2",
    "vit_base_patch32_clip_224",
    "vit_base_patch16_clip_quickgelu_224",
    "beit_base_patch16_224",
    "beitv2_base_patch16_224",
    "eva_giant_patch14_224",
    "aimv2_large_patch14_224",
    "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "resnetv2_50x1_bit",
    "tnt_s_patch16_224",
    "test_vit",
)
"""Architectures of timm that get numbers, of each kind that loads."""
SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 16,
    "num_labels": 3,
}
REAL_HUGGING_FACE: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": SMALL,
    "DeiTForImageClassification": SMALL,
    "DeiTForImageClassificationWithTeacher": SMALL,
    "Dinov2ForImageClassification": SMALL,
    "Dinov2WithRegistersForImageClassification": SMALL,
    "IJepaForImageClassification": SMALL,
    "BeitForImageClassification": {**SMALL, "use_relative_position_bias": True},
    "CLIPVisionModelWithProjection": {**SMALL, "projection_dim": 3},
    "TimesformerForVideoClassification": {**SMALL, "num_frames": 2},
    "BitForImageClassification": {
        "embedding_size": 32,
        "hidden_sizes": [128, 256],
        "depths": [1, 1],
        "num_labels": 3,
    },
}
"""Classes of transformers that get numbers, with small sizes."""


def randomise(model: nn.Module) -> nn.Module:
    """Return a model in float64 whose every parameter is random."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.2 if parameter.ndim == 1 else 1 / parameter[0].numel() ** 0.5
            parameter.copy_(noise * scale + (parameter.ndim == 1))
    return model.double().eval()


def real_timm(name: str, folder: Path) -> nn.Module:
    """Write an architecture of one block with random numbers, as timm does."""
    sizes = {} if name.startswith("resnet") else {"depth": 1}
    model = randomise(timm.create_model(name, num_classes=3, **sizes))
    save_config_for_hf(model, folder / "config.json", {}, model_args=sizes)
    _save(model, folder)
    return model


def real_hugging_face(name: str, folder: Path) -> nn.Module:
    """Write a small model of a class with random numbers, as transformers does."""
    made = getattr(transformers, name)
    model = randomise(made(made.config_class(**REAL_HUGGING_FACE[name])))
    model.save_pretrained(folder)
    return model


def _save(model: nn.Module, folder: Path) -> None:
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")


def difference(folder: Path, theirs: nn.Module) -> float:
    """Return the largest difference of a logit, as a share of the largest logit."""
    model = vt.load(folder, dtype=torch.float64).model
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, *model.config.input_shape, generator=generator).double()
    with torch.no_grad():
        wanted = theirs(image)
        embedding = getattr(wanted, "image_embeds", wanted)
        wanted = getattr(wanted, "logits", embedding)
        return float((model(image) - wanted).abs().max() / wanted.abs().max())


def measure(name: str) -> float:
    """Return the difference of one model of the sample."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        make = real_hugging_face if name in REAL_HUGGING_FACE else real_timm
        return difference(folder, make(name, folder))


# table


def make_table(outcomes: list[Outcome]) -> str:
    """Return a row for each family of which a model loads, and one for the others."""
    lines = ["| library | family | models | load | refused with its name |"]
    lines.append("|---|---|---|---|---|")
    for library in ("timm", "transformers"):
        families: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            if outcome.library == library:
                families[outcome.family].append(outcome)
        loading = {k: v for k, v in families.items() if any(not o.sentence for o in v)}
        for family, rows in sorted(loading.items()):
            lines.append(_row(library, f"`{family}`", rows))
        others = sorted(families.keys() - loading.keys())
        rows = [outcome for family in others for outcome in families[family]]
        lines.append(_row(library, f"{len(others)} other families", rows))
    return "\n".join(lines)


def _row(library: str, family: str, rows: list[Outcome]) -> str:
    load = sum(not row.sentence for row in rows)
    named = sum(bool(row.sentence) and row.is_named for row in rows)
    return f"| {library} | {family} | {len(rows)} | {load} | {named} |"


def main() -> None:
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    outcomes = [made.read() for made in timm_candidates(timm_modules())]
    outcomes += [
        made.read() for made in hugging_face_candidates(hugging_face_classes())
    ]
    print(make_table(outcomes))
    for outcome in outcomes:
        if not outcome.is_right:
            print(f"refused without its name: {outcome}")
    worst = {name: measure(name) for name in (*REAL_TIMM, *REAL_HUGGING_FACE)}
    for name, value in sorted(worst.items(), key=lambda it: -it[1])[:5]:
        print(f"{name}: {value:.0e}")
    print(f"{len(worst)} with numbers, worst {max(worst.values()):.0e} in float64")


if __name__ == "__main__":
    main()
