"""Weights of models that vitral does not have are refused with the family's name."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import vitral as vt
from helpers import TINY
from test_weights_json import edit, timm_folder
from vitral.cli import main
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.models import ViT, ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.files import TensorFile, TensorInfo
from vitral.weights.layouts import find_family


class Shapes(TensorFile):
    """The names and shapes of a model without numbers."""

    format = "safetensors"

    def __init__(self, model: nn.Module) -> None:
        infos = {
            name: TensorInfo(tuple(tensor.shape), tensor.dtype)
            for name, tensor in model.state_dict().items()
        }
        super().__init__(Path("none.safetensors"), infos)

    def _data(self, name: str) -> torch.Tensor:
        raise AssertionError(name)


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("beit_base_patch16_224", "BEiT"),
        ("beit3_base_patch16_224", "BEiT-3"),
        ("aimv2_large_patch14_224", "AIMv2"),
        ("vit_base_patch16_clip_224", "vision encoder of CLIP"),
        ("vit_small_patch16_dinov3", "Eva, of rotary positions (DINOv3 among them)"),
        ("vit_base_patch16_18x2_224", "parallel ViT"),
        ("cait_xxs24_224", "CaiT"),
        ("convit_tiny", "ConViT"),
        ("convnext_atto", "ConvNeXt"),
        ("crossvit_9_240", "CrossViT"),
        ("davit_tiny", "DaViT"),
        ("efficientvit_m0", "EfficientViT (MSRA)"),
        ("hiera_tiny_224", "Hiera"),
        ("levit_128", "LeViT"),
        ("mvitv2_tiny", "MViT"),
        ("pit_ti_224", "PiT"),
        ("pvt_v2_b0", "SegFormer or PVT"),
        ("resnet18", "a network of convolutions without attention"),
        ("samvit_base_patch16", "SAM"),
        ("swin_tiny_patch4_window7_224", "Swin Transformer"),
        ("swinv2_tiny_window8_256", "Swin Transformer V2"),
        ("tiny_vit_5m_224", "TinyViT"),
        ("twins_svt_small", "Twins"),
        ("volo_d1_224", "VOLO"),
        ("xcit_nano_12_p8_224", "XCiT"),
    ],
)
def test_tensors_tell_the_family(name, family):
    assert find_family(LayoutInput(file=Shapes(on_meta(name)))) == family


def write(folder: Path, content: dict[str, Any], model: nn.Module) -> Path:
    folder.mkdir(exist_ok=True)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_a_model_type_is_named_with_its_program(tmp_path, capsys):
    config = transformers.SwinConfig(
        image_size=32, embed_dim=8, depths=[1], num_heads=[1], window_size=4
    )
    transformers.SwinForImageClassification(config).save_pretrained(tmp_path)
    words = ["train", "digits", "--out", str(tmp_path / "run")]
    assert main([*words, "--weights", str(tmp_path)]) == 4
    said = capsys.readouterr().err
    assert "holds Hugging Face's swin (SwinForImageClassification), which vitr" in said
    assert "Use transformers for it, or give weights of a ViT, DeiT" in said
    assert "big_vision_scan" not in said
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"By its tensors it may be a Swin Tra"):
        vt.load(tmp_path)


def test_an_architecture_is_named_with_its_program(tmp_path):
    model = timm.create_model("test_convnext")
    folder = write(tmp_path / "m", {"architecture": "test_convnext"}, model)
    with pytest.raises(WeightsError, match=r"holds timm's test_convnext, .*Use timm f"):
        vt.load(folder)


def test_names_of_a_vit_with_more_parts_name_the_family(tmp_path):
    sizes = {"depth": 1, "embed_dim": 24, "num_heads": 3, "img_size": 32}
    name = "vit_relpos_base_patch16_224"
    model = timm.create_model(name, num_classes=3, **sizes)
    folder = write(tmp_path / "m", {"architecture": name}, model)
    with pytest.raises(WeightsError, match=f"rel_pos.*config.json .* timm's {name}"):
        vt.load(folder, num_heads=3)
    (folder / "config.json").write_text("{}")
    with pytest.raises(
        WeightsError, match=r"By its tensors it may be a ViT with relative"
    ):
        vt.load(folder, num_heads=3)


@pytest.mark.parametrize("scale", [None, 1.0], ids=["plain", "layer-scale"])
@pytest.mark.parametrize("layout", ["native", "timm", "huggingface"])
def test_a_damaged_file_of_a_known_model_names_no_other(layout, scale, tmp_path):
    """`config.json says that it is a ViT` read as if vitral had no ViT."""
    sizes = {**TINY, "image_size": (48, 48), "init_values": scale}
    # Hugging Face's DINOv2 with a head pools in another way than ViT.
    classes = 0 if scale else 3
    config = ViTConfig(**{**sizes, "num_classes": classes, "mlp_dim": 48})
    vt.save(tmp_path / "whole", ViT(config), Preprocess(image_size=(48, 48)))
    place = tmp_path / "damaged"
    vt.convert(tmp_path / "whole", place, layout)
    file = place / "model.safetensors"
    tensors = load_file(file)
    lost = next(name for name in sorted(tensors) if re.search(r"1\..*norm", name))
    save_file({name: t for name, t in tensors.items() if name != lost}, file)
    for bare in (False, True):
        if bare:
            (place / "config.json").unlink()
        with pytest.raises(WeightsError, match="norm") as caught:
            vt.load(place, num_heads=3)
        assert "may be" not in str(caught.value)
        assert "says that it is" not in str(caught.value)


def test_a_refusal_that_has_the_name_is_left_alone(tmp_path):
    timm_folder(tmp_path)
    edit(tmp_path / "config.json", ("model_args", "depth"), 5)
    name = "vit_base_patch16_rpn_224"
    edit(tmp_path / "config.json", ("architecture",), name)
    with pytest.raises(WeightsError, match=name) as caught:
        vt.load(tmp_path)
    assert str(caught.value).count(name) == 1


@pytest.mark.parametrize("layout", ["native", "timm", "huggingface", "google", "dino"])
def test_heads_that_the_file_says_cannot_be_contradicted(layout, tmp_path):
    """Another number of heads is another function: it loaded without a word."""
    sizes = {**TINY, "image_size": (48, 48), "num_heads": 3, "num_classes": 3}
    vt.save(
        tmp_path / "whole", ViT(ViTConfig(**sizes)), Preprocess(image_size=(48, 48))
    )
    place = tmp_path / "written"
    if layout == "google":
        place = tmp_path / "written.npz"
    if layout == "dino":
        place = tmp_path / "written.safetensors"
        sizes |= {"num_classes": 0, "mlp_dim": 96}
        vt.save(
            tmp_path / "bare", ViT(ViTConfig(**sizes)), Preprocess(image_size=(48, 48))
        )
        vt.convert(tmp_path / "bare", place, layout)
    else:
        vt.convert(tmp_path / "whole", place, layout)
    assert vt.load(place, num_heads=3).model.config.num_heads == 3
    with pytest.raises(ConfigError, match=r"`num_heads=6` is not that of .* says 3"):
        vt.load(place, num_heads=6)


def test_a_grid_that_config_json_says_cannot_be_contradicted(tmp_path):
    """A transposed grid has as many patches."""
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=40,
        image_size=[48, 80],
        patch_size=16,
    )
    transformers.ViTModel(config).save_pretrained(tmp_path)
    assert vt.load(tmp_path, grid=(3, 5)).model.config.image_hw == (48, 80)
    with pytest.raises(ConfigError, match=r"`grid` 5 x 3 is not that .* says 3 x 5"):
        vt.load(tmp_path, grid=(5, 3))
