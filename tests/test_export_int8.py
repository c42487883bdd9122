"""int8: the graph, the sensitivity list, the search within the bound, the sample."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vitral as vt
from helpers import TINY, captured_log
from photos import photo
from vitral.data import ClassTarget
from vitral.data.example import Example
from vitral.errors import ConfigError, DataError, GateError, MissingExtraError
from vitral.export.int8 import bounded
from vitral.export.int8 import calibration_data as sample_module
from vitral.export.int8.bounded import (
    Int8Model,
    find_shortest_prefix,
    quantize_within,
)
from vitral.export.int8.calibration_data import (
    LabeledBatches,
    QuantizationData,
    draw_quantization_data,
    interleave_classes,
)
from vitral.export.int8.decisions import Decisions
from vitral.export.int8.layers import find_int8_layers, fold_constants, restore_float
from vitral.export.int8.quantize import quantize
from vitral.export.int8.sensitivity import LayerGroup, relative_change
from vitral.export.precisions import measure_precisions
from vitral.export.run_openvino import collect_logits, compile_model
from vitral.export.to_onnx import to_onnx
from vitral.export.to_openvino import to_openvino
from vitral.models import ViT, ViTConfig
from vitral.tasks.classification import TASK
from vitral.tasks.classification.labels import ClassLabels
from vitral.weights.exported import runtimes

PLANTED = "blocks.1.mlp.fc2"
DEPTH = 3


def small_vit(planted: bool) -> ViT:
    """Random weights that tell images apart.

    Planted: two hidden units of block 1 that are 1,000 times the others and cancel in
    the second layer. In float nothing changes; one scale for their weights and those of
    the others leaves the others no digits.
    """
    generator = torch.Generator().manual_seed(5)
    model = ViT(ViTConfig(**{**TINY, "depth": DEPTH})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            width = parameter[0].numel() if parameter.ndim > 1 else 1
            noise = torch.randn(parameter.shape, generator=generator)
            offset = 1.0 if parameter.ndim == 1 else 0.0
            parameter.copy_(0.1 * noise + offset if width == 1 else noise / width**0.5)
        if planted:
            fc1, fc2 = model.blocks[1].mlp.fc1, model.blocks[1].mlp.fc2
            fc1.weight[3] *= 1000
            fc1.bias[3] *= 1000
            fc1.weight[7], fc1.bias[7] = fc1.weight[3], fc1.bias[3]
            fc2.weight[:, 7] = -fc2.weight[:, 3]
        # In the middle of what it answers, or one class would win every picture.
        model.head.bias -= model(torch.from_numpy(pictures(64, 0))).mean(0)
    return model


def graph_of(model: ViT) -> Any:
    return fold_constants(to_openvino(to_onnx(model, image_size=(48, 80))))


def pictures(number: int, seed: int) -> np.ndarray:
    """Colours with noise, [number, 3, 48, 80]."""
    generator = np.random.default_rng(seed)
    colour = generator.normal(size=(number, 3, 1, 1))
    noise = generator.normal(size=(number, 3, 48, 80))
    return (1.5 * colour + noise).astype(np.float32)


def batches_of(images: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(images[start : start + 8] for start in range(0, len(images), 8))


def target_of(label: np.ndarray) -> ClassTarget:
    return ClassTarget(torch.eye(7)[label], torch.from_numpy(label))


def decisions(names: int = 7, *, several: bool = False) -> Decisions:
    labels = ClassLabels(names=tuple(map(str, range(names))), multi_label=several)
    return Decisions(TASK, labels)


def sample_for(graph: Any) -> QuantizationData:
    """Labels are the float model's own answers: its accuracy is 1."""

    def labels(seed: int, split: str, number: int) -> LabeledBatches:
        batches = batches_of(pictures(number, seed))
        answer = collect_logits(compile_model(graph, "fp32"), batches).argmax(1)
        return LabeledBatches(
            split=split,
            ids=tuple(f"{split}/{index}" for index in range(number)),
            batches=batches,
            targets=tuple(target_of(part) for part in batches_of(answer)),
        )

    return QuantizationData(
        calibration=labels(1, "train", 32), check=labels(2, "val", 120)
    )


@pytest.fixture(scope="module")
def plain() -> Any:
    return graph_of(small_vit(planted=False))


@pytest.fixture(scope="module")
def plain_int8(plain: Any) -> Any:
    return quantize(plain, sample_for(plain).calibration.batches)


@pytest.fixture(scope="module")
def planted() -> Any:
    return graph_of(small_vit(planted=True))


@pytest.fixture(scope="module")
def planted_sample(planted: Any) -> QuantizationData:
    return sample_for(planted)


@pytest.fixture(scope="module")
def planted_int8(planted: Any, planted_sample: QuantizationData) -> Any:
    return quantize(planted, planted_sample.calibration.batches)


@pytest.fixture(scope="module")
def found(planted: Any, planted_sample: QuantizationData) -> Int8Model:
    return quantize_within(planted, planted_sample, decisions(), max_drop=5.0)


@pytest.fixture(scope="module")
def run(run: Path) -> vt.Run:
    return vt.open(run)


def logits(graph: Any, number: int = 16) -> np.ndarray:
    return collect_logits(compile_model(graph, "fp32"), batches_of(pictures(number, 3)))


def count(graph: Any, kind: str) -> int:
    return sum(op.get_type_name() == kind for op in graph.get_ops())


def int8_weights(graph: Any) -> list[np.ndarray]:
    return [
        np.array(op.data)
        for op in graph.get_ordered_ops()
        if op.get_type_name() == "Constant"
        and op.get_element_type().get_type_name() == "i8"
    ]


def test_every_layer_with_weights_is_int8_and_nothing_else(plain, plain_int8):
    layers = find_int8_layers(plain_int8)
    kinds = [layer.kind for layer in layers if layer.block == "blocks.0"]
    assert sorted(kinds) == ["attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2"]
    assert {layer.block for layer in layers} == {
        "patch_embed.proj",
        *(f"blocks.{number}" for number in range(DEPTH)),
        "head",
    }
    assert len({layer.name for layer in layers}) == len(layers)
    assert len(int8_weights(plain_int8)) == len(layers)
    assert count(plain_int8, "FakeQuantize") > 0 == count(plain, "FakeQuantize")
    apart = relative_change(logits(plain_int8), logits(plain))
    assert 1e-4 < apart < 0.1


def test_the_same_images_give_the_same_bits(plain, plain_int8):
    again = quantize(plain, sample_for(plain).calibration.batches)
    pairs = zip(int8_weights(again), int8_weights(plain_int8), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)
    np.testing.assert_array_equal(logits(again), logits(plain_int8))


def test_all_layers_restored_are_the_model_before(planted, planted_int8):
    every = [layer.op for layer in find_int8_layers(planted_int8)]
    back = restore_float(planted_int8, planted, every)
    assert find_int8_layers(back) == ()
    np.testing.assert_allclose(logits(back), logits(planted), rtol=0, atol=2e-6)
    assert len(find_int8_layers(planted_int8)) == len(every)


def test_one_layer_restored_leaves_the_others(planted, planted_int8):
    layers = find_int8_layers(planted_int8)
    chosen = next(layer for layer in layers if layer.name == PLANTED)
    back = restore_float(planted_int8, planted, [chosen.op])
    assert find_int8_layers(back) == tuple(x for x in layers if x != chosen)


def test_the_planted_layer_is_the_most_sensitive(found):
    listed = found.report.sensitivity
    assert listed.blocks[0].name == "blocks.1"
    assert listed.kinds[0].name == "mlp.fc2"
    assert listed.layers[0].name == PLANTED
    assert listed.layers[0].change > 3 * listed.layers[1].change
    taken = [op for part in listed.order() for op in part.ops]
    assert len(taken) == len(set(taken)) == found.report.layers


def test_the_search_keeps_it_in_float_until_the_bound_holds(
    found, planted, planted_sample
):
    report = found.report
    assert report.kept_float == (PLANTED,)
    assert PLANTED not in {layer.name for layer in find_int8_layers(found.model)}
    assert report.steps[0].kept_float == ()
    assert report.steps[0].drop > 5.0 >= report.drop
    check = planted_sample.check
    answers = collect_logits(compile_model(found.model, "int8"), check.batches).argmax(
        1
    )
    truth = np.concatenate([target.label for target in check.targets])
    lost = 100 * (1 - (answers == truth).mean())
    assert report.drop == pytest.approx(lost)
    assert report.accuracy_float == 1.0
    assert report.agreement == pytest.approx(1 - lost / 100)
    low, high = report.drop_interval
    assert low <= report.drop <= high


def test_the_report_is_plain_data_and_names_the_layer(found):
    value = json.loads(json.dumps(found.report.to_dict()))
    assert value["sensitive_layers"][0]["name"] == PLANTED
    assert value["kept_float"] == [PLANTED]
    text = "\n".join(found.report.lines())
    assert (
        f"12 of 13 layers, calibrated on 32 images of train; in float: {PLANTED}"
        in (text)
    )


def test_too_much_lost_is_a_gate_error(
    monkeypatch, planted, planted_sample, planted_int8, found
):
    monkeypatch.setattr(bounded, "MOST_IN_FLOAT", 0.0)
    monkeypatch.setattr(bounded, "quantize", lambda *_: planted_int8)
    monkeypatch.setattr(
        bounded, "measure_sensitivity", lambda *_: found.report.sensitivity
    )
    with pytest.raises(
        GateError, match="points of top-1 on 120 images of val"
    ) as error:
        quantize_within(planted, planted_sample, decisions(), max_drop=5.0)
    assert error.value.exit_code == 6
    assert "at most 5 are allowed and nothing was written" in str(error.value)


@pytest.mark.parametrize("needed", [0, 1, 2, 3, 5, 8, 11])
def test_the_fewest_are_found_in_few_tries(needed):
    order = [LayerGroup(f"layer {i}", 1.0 - i / 100, (f"op {i}",)) for i in range(11)]
    tries = []

    def holds(parts):
        tries.append(len(parts))
        return len(parts) >= needed

    kept = find_shortest_prefix(order, holds, max_layers=11)
    assert [part.name for part in kept] == [f"layer {i}" for i in range(needed)]
    assert len(tries) == len(set(tries)) <= 8


def test_no_more_than_allowed_stay_in_float():
    order = [LayerGroup("a", 1.0, ("1", "2")), LayerGroup("b", 0.5, ("3", "4", "5"))]
    tries = []
    kept = find_shortest_prefix(
        order, lambda parts: bool(tries.append(len(parts))), max_layers=4
    )
    assert kept is None
    assert tries == [0, 1]


def test_the_change_by_hand():
    # The answers deviate by 3 from their mean of 0; two of four are off by 1.5.
    right = np.array([[3.0, -3.0], [3.0, -3.0]])
    moved = right + np.array([[1.5, 0.0], [0.0, -1.5]])
    assert relative_change(moved, right) == pytest.approx((2 * 1.5**2 / 4) ** 0.5 / 3)


def test_several_labels_are_counted_decision_by_decision():
    images = LabeledBatches(
        split="val",
        ids=("a", "b"),
        batches=(np.zeros((2, 3, 4, 4), np.float32),),
        targets=(
            ClassTarget(
                torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), torch.tensor([0, 2])
            ),
        ),
    )
    answers = np.array([[2.0, 1.0, -1.0], [-1.0, -2.0, 3.0]], dtype=np.float32)
    right = [True, False, False, True, True, True]
    assert decisions(3, several=True).score(answers, images).tolist() == right
    assert decisions(3).score(answers, images).tolist() == [True, True]


def test_a_bound_that_is_none(plain):
    with pytest.raises(ConfigError, match="0 to 100: got -1"):
        quantize_within(plain, sample_for(plain), decisions(), max_drop=-1.0)
    with pytest.raises(ConfigError, match="images to measure activations on"):
        quantize(plain, [])


def test_the_table(plain, plain_int8):
    models = {"fp32": plain, "bf16": plain, "int8": plain_int8}
    check = sample_for(plain).check
    table = measure_precisions(
        models, check, "120 of val", decisions=decisions(), rounds=2, batch_sizes=(1, 5)
    )
    exact, half, int8 = table.rows
    assert (exact.precision, half.precision, int8.precision) == tuple(models)
    assert (exact.accuracy, exact.agreement) == (1.0, 1.0)
    assert int8.accuracy == int8.agreement < 1.0
    assert exact.megabytes > half.megabytes
    assert all(row.latency[size] > 0 for row in table.rows for size in (1, 5))
    lines = table.markdown().splitlines()
    assert "ms at batch 5" in lines[0]
    assert len(lines) == 5
    assert lines[2].startswith("| fp32 |")
    assert "| 100.00 |" in lines[2]
    with pytest.raises(ConfigError, match="fp32, which is not among the models"):
        measure_precisions(
            {"int8": plain_int8}, check, "120 of val", decisions=decisions()
        )


def test_the_sample_is_of_train_balanced_and_seeded(run):
    sample = draw_quantization_data(run, calibration=12, check=9)
    names = {"train": sample.calibration.ids, "val": sample.check.ids}
    for split, ids in names.items():
        assert all(name.startswith(f"{split}/") for name in ids)
    assert len(sample.calibration.ids) == 12
    assert len(sample.check.ids) == 9
    labels = [target.label for target in sample.calibration.targets]
    assert np.bincount(np.concatenate(labels)).tolist() == [4, 4, 4]
    again = draw_quantization_data(run, calibration=12, check=9)
    assert again.calibration.ids == sample.calibration.ids
    other = draw_quantization_data(run, calibration=12, check=9, seed=1)
    assert set(other.calibration.ids) != set(sample.calibration.ids)
    assert sample.note == "9 images of val"


def test_without_val_other_train_images_are_the_check(run, monkeypatch):
    real = sample_module.open_run_data

    def without_val(*arguments):
        dataset = real(*arguments)
        kept = tuple(one for one in dataset.examples if one.split != "val")
        return replace(dataset, examples=kept)

    monkeypatch.setattr(sample_module, "open_run_data", without_val)
    sample = draw_quantization_data(run, calibration=12)
    assert len(sample.check.ids) == 12
    assert not set(sample.check.ids) & set(sample.calibration.ids)
    assert all(name.startswith("train/") for name in sample.check.ids)
    assert "not calibrated on, since the run has no val" in sample.note
    with pytest.raises(DataError, match="all 24 train images are needed"):
        draw_quantization_data(run, calibration=24)


def test_classes_take_turns():
    labels = [0, 0, 0, 0, 1, 1]
    examples = [Example(id=str(i), label=(one,)) for i, one in enumerate(labels)]
    order = interleave_classes(examples, seed=0)
    assert [one.label[0] for one in order] == [0, 1, 0, 1, 0, 0]
    assert sorted(one.id for one in order) == list("012345")


def test_int8_from_the_export_with_pixels(run, tmp_path):
    out = tmp_path / "int8"
    with captured_log() as said:
        options = vt.export.ExportOptions(with_preprocess=True)
        report = vt.export.openvino(run, out, options, int8=True, max_drop=60.0)
    assert report.precision == "int8"
    assert any(line.startswith("int8: ") for line in report.lines())
    assert any(line.startswith("| bf16 |") for line in report.lines())
    kept = {file.name for file in out.iterdir()}
    assert kept == {
        "model.xml",
        "model.bin",
        "int8.json",
        "precisions.json",
        "precisions.md",
    }
    assert json.loads((out / "int8.json").read_text())["max_drop"] == 60.0
    assert said[0] == "int8: calibrating on 24 images of train"
    model, preprocess, _ = vt.load(out)
    pixels = np.asarray(photo(1, 3, 53, 61))
    image = preprocess(photo(1, 3, 53, 61))[None]
    from_pixels = model.from_pixels(torch.from_numpy(pixels.copy())[None])
    torch.testing.assert_close(from_pixels, model(image), atol=0.1, rtol=0.05)


def test_a_model_without_a_run_cannot_be_calibrated(run, tmp_path):
    model, preprocess, _ = vt.load(run.path / "model")
    options = vt.export.ExportOptions(preprocess=preprocess, data=str(run.config.data))
    with pytest.raises(ConfigError, match="calibrated on the train split of a run"):
        vt.export.openvino(model, tmp_path / "int8", options, int8=True)
    assert not (tmp_path / "int8").exists()


def test_without_nncf_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vitral\[export\]'") as e:
        runtimes.import_nncf()
    assert e.value.exit_code == 7
    assert "int8 needs the package nncf" in str(e.value)


SILENT = """
import os, sys
seen = []
sys.addaudithook(lambda name, _: name.startswith("socket.") and seen.append(name))
import socket
socket.socket().close()
assert seen.pop(0) == "socket.__new__" and not seen, seen
from vitral.weights.exported import runtimes
from vitral.export.int8.quantize import quantize
import numpy as np
runtimes.import_openvino()
ops = __import__("openvino.opset13", fromlist=["x"])
image = ops.parameter([2, 5], np.float32, name="image")
weight = ops.constant(np.arange(15, dtype=np.float32).reshape(5, 3))
product = ops.matmul(image, weight, False, False)
product.friendly_name = "layer/product"
model = runtimes.import_openvino().Model([product], [image])
made = quantize(model, [np.ones((2, 5), np.float32)])
assert any(op.get_type_name() == "FakeQuantize" for op in made.get_ops())
assert not seen, seen
assert sys.modules["openvino_telemetry"] is None
assert not os.listdir("."), os.listdir(".")
"""


def test_nothing_is_sent_printed_or_left_behind(tmp_path):
    # In a process of its own: under pytest NNCF is silent by itself.
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    home.mkdir()
    cwd.mkdir()
    source = Path(vt.__file__).parents[1]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", SILENT],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (home / "intel").exists()
