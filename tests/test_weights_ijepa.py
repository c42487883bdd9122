"""I-JEPA in transformers' names, both ways: a ViT without a class token."""

import pytest
import timm
import torch
import transformers

import vitral as vt
from test_weights_clip import gap, images, randomise
from vitral.data import Preprocess
from vitral.errors import ConfigError
from vitral.models import ViT, ViTConfig

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 64,
    "patch_size": 16,
}


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("said", [True, False], ids=["config.json", "tensors alone"])
def test_it_is_transformers_function(classes, said, tmp_path):
    config = transformers.IJepaConfig(**SIZES, num_labels=classes)
    made = transformers.IJepaForImageClassification if classes else None
    theirs = randomise((made or transformers.IJepaModel)(config))
    theirs.save_pretrained(tmp_path)
    if not said:
        (tmp_path / "config.json").unlink()
    model, preprocess, _ = vt.load(tmp_path, num_heads=3, dtype=torch.float64)
    assert not model.config.class_token
    assert model.config.global_pool == "avg"
    assert preprocess.mean == (0.485, 0.456, 0.406)
    for size, whole in (((64, 64), False), ((48, 96), True)):
        with torch.no_grad():
            wanted = theirs(images(*size), interpolate_pos_encoding=whole)
            found = model.forward_features(images(*size))
            if classes:
                assert gap(model(images(*size)), wanted.logits) < 1e-10
            else:
                last = wanted.last_hidden_state
                assert gap(found.patches.flatten(1, 2), last) < 1e-10


@pytest.mark.parametrize("classes", [0, 3])
def test_it_is_written_for_transformers(classes, tmp_path):
    theirs = randomise(
        timm.create_model(
            "vit_huge_patch14_gap_224",
            img_size=28,
            embed_dim=48,
            depth=2,
            num_heads=3,
            num_classes=classes,
            fc_norm=False,
        )
    ).float()
    config = ViTConfig(
        image_size=28,
        patch_size=14,
        embed_dim=48,
        depth=2,
        num_heads=3,
        mlp_dim=192,
        class_token=False,
        global_pool="avg",
        num_classes=classes,
        act="gelu",
    )
    ours = ViT(config)
    ours.load_state_dict(theirs.state_dict())
    vt.save(tmp_path / "native", ours, Preprocess(image_size=(28, 28)))
    out = vt.convert(tmp_path / "native", tmp_path / "out", "huggingface").path
    name = "IJepaForImageClassification" if classes else "IJepaModel"
    again = getattr(transformers, name).from_pretrained(out).double().eval()
    with torch.no_grad():
        wanted = theirs.double()(images(28, 28))
        found = again(images(28, 28))
        found = found.logits if classes else found.last_hidden_state.mean(1)
        assert gap(found, wanted) < 1e-10


@pytest.mark.parametrize("changes", [{"init_values": 1.0}, {"global_pool": "map"}])
def test_a_model_that_is_not_ijepa_is_not_written_as_one(changes, tmp_path):
    sizes = {"image_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 3}
    pool = {"class_token": False, "global_pool": "avg", "num_classes": 0}
    config = ViTConfig(**{**sizes, **pool, **changes})
    vt.save(tmp_path / "native", ViT(config), Preprocess(image_size=(32, 32)))
    with pytest.raises(ConfigError, match="I-JEPA's"):
        vt.convert(tmp_path / "native", tmp_path / "out", "huggingface")
