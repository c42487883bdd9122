"""inspection/ of a run folder, and what the report makes of it."""

import csv
import json
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitral as vt
from photos import CLASSES, photo, tiny_config
from reports import SCRIPT, Reader, check_numbers, picture, report, write_run
from vitral.document.inspection_store import read, store
from vitral.errors import ConfigError
from vitral.inspection import attention_distance, grad_cam, rollout
from vitral.report import write_html
from vitral.report.load_run import load_run_folder
from vitral.tasks.classification import SupervisedConfig
from vitral.tasks.classification.report import select_answers
from vitral.workflows.inspect import report_maps
from vitral.workflows.inspect.build_report import write_comparison, write_report

BIT = {"model": "bit_r50x1", "model_changes": {"stem_width": 8, "num_groups": 4}}


def document(run: Path) -> dict:
    return json.loads((run / "inspection/report.json").read_text())


def stored_maps(run: Path) -> np.ndarray:
    with np.load(run / "inspection/report.npz", allow_pickle=False) as file:
        assert list(file) == ["maps"]
        return file["maps"]


def rows(run: Path) -> list[dict]:
    with (run / "predictions/test.csv").open(newline="") as table:
        return list(csv.DictReader(table))


def read_page(run: Path) -> Reader:
    return Reader((run / "report.html").read_text("utf-8"))


def enters(run: vt.Run, photos: Path, ids: list[str]) -> torch.Tensor:
    return torch.stack([run.preprocess(photos / name) for name in ids])


# What is in the folder


def test_maps_are_of_the_worst_errors_and_of_right_answers(run):
    table = sorted(rows(run), key=lambda row: (-float(row["confidence"]), row["path"]))
    wrong = [row["path"] for row in table if row["correct"] == "0"]
    right = [
        row["path"]
        for name in CLASSES
        for row in [r for r in table if r["correct"] == "1" and r["label"] == name][:2]
    ]
    assert wrong
    assert len(right) > 3
    found = document(run)
    assert found["ids"] == wrong[:24] + right
    assert found["split"] == "test"
    assert found["method"] == "rollout"
    assert found["image_size"] == [32, 48]
    assert found["unreadable"] == found["notes"] == []


def test_maps_are_those_of_rollout(run, photos):
    opened, maps = vt.open(run), stored_maps(run)
    assert maps.dtype == np.float16
    assert maps.shape == (len(document(run)["ids"]), 2, 3)
    expected = rollout(opened.model, enters(opened, photos, document(run)["ids"]))
    np.testing.assert_allclose(maps, expected.numpy(), atol=1e-3)


def test_distances_are_those_of_the_split(run, photos):
    opened, distance = vt.open(run), document(run)["distance"]
    ids = [row["path"] for row in rows(run)]
    assert distance["images"] == len(ids) == 24
    expected = attention_distance(opened.model, enters(opened, photos, ids))
    np.testing.assert_allclose(distance["layers"], expected, atol=1e-3)
    means = [sum(layer) / 2 for layer in distance["layers"]]
    assert distance["layer_means"] == pytest.approx(means, abs=1e-4)


def test_the_uniform_distance_counts_the_class_token(run):
    cells = [(16 * y, 16 * x) for y in range(2) for x in range(3)]
    total = sum(math.dist(a, b) for a in cells for b in cells)
    assert document(run)["distance"]["uniform"] == pytest.approx(
        total / 6 / 7, abs=1e-4
    )


def test_a_head_is_near_below_half_of_uniform(run_copy, monkeypatch):
    heads = torch.tensor([[1.0, 7.9], [8.2, 30.0]])
    monkeypatch.setattr(report_maps, "attention_distance", lambda *a, **more: heads)
    shutil.rmtree(run_copy / "inspection")
    write_report(run_copy)
    distance = document(run_copy)["distance"]
    assert distance["layers"] == pytest.approx(np.array(heads.tolist()))
    assert (distance["heads"], distance["heads_near"]) == (4, 2)
    assert distance["share_near"] == 0.5
    words = read_page(run_copy).words
    assert "2 of the 4 heads (50.0 %) look less than half as far as that, at" in words


def test_at_most_so_many_images_evenly_over_the_split(run_copy, monkeypatch, photos):
    monkeypatch.setattr(report_maps, "MAX_DISTANCE_IMAGES", 6)
    shutil.rmtree(run_copy / "inspection")
    write_report(run_copy)
    opened, distance = vt.open(run_copy), document(run_copy)["distance"]
    ids = [row["path"] for row in rows(run_copy)][::4]
    assert distance["images"] == len(ids) == 6
    expected = attention_distance(opened.model, enters(opened, photos, ids))
    np.testing.assert_allclose(distance["layers"], expected, atol=1e-3)


def test_the_same_run_gives_the_same_bytes(run, run_copy):
    names = ["inspection/report.json", "inspection/report.npz"]
    shutil.rmtree(run_copy / "inspection")
    write_report(run_copy)
    for name in names:
        assert (run_copy / name).read_bytes() == (run / name).read_bytes()
    first = (run_copy / "report.html").read_bytes()
    write_report(run_copy)
    assert (run_copy / "report.html").read_bytes() == first


def test_right_answers_are_spread_over_the_classes(tmp_path):
    for classes, expected in [(3, {2: 3}), (15, {1: 6, 2: 9}), (60, {1: 24})]:
        run = write_run(
            tmp_path / str(classes), num_classes=classes, num_test=900, skill=30.0
        )
        found = select_answers(load_run_folder(run))
        assert all(row.correct for row in found)
        number = Counter(row.label for row in found)
        assert Counter(number.values()) == expected
        assert list(number) == [
            row.name
            for row in load_run_folder(run).results["test"].per_class
            if row.name in number
        ]
        if classes == 60:
            places = [row.label[-3:] for row in found[8:]]
            assert places[-1] > "055"


# What the report says


def test_every_number_is_in_the_files(run):
    page = read_page(run)
    check_numbers(run, page)
    sources = [number["data-source"] for number in page.numbers]
    looked = [s for s in sources if s.startswith("inspection/report.json#/distance/")]
    assert {source.split("/")[3] for source in looked} == {
        "images",
        "uniform",
        "layer_means",
        "heads",
        "heads_near",
        "share_near",
    }


def test_each_answer_has_its_map_beside_it(run):
    page, found, maps = read_page(run), document(run), stored_maps(run)
    assert max(page.ids.values()) == 1
    assert all(link[0] == "#" and link[1:] in page.ids for link in page.links)
    assert {"#run-1-right", "#run-1-attention"} <= set(page.links)
    alts = [image["alt"] for image in page.images]
    for name, heat in zip(found["ids"], maps, strict=True):
        (place,) = [i for i, alt in enumerate(alts) if alt.startswith(f"{name}: a ")]
        row, column = divmod(int(heat.argmax()), 3)
        assert f"row {row + 1}, column {column + 1} of 2 × 3 patches" in alts[place + 1]
    assert "attention rollout: how much each patch reaches what the head reads" in (
        page.words
    )
    assert "`vitral inspect --what faithfulness` measures" in page.words
    assert any(alt.startswith("Attention distance of 2 heads in 3") for alt in alts)
    assert all((image["src"] or "").startswith("data:image/") for image in page.images)


def test_a_network_without_attention_gets_grad_cam(photos, tmp_path):
    changes = {**BIT, "epochs": 0.5, "loop": {"ema": 0.0, "ema_warmup": False}}
    run = vt.train(tiny_config(photos, **changes), tmp_path / "bit")
    found = document(run.path)
    assert found["method"] == "grad_cam"
    assert found["distance"] is None
    answers = {row["path"]: row["predicted"] for row in rows(run.path)}
    classes = torch.tensor([run.classes.index(answers[name]) for name in found["ids"]])
    expected = grad_cam(run.model, enters(run, photos, found["ids"]), classes)
    np.testing.assert_allclose(stored_maps(run.path), expected.numpy(), atol=2e-3)
    words = read_page(run.path).words
    assert "coloured by Grad-CAM" in words
    assert "A ResNet has no attention: the maps are Grad-CAM" in words
    assert "A coarse map of one layer is no full reason" in words
    assert "Attention distance" not in words
    assert "heads of the first layer" not in words


def test_several_labels_an_image(tmp_path):
    lines = ["path,label,split"]
    for split in ("train", "val"):
        for index in range(12):
            label = index % 3
            name = f"{split}-{index}.png"
            photo(label, 100 + index).save(tmp_path / name)
            labels = CLASSES[label] + (f";{CLASSES[(label + 1) % 3]}" * (index % 2))
            lines.append(f"{name},{labels},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    sigmoid = SupervisedConfig(loss="sigmoid")
    config = tiny_config(tmp_path / "labels.csv", epochs=1.0, objective=sigmoid)
    run = vt.train(config, tmp_path / "run").path
    assert document(run)["ids"] == []
    assert stored_maps(run).shape == (0, 0, 0)
    assert document(run)["distance"]["images"] == 12
    page = read_page(run)
    check_numbers(run, page)
    assert page.words.count("A run with several labels an image keeps no row") == 2
    assert "Over 12 val images the heads of the first layer look" in page.words


def test_without_an_error(tmp_path):
    run = write_run(tmp_path / "run", num_classes=3, num_test=90, skill=40.0, lost=0)
    page = report(run, tmp_path, images=picture)
    assert "No decoded image was answered wrongly." in page.words
    assert "The right answers that the model was most confident of" in page.words
    assert page.words.count("no map") == 0
    assert sum(image["alt"].startswith("test/") for image in page.images) == 6


def test_without_a_right_answer(tmp_path):
    run = write_run(tmp_path / "run", num_classes=4, num_test=40, skill=-40.0)
    assert "No image was answered rightly." in report(run, tmp_path).words


def test_an_older_run_says_what_is_missing(tmp_path):
    run = write_run(tmp_path / "run", num_classes=3, num_test=40)
    words = report(run, tmp_path, images=picture).words
    assert "inspection/report.json is missing from the run folder, so it is not" in (
        words
    )
    assert "The second picture is" not in words
    (run / "predictions/test.json").unlink()
    (run / "predictions/val.json").unlink()
    words = report(run, tmp_path).words
    assert "Nothing was measured, so nothing was looked at either." in words
    assert "Nothing was measured, so no right answer is known." in words


def test_names_stay_text_and_a_thousand_classes_small(tmp_path):
    def noise(run: Path, example: str) -> Image.Image:
        pixels = np.random.default_rng(len(example)).integers(0, 256, (300, 400, 3))
        return Image.fromarray(pixels.astype(np.uint8))

    names = [SCRIPT, *(f"class {i:03d}" for i in range(999))]
    run = write_run(
        tmp_path / "run", num_classes=1000, names=names, num_test=1500, skill=3.0
    )
    ids = [row.path for row in select_answers(load_run_folder(run))]
    generator = np.random.default_rng(0)
    heads = generator.uniform(10, 90, (24, 16)).round(4)
    distance = {
        "images": 128,
        "uniform": 116.5,
        "layers": heads.tolist(),
        "layer_means": heads.mean(axis=1).round(4).tolist(),
        "heads": 384,
        "heads_near": 100,
        "share_near": 0.260417,
    }
    about = {"split": "test", "method": "rollout", "image_size": [224, 224], "ids": ids}
    store(run, {**about, "distance": distance}, generator.random((len(ids), 14, 14)))
    samples = [(noise(run, "x"), "noise")] * 40
    out = write_html(
        [run], tmp_path / "out.html", noise, lambda run: samples, views=noise
    )
    assert 800_000 < out.stat().st_size < 3_000_000
    page = Reader(out.read_text("utf-8"))
    check_numbers(run, page)
    assert sum("What the model looks at" in i["alt"] for i in page.images) > 20
    assert "The classes with the lowest recall" in page.words
    assert page.tags["details"] >= 3
    assert page.tags["script"] == 0
    assert SCRIPT not in out.read_text("utf-8")


# What goes wrong


def test_data_that_moved(run, photos, run_copy, tmp_path):
    config = json.loads((run_copy / "config.json").read_text())
    (run_copy / "config.json").write_text(json.dumps({**config, "data": "nowhere"}))
    write_report(run_copy)
    words = read_page(run_copy).words
    assert "heads of the first layer look" in words
    assert "The pictures cannot be read from here: run `vitral report` in" in words
    wrong = sum(row["correct"] == "0" for row in rows(run))
    assert words.count("no picture") == wrong
    shutil.rmtree(run_copy / "inspection")
    write_report(run_copy)
    assert "inspection/report.json is missing" in read_page(run_copy).words
    assert not (run_copy / "inspection").exists()


def test_what_cannot_be_computed_spoils_no_run(photos, tmp_path, monkeypatch):
    def broken(model, images):
        raise ConfigError("the maps broke:\nnowhere.")

    with monkeypatch.context() as broken_now:
        broken_now.setattr(report_maps, "rollout", broken)
        run = vt.train(tiny_config(photos, epochs=1.0), tmp_path / "run").path
        assert document(run) == {
            "split": "test",
            "missing": "the maps broke: nowhere.",
        }
        assert "It could not be computed: the maps broke: nowhere." in (
            read_page(run).words
        )
    write_report(run)
    assert document(run)["method"] == "rollout"
    assert "It could not be computed" not in read_page(run).words


def test_other_answers_are_looked_at_again(run_copy, photos):
    before = document(run_copy)["ids"]
    table = rows(run_copy)
    left = next(row for row in table if row["path"] not in before)
    left["confidence"], left["correct"] = "0.99", "0"
    with (run_copy / "predictions/test.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(left))
        writer.writeheader()
        writer.writerows(table)
    assert not report_maps.is_current(run_copy)
    write_report(run_copy)
    assert report_maps.is_current(run_copy)
    assert document(run_copy)["ids"][0] == left["path"]


def test_a_file_that_is_gone_has_no_map(run_copy, photos, tmp_path):
    moved = shutil.copytree(photos, tmp_path / "photos")
    config = json.loads((run_copy / "config.json").read_text())
    (run_copy / "config.json").write_text(json.dumps({**config, "data": str(moved)}))
    lost = document(run_copy)["ids"][0]
    (moved / lost).write_bytes(b"no picture")
    shutil.rmtree(run_copy / "inspection")
    write_report(run_copy)
    assert document(run_copy)["unreadable"] == [lost]
    assert lost not in document(run_copy)["ids"]
    assert report_maps.is_current(run_copy)
    assert read_page(run_copy).words.count("no map") == 1


def test_a_folder_beside_it_that_cannot_be_written(
    run, run_copy, tmp_path, monkeypatch
):
    def refuse(*args):
        raise PermissionError("read-only")

    other = Path(shutil.copytree(run, tmp_path / "other"))
    shutil.rmtree(other / "inspection")
    monkeypatch.setattr(report_maps, "store", refuse)
    out = write_comparison([run_copy, other])
    assert not (other / "inspection").exists()
    page = Reader(out.read_text("utf-8"))
    assert page.words.count("inspection/report.json is missing") == 1
    assert "2 runs side by side" in page.words
    assert {"#run-1-attention", "#run-2-attention"} <= set(page.links)


def test_runs_beside_it_are_looked_into_too(run, run_copy, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    shutil.rmtree(other / "inspection")
    write_comparison([run_copy, other])
    assert document(other) == document(run)


def test_a_damaged_folder_is_named(run_copy):
    file, found = run_copy / "inspection/report.json", document(run_copy)
    maps = run_copy / "inspection/report.npz"
    content = maps.read_bytes()
    for damage in (content[:40], b"", b"[]"):
        maps.write_bytes(damage)
        with pytest.raises(ConfigError, match=r"inspection is damaged \(.*\). Remove"):
            load_run_folder(run_copy)
    maps.write_bytes(content)
    changed = {**found, "ids": found["ids"][1:]}
    with pytest.raises(ConfigError, match="ids, but maps of the shape"):
        read(run_copy, changed)
    bad = {**found["distance"], "layers": [[1.0, -2.0]]}
    with pytest.raises(ConfigError, match="no table of distances"):
        read(run_copy, {**found, "distance": bad})
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"report\.json is not readable JSON"):
        load_run_folder(run_copy)
