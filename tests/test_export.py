"""Exported models beside torch: every position at five sizes, gates, files, errors."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitral as vt
from helpers import TINY, images, randomise, tiny_tnt, tiny_vit
from vitral.cli import main
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.export import export
from vitral.export.pixels import PixelsToImage
from vitral.export.to_onnx import to_onnx
from vitral.export.to_openvino import to_openvino
from vitral.models import DeiT, DeiTConfig, TimeSformer, TimeSformerConfig
from vitral.models.hybrid import Hybrid, HybridConfig
from vitral.models.resnet import ResNet, ResNetConfig
from vitral.models.vitc import ViTC, ViTCConfig
from vitral.weights import Metadata, is_exported, read_exported
from vitral.weights.exported.openvino import OpenVinoGraph
from vitral.weights.exported.runtimes import openvino_core

SMALL = {"stem_width": 8, "num_groups": 4, "units": (1, 2), "num_classes": 7}
SIZES = [(48, 80), (64, 32), (16, 16), (160, 96), (32, 112)]
"""Of patches of 16: its own, both ways from it, a single patch."""
CLASSES = ("ash", "beech", "elm", "fir", "oak", "pine", "yew")


def resnet():
    return ResNet(ResNetConfig(**SMALL))


def hybrid():
    return Hybrid(HybridConfig(**{**TINY, **SMALL, "image_size": (48, 80)}))


def clips():
    return TimeSformer(TimeSformerConfig(**{**TINY, "num_frames": 4}))


MODELS = {
    "official": lambda: tiny_vit(init_values=0.5),
    "bicubic, registers": lambda: tiny_vit(position_resize="bicubic", reg_tokens=2),
    "antialias, map": lambda: tiny_vit(
        position_resize="bicubic_antialias", class_token=False, global_pool="map"
    ),
    "nearest, every layer": lambda: tiny_vit(
        position_resize="nearest", position_at="every_layer"
    ),
    "nearest_flat": lambda: tiny_vit(position_resize="nearest_flat", depth=1),
    "learned_2d": lambda: tiny_vit(position="learned_2d", global_pool="avg"),
    "relative": lambda: tiny_vit(position="relative"),
    "sincos": lambda: tiny_vit(position="sincos_2d", patch_norm=True),
    "none": lambda: tiny_vit(position="none", depth=1),
    "deit": lambda: DeiT(DeiTConfig(**TINY)),
    "tnt": lambda: tiny_tnt(in_chans=3, depth=1),
    "bit": resnet,
    "hybrid": hybrid,
    "vitc": lambda: ViTC(ViTCConfig(**{**TINY, "patch_size": 8})),
    "clips": clips,
}


def filled(model):
    """Every parameter random, in float32."""
    model = model.float()
    randomise(model)
    return model.eval()


def pixels_for(model, size):
    found = images(3, *size).float()
    frames = model.config.num_frames
    return torch.stack([found * (1 + n) for n in range(frames)], 1) if frames else found


@pytest.mark.parametrize("name", list(MODELS))
def test_both_runtimes_equal_torch_at_five_sizes(name, tmp_path):
    model = filled(MODELS[name]())
    proto = to_onnx(model)
    file = tmp_path / "x.onnx"
    proto.metadata_props.add(key="vitral", value=about(model).to_json())
    file.write_bytes(proto.SerializeToString())
    exported = read_exported(file).model
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core().compile_model(to_openvino(proto), "CPU", exact)
    sizes = SIZES
    if isinstance(model, ResNet):
        sizes = [(48, 80), (63, 37), (224, 160), (97, 96), (33, 112)]
    elif isinstance(model, TimeSformer):
        sizes = SIZES[:2]
    for size in sizes:
        x = pixels_for(model, size)
        with torch.no_grad():
            wanted = model(x)
        scale = max(1.0, float(wanted.abs().max()))
        assert wanted.std() > 0.01
        assert (exported(x) - wanted).abs().max() < 1e-5 * scale, size
        found = torch.from_numpy(compiled(x.numpy())[0])
        assert (found - wanted).abs().max() < 1e-5 * scale, size


def about(model, **more):
    return Metadata(config=model.config, preprocess=Preprocess(), **more)


def test_metadata_come_back(tmp_path):
    model = tiny_vit(reg_tokens=1)
    kept = about(
        model,
        classes=CLASSES,
        extra={"temperature": 1.75, "eval_views": "flip"},
        with_preprocess=True,
        precision="bf16",
        merge=3,
        image_size=(48, 80),
        gate={"difference": 1e-6},
    )
    assert Metadata.from_json(kept.to_json(), tmp_path) == kept
    broken = json.loads(kept.to_json()) | {"family": "unheard"}
    with pytest.raises(WeightsError, match="metadata that this vitral cannot read"):
        Metadata.from_json(json.dumps(broken), tmp_path)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, 0.01),
        ({"interpolation": "bicubic"}, 0.01),
        ({"interpolation": "nearest"}, 0.01),
        ({"interpolation": "bicubic", "resize": "crop", "crop_fraction": 0.8}, 0.01),
        ({"antialias": True}, 1.01),
        ({"antialias": True, "interpolation": "bicubic", "resize": "crop"}, 1.01),
    ],
)
@pytest.mark.parametrize("size", [(61, 47), (47, 90), (29, 21), (80, 48)])
def test_the_graph_sees_the_pixels_that_preprocess_sees(settings, steps, size):
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    statistics = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
    preprocess = Preprocess(image_size=(48, 80), **statistics, **settings)
    found = PixelsToImage(preprocess)(torch.from_numpy(np.array(image))[None])[0]
    step = torch.tensor(preprocess.std)[:, None, None] * 255
    assert ((found - preprocess(image)) * step).abs().max() < steps


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures of seven classes, no two of one size."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for place, name in enumerate(CLASSES):
        (root / name).mkdir()
        for number in range(2):
            coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            size = (90 + 7 * place, 60 + 5 * number + 3 * place)
            image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
            image.save(root / name / f"{number}.jpg")
    return root


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A model folder without its run."""
    folder = tmp_path_factory.mktemp("model")
    model = filled(tiny_vit(depth=1))
    preprocess = Preprocess(image_size=(48, 80))
    extra = {"temperature": 1.5}
    vt.save(folder, model, preprocess, classes=CLASSES, extra=extra)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory, model_folder, photos):
    """The same model for both runtimes, with its pre-processing inside."""
    folder = tmp_path_factory.mktemp("exported")
    options = vt.export.ExportOptions(data=str(photos), with_preprocess=True)
    vt.export.onnx(model_folder, folder / "m.onnx", options)
    vt.export.openvino(model_folder, folder / "m_openvino", options)
    return folder


def answers_of(place, photo: Path) -> dict[str, np.ndarray]:
    """Logits of a JPEG through what vitral offers; whoever adds a way adds it here."""
    run = vt.open(place)
    with torch.no_grad():
        found = {"python": run.model(run.preprocess(photo)[None]).numpy()}
    if is_exported(place):
        whole = torch.from_numpy(np.array(vt.data.decode(photo).image))[None]
        found["pixels"] = run.model.from_pixels(whole).numpy()
    return found


def test_one_jpeg_has_one_answer_everywhere(exported, model_folder, photos, capsys):
    photo = photos / "elm" / "1.jpg"
    wanted = answers_of(model_folder, photo)["python"]
    assert wanted.std() > 0.01
    for place in ("m.onnx", "m_openvino"):
        for way, found in answers_of(exported / place, photo).items():
            assert np.abs(found - wanted).max() < 1e-4, (place, way)
    rows = []
    for place in (model_folder, exported / "m.onnx", exported / "m_openvino"):
        words = ["predict", str(place), str(photo), "--top", "7"]
        assert main(words) == 0
        rows.append(json.loads(capsys.readouterr().out)["probabilities"])
    # The logarithms of the probabilities are the logits, but for a constant.
    logits = np.array([[np.log(row[name]) for name in CLASSES] for row in rows])
    direct = wanted[0] / 1.5
    direct = direct - np.log(np.exp(direct).sum())
    assert np.abs(logits - direct).max() < 1e-4


def test_an_artefact_is_a_run(exported, photos, tmp_path, capsys):
    run = vt.open(exported / "m.onnx")
    assert run.classes == CLASSES
    assert (run.metadata["temperature"], run.labels.multi_label) == (1.5, False)
    assert run.preprocess.image_size == (48, 80)
    words = ["eval", str(exported / "m_openvino"), str(photos), "--out", str(tmp_path)]
    assert main(words) == 0
    assert (tmp_path / "photos0-train.json").is_file() or list(tmp_path.glob("*.json"))
    with pytest.raises(ConfigError, match="gives logits only"):
        run.model.forward_features(images(2, 48, 80).float())
    with pytest.raises(ConfigError, match="of 48 x 80 pixels alone: got 64 x 80"):
        run.model(images(2, 64, 80).float())
    loaded = vt.load(exported / "m_openvino")
    assert loaded.model.backend == "openvino"
    with pytest.raises(WeightsError, match="whose head, size and heads are fixed"):
        vt.load(exported / "m.onnx", num_classes=3)
    with pytest.raises(WeightsError, match="an exported model already"):
        vt.export.onnx(exported / "m.onnx", tmp_path / "again.onnx")
    capsys.readouterr()


def test_the_gate_is_kept_in_the_file(exported):
    found = read_exported(exported / "m.onnx").metadata
    assert found.gate["images"] == 14
    assert 0 < found.gate["difference"] < 1e-5
    assert found.gate["agreement"] == 1.0
    assert found.gate["accuracy"] == found.gate["accuracy_before"]
    assert found.gate["pixels_difference"] < 1e-4


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_wrong_weight_is_caught(
    target, model_folder, photos, tmp_path, monkeypatch, capsys
):
    honest = export.to_onnx

    def corrupted(model, **settings):
        proto = honest(model, **settings)
        largest = max(proto.graph.initializer, key=lambda kept: len(kept.raw_data))
        numbers = np.frombuffer(largest.raw_data, dtype=np.float32).copy()
        numbers[::7] += 0.05
        largest.raw_data = numbers.tobytes()
        return proto

    monkeypatch.setattr(export, "to_onnx", corrupted)
    out = tmp_path / "x.onnx"
    words = ["export", str(model_folder), str(out), "--to", target, "--static"]
    assert main([*words, "--data", str(photos)]) == 6
    assert "was not written: its logits differ by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported(model_folder, photos, tmp_path, capsys):
    def ends(code, sentence, *words):
        assert main(["export", *map(str, words)]) == code
        assert sentence in capsys.readouterr().err

    taken = tmp_path / "taken"
    taken.mkdir()
    out, data = tmp_path / "new.onnx", ("--data", photos)
    ends(2, "is already there", model_folder, taken, "--to", "openvino", *data)
    ends(2, "Did you mean onnx?", model_folder, out, "--to", "onx", *data)
    ends(2, "must end in `.onnx`", model_folder, tmp_path / "new", *data)
    ends(2, "give some with `--data DATA`", model_folder, out)
    ends(2, "are for OpenVINO", model_folder, out, "--int8", *data)
    ends(4, "No weights at", taken, out, *data)
    ends(4, "No weights at", tmp_path / "missing", out, *data)
    headless = tmp_path / "headless"
    vt.save(headless, filled(tiny_vit(num_classes=0)), Preprocess(image_size=(48, 80)))
    ends(2, "has no head", headless, out, *data)
    assert not out.exists()
    model = filled(tiny_vit())
    with pytest.raises(ConfigError, match="give `preprocess`"):
        vt.export.onnx(model, out, vt.export.ExportOptions(data=str(photos)))


def test_what_is_no_artefact(tmp_path, exported, capsys):
    import onnx

    files = {
        "empty.onnx": b"",
        "text.onnx": b"not a model",
        "cut.onnx": (exported / "m.onnx").read_bytes()[:4000],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert main(["predict", str(tmp_path / name), "x.jpg"]) == 4
        assert "is no ONNX model" in capsys.readouterr().err
    foreign = onnx.load(exported / "m.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(WeightsError, match="was not exported by vitral"):
        vt.load(tmp_path / "foreign.onnx")
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / "model.xml").write_bytes(
        (exported / "m_openvino" / "model.xml").read_bytes()
    )
    with pytest.raises(WeightsError, match=r"has no model\.bin beside it"):
        vt.open(folder)
    (folder / "model.bin").write_bytes(b"\0" * 10)
    with pytest.raises(WeightsError, match="no OpenVINO model that can be loaded"):
        vt.open(folder)
    (folder / "model.xml").write_text("<html>")
    with pytest.raises(WeightsError, match="no OpenVINO model that can be loaded"):
        OpenVinoGraph(folder / "model.xml")


@pytest.mark.parametrize(
    ("place", "weights"), [("m.onnx", ""), ("m_openvino", "model.bin")]
)
def test_a_model_in_use_does_not_feel_its_file(place, weights, exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy") / place
    model = vt.open(copy).model
    x = images(2, 48, 80).float()
    before = model(x).clone()
    with (copy / weights).open("r+b") as file:
        file.write(b"\xab" * (copy / weights).stat().st_size)
    assert torch.equal(model(x), before)
    with (copy / weights).open("r+b") as file:
        file.truncate(0)
    assert torch.equal(model(x), before)


def test_a_crash_leaves_nothing(model_folder, photos, tmp_path, monkeypatch):
    def stopped(*parts, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "gate", stopped)
    options = vt.export.ExportOptions(data=str(photos), static=True)
    with pytest.raises(KeyboardInterrupt):
        vt.export.openvino(model_folder, tmp_path / "out", options)
    assert list(tmp_path.iterdir()) == []
