"""A real ViT-S/14 on real photographs: through three layouts, and beside timm."""

import pytest
import skimage.data
import timm
import torch
from safetensors.torch import load_file

import vitral as vt
from vitral.weights import convert

PHOTOS = ("astronaut", "chelsea", "coffee")


def test_through_hugging_face_and_back_is_bit_equal(dinov2, tmp_path):
    """timm's file, vitral's folder, Hugging Face's folder, and the way back."""
    first = convert(dinov2, tmp_path / "vitral", "native").path
    theirs = convert(first, tmp_path / "hugging_face", "huggingface").path
    again = convert(theirs, tmp_path / "again", "native").path
    last = convert(again, tmp_path / "last.safetensors", "timm").path
    before, after = load_file(dinov2), load_file(last)
    assert before.keys() == after.keys()
    assert sum(tensor.numel() for tensor in after.values()) == 22_056_192
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    names = load_file(theirs / "model.safetensors")
    assert "encoder.layer.11.layer_scale1.lambda1" in names
    assert vt.load(again).model.config.num_heads == 6
    assert vt.load(again).preprocess.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("size", [(518, 518), (224, 336)])
def test_photographs_give_timms_features(dinov2, size):
    model, preprocess, _ = vt.load(dinov2)
    theirs = timm.create_model(
        "vit_small_patch14_dinov2",
        num_classes=0,
        dynamic_img_size=True,
        checkpoint_path=str(dinov2),
    ).eval()
    from dataclasses import replace

    fitted = replace(preprocess, image_size=size)
    # One photograph at the large size: its attention is 1,370 tokens square.
    photos = PHOTOS[: 1 if size[0] == 518 else 3]
    pixels = torch.stack([fitted(getattr(skimage.data, name)()) for name in photos])
    with torch.no_grad():
        found = model.forward_features(pixels)
        wanted = theirs.forward_features(pixels)
    ours = torch.cat([found.cls[:, None], found.patches.flatten(1, 2)], dim=1)
    assert ours.shape == (len(photos), 1 + size[0] * size[1] // 196, 384)
    gap = (ours - wanted).abs().max() / wanted.abs().max()
    assert gap <= 1e-5
    # The photographs are told apart: the features are not one constant vector.
    assert float(found.patches.std(dim=(1, 2)).mean()) > 0.5
