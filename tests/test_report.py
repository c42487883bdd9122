"""The report and the model card of a synthetic run with every file of the contract."""

import base64
import csv
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reports import (
    SCRIPT,
    Reader,
    check_numbers,
    class_names,
    look_up,
    picture,
    report,
    samples,
    write_run,
)
from vitral.document import Verdict, to_text
from vitral.errors import ConfigError, ImageError
from vitral.report import model_card, write_html
from vitral.report.compare_runs import ComparisonTable, compare
from vitral.report.data_counts import count_rows
from vitral.report.load_run import load_run_folder, task_of
from vitral.tasks.classification import classify, multilabel, write_predictions


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("ten") / "digits", skill=3.4)


@pytest.fixture(scope="module")
def page(ten: Path, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """The report of the ten classes, with pictures."""
    folder = tmp_path_factory.mktemp("page")
    return report(ten, folder, images=picture, samples=samples)


def test_the_sum_over_classes_is_not_called_images():
    data = {"counts": {"train": {"a": 3, "b": 4}}}
    ((name, row),) = count_rows(data).items()
    assert (name, row["train"].value) == ("images by class", 7)
    found = count_rows(data | {"sizes": {"train": 6}})
    assert {name: row["train"].value for name, row in found.items()} == {"images": 6}


@pytest.fixture
def copy(ten: Path, tmp_path: Path) -> Path:
    """A run that a test may damage."""
    return Path(shutil.copytree(ten, tmp_path / "copy"))


# What is in it


def test_every_number_is_in_the_files_of_the_run(ten: Path, page: Reader) -> None:
    assert len(page.numbers) > 150
    files = Counter(number["data-source"].partition("#")[0] for number in page.numbers)
    assert set(files) == {
        "predictions/test.json",
        "predictions/test.csv",
        "predictions/val.json",
        "data.json",
        "metrics.jsonl",
        "model/config.json",
    }
    check_numbers(ten, page)


def test_a_number_changed_in_the_file_changes_the_report(
    page: Reader, copy: Path, tmp_path: Path
) -> None:
    file = copy / "predictions/test.json"
    value = json.loads(file.read_text())
    value["macro_f1"] = 0.12345
    file.write_text(json.dumps(value))
    after = report(copy, tmp_path).words
    assert "12.3 %" not in page.words
    assert "12.3 %" in after


def test_the_verdict_says_share_images_interval_and_baseline(
    ten: Path, page: Reader
) -> None:
    value = json.loads((ten / "predictions/test.json").read_text())
    low, high = (100 * end for end in value["top1_interval"])
    assert (
        f"{100 * value['top1']:.1f} % of 360 test images are right (95 % interval "
        f"{low:.1f} to {high:.1f} %); always answering the most frequent class would "
        f"be right for {100 * value['majority']:.1f} %."
    ) in page.words


def test_the_page_is_well_formed_and_alone(page: Reader) -> None:
    assert max(page.ids.values()) == 1
    assert all(link[0] == "#" and link[1:] in page.ids for link in page.links)
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == 0
    assert len(page.images) == 3 + 24 + 20 + 4
    for image in page.images:
        assert image["alt"]
        assert (image["src"] or "").startswith("data:image/")
    assert '<html lang="en">' in page.html
    assert "style=" not in page.html
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in page.policy
    assert not re.search(r"(src|href)=.(https?:)?//", page.html)


def test_the_policy_names_the_hash_of_the_style(page: Reader) -> None:
    style = re.search(r"<style>(.*?)</style>", page.html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in page.policy


def test_the_same_run_gives_the_same_bytes(
    ten: Path, page: Reader, tmp_path: Path
) -> None:
    again = write_html([ten], tmp_path / "new folder" / "report.html", picture, samples)
    assert again.read_text("utf-8") == page.html


def test_it_says_what_surrounds_the_numbers(page: Reader) -> None:
    for piece in [
        "vitral train photos/digits --out digits --recipe small.finetune",
        "test/lost-0.jpg",
        "the file ends too early",
        "split by a hash of the path, seed 0",
        "1.21 M",
        "3 × 5",
        "resized from 14 × 14 to 3 × 5, bicubic, antialiased",
        "148 loaded, 1 resized, 2 new, 0 unused",
        "position table resized from 14x14 to 3x5",
        "2.14.1",
        "optim.weight_decay 0.05",
        "val was used to choose the model",
        "2 of the test images could not be decoded and count as wrong.",
    ]:
        assert piece in page.words, piece


def test_the_worst_errors_are_the_most_confident_ones(
    ten: Path, tmp_path: Path
) -> None:
    asked: list[str] = []

    def remember(run: Path, example: str) -> Image.Image:
        asked.append(example)
        return picture(run, example)

    report(ten, tmp_path, images=remember)
    with (ten / "predictions/test.csv").open(newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["predicted"]]
    wrong = [row for row in rows if row["label"] != row["predicted"]]
    wrong.sort(key=lambda row: -float(row["confidence"]))
    assert asked[:24] == [row["path"] for row in wrong[:24]]
    assert not set(asked[24:]) & {row["path"] for row in wrong}


def test_pictures_that_cannot_be_had_leave_a_place(ten: Path, tmp_path: Path) -> None:
    def broken(run: Path, example: str) -> Image.Image | None:
        if len(example) % 2:
            raise ImageError("the file ends too early")
        return None

    assert report(ten, tmp_path, images=broken).words.count("no picture") == 24


# Names that are not friendly


def test_names_are_text_everywhere(tmp_path: Path) -> None:
    names = [SCRIPT, "a\"b'c&d", "$x_1$", "a/b~c", "猫"]
    run = write_run(tmp_path / "run", num_classes=5, names=names, skill=1.5)
    out = tmp_path / "report.html"
    page = report(run, tmp_path, images=picture)
    assert page.tags["script"] == 0
    assert SCRIPT in page.words
    assert SCRIPT not in out.read_text()
    assert "<script" not in model_card(run)
    for number in page.numbers:
        look_up(run, number["data-source"])


# Runs of other sizes


def verdict(run: Path) -> Verdict:
    folder = load_run_folder(run)
    return task_of(folder).reporter().verdict(folder)


def said(run: Path) -> str:
    """The main sentence and the remarks."""
    found = verdict(run)
    texts = [found.text, *(remark.text for remark in found.remarks)]
    return " ".join(map(to_text, texts)).replace("\N{NO-BREAK SPACE}", " ")


def test_two_classes_few_images_worse_than_the_baseline(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", num_classes=2, num_test=64, skill=1.0, imbalance=4, lost=1
    )
    page = report(run, tmp_path)
    for remark in verdict(run).remarks:
        assert to_text(remark.text) in page.words
    assert "Only 65 test images were measured" in said(run)
    assert "The model is worse than always answering “zero”" in said(run)
    assert "1 of the test images could not be decoded and counts as wrong" in said(run)
    assert "top-5" not in page.words


def test_an_interval_around_the_baseline_is_said(copy: Path) -> None:
    labels = np.arange(120) % 3 // 2
    logits = np.tile([1.0, 0.0], (120, 1))
    result = classify(logits, labels, ["cat", "dog"], resamples=0)
    (copy / "predictions/test.json").write_text(json.dumps(result.to_dict()))
    assert "cannot be told apart from always answering “cat”" in said(copy)
    assert "The interval is wide" in said(copy)


def test_a_validation_split_is_called_optimistic(copy: Path) -> None:
    assert "used to choose the model" not in said(copy)
    (copy / "predictions/test.json").unlink()
    assert "of 140 validation images are right" in said(copy)
    assert "were also used to choose the model" in said(copy)
    (copy / "predictions/val.json").rename(copy / "predictions/train.json")
    assert "trained on these very images" in said(copy)


def answer(run: Path, wrong: Sequence[int], images: int = 200) -> Path:
    """Give a run test answers that are wrong at these places only."""
    labels = np.arange(images) % 10
    answers = labels.copy()
    answers[list(wrong)] = (labels[list(wrong)] + 1) % 10
    logits, names = 4.0 * np.eye(10)[answers], class_names(10)
    ids = [f"test/{i:04d}.jpg" for i in range(images)]
    result = classify(logits, labels, names, resamples=100)
    (run / "predictions/test.json").write_text(json.dumps(result.to_dict()))
    write_predictions(run / "predictions/test.csv", ids, logits, labels, names)
    return run


def compared(*runs: Path) -> ComparisonTable:
    return compare([load_run_folder(run) for run in runs])


def words(table: ComparisonTable) -> list[str]:
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in table.remarks]


def cells(table: ComparisonTable) -> list[list[str]]:
    return [
        [row.name, *(to_text(cell) for cell in row.cells)]
        for row in table.pairs[0].rows
    ]


def test_several_runs_share_one_page(ten: Path, tmp_path: Path) -> None:
    one = answer(Path(shutil.copytree(ten, tmp_path / "one")), range(40))
    two = answer(Path(shutil.copytree(ten, tmp_path / "two")), range(34, 52))
    out = write_html([one, two], tmp_path / "report.html", picture, samples)
    page = Reader(out.read_text("utf-8"))
    assert max(page.ids.values()) == 1
    assert "2 runs side by side" in page.words
    # Only one is right on 12 images, only two on 34.
    assert (
        "two is better than one on the same 200 images (McNemar's exact test, "
        "p = 0.0016)." in page.words
    )
    folders = {"1": one, "2": two}
    tops = [n for n in page.numbers if n["data-source"].endswith("test.json#/top1")]
    assert len(tops) == 6  # table, sentence and summary of each
    for number in tops:
        stored = look_up(folders[number["run"]], number["data-source"])
        assert float(number["value"]) == stored


def test_runs_are_paired_although_their_intervals_overlap(ten, tmp_path) -> None:
    one = answer(Path(shutil.copytree(ten, tmp_path / "one")), range(20))
    two = answer(Path(shutil.copytree(ten, tmp_path / "two")), range(10))
    table = compared(one, two)
    # Ten images only two has right: p = 2 / 2^10.
    assert words(table)[:1] == [
        "two is better than one on the same 200 images (McNemar's exact test, "
        "p = 0.002)."
    ]
    [row] = cells(table)
    assert row[:5] == ["one", "two", "0", "10", "+5.0 points"]
    assert row[6:] == ["p = 0.002", "two"]
    low, high = (load_run_folder(r).results["test"].top1_interval for r in (two, one))
    assert low.low < high.high  # the intervals overlap
    # Rows are matched by path, not by place.
    file = two / "predictions/test.csv"
    head, *rows = file.read_text().splitlines()
    file.write_text("\n".join([head, *reversed(rows)]) + "\n")
    assert cells(compared(one, two)) == [row]


def test_more_than_two_runs_are_corrected(ten, tmp_path) -> None:
    runs = [
        answer(Path(shutil.copytree(ten, tmp_path / name)), range(count))
        for name, count in (("one", 20), ("two", 13), ("three", 12))
    ]
    table = compared(*runs)
    # Raw p 2 / 2^7 = 0.0156, 2 / 2^8 = 0.0078 and 1; Holm: times 2, 3 and 1.
    assert [row[-2:] for row in cells(table)] == [
        ["p = 0.031", "two"],
        ["p = 0.023", "three"],
        ["p = 1", "not shown"],
    ]
    remark, note = words(table)
    assert "count the images that only one of the two has right" in note
    with_holm = "McNemar's exact test with Holm's correction over 3 pairs, p = 0.023"
    assert f"three is better than one on the same 200 images ({with_holm})." in remark
    assert "It cannot be told apart from two on these 200 images" in remark


def test_other_images_are_not_compared(ten: Path, tmp_path: Path) -> None:
    one = answer(Path(shutil.copytree(ten, tmp_path / "one")), range(20))
    two = answer(Path(shutil.copytree(ten, tmp_path / "two")), (), images=190)
    table = compared(one, two)
    assert table.pairs == []
    assert "one and two were not measured on the same images" in table.remarks[0]
    answer(two, ())
    file = two / "predictions/test.csv"
    text = file.read_text()
    file.write_text(text.replace("test/0000.jpg,zero,zero", "test/0000.jpg,one,zero"))
    assert "not measured on the same images" in compared(one, two).remarks[0]
    file.write_text(text + text.splitlines()[-1] + "\n")
    assert "An image comes twice in a table" in compared(one, two).remarks[0]
    file.unlink()
    table = compared(one, two)
    assert "two has no table with an answer to each image" in table.remarks[0]
    assert table.pairs == []
    file.write_text(text)
    data = json.loads((two / "data.json").read_text())
    (two / "data.json").write_text(json.dumps({**data, "fingerprint": "other"}))
    [remark] = compared(one, two).remarks
    assert "not measured on the same images" in remark


def test_several_labels_an_image(copy: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 2, (120, 3))
    scores = np.clip(0.4 * targets + 0.6 * generator.uniform(size=(120, 3)), 0, 1)
    result = multilabel(scores, targets, ["sky", "sea", "sun"])
    (copy / "predictions/test.json").write_text(json.dumps(result.to_dict()))
    words = report(copy, tmp_path).words
    assert "The mean average precision is" in words
    assert "of 120 test images (95 % interval" in words
    assert "mean average precision" in model_card(copy)


# What is missing or damaged


def test_missing_files_are_said(page: Reader, copy: Path, tmp_path: Path) -> None:
    named = [
        "command.txt",
        "environment.json",
        "data.json",
        "metrics.jsonl",
        "model/config.json",
        "predictions/test.csv",
    ]
    for name in named:
        assert f"{name} is missing" not in page.words
        (copy / name).unlink()
    words = report(copy, tmp_path, images=picture, samples=samples).words
    for name in named:
        assert f"{name} is missing" in words
    assert "Unknown: the run holds no data.json." in model_card(copy)


def test_settings_with_parts_are_called_by_their_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    config = {"model": {"name": "vit_s16", "depth": 3}, "data": {"path": "photos"}}
    (run / "config.json").write_text(json.dumps(config))
    words = report(run, tmp_path).words
    assert "model vit_s16data photos" in words
    assert "model.depth 3" in words


def test_a_run_that_has_only_a_config(tmp_path: Path) -> None:
    run = tmp_path / "new"
    run.mkdir()
    (run / "config.json").write_text("{}")
    assert "no measured result yet" in report(run, tmp_path, samples=samples).words
    assert "It has not been measured" in model_card(run)
    both = write_html([run, run], tmp_path / "both.html").read_text("utf-8")
    assert "Fewer than two of these runs have a result" in Reader(both).words


def test_a_line_cut_off_is_named_and_skipped(copy: Path, tmp_path: Path) -> None:
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "st')
    lines = len((copy / "metrics.jsonl").read_text().splitlines())
    words = report(copy, tmp_path).words
    assert f"Line {lines} of metrics.jsonl could not be read and was skipped." in words


def test_a_file_without_curves_is_said(copy: Path, tmp_path: Path) -> None:
    (copy / "metrics.jsonl").write_text('{"event": "note", "step": 3, "text": "hi"}')
    words = report(copy, tmp_path).words
    assert "metrics.jsonl holds no curve to draw" in words


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"is not a run folder: it has no config\.json"
    ):
        write_html([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(ConfigError, match="needs at least one run folder"):
        write_html([], tmp_path / "report.html")
    with pytest.raises(ConfigError, match="is not a run folder"):
        model_card(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("data.json", "{", r"data\.json is not readable JSON"),
        (
            "environment.json",
            "[]",
            r"environment\.json must hold a JSON object: got list",
        ),
        ("predictions/test.json", "{}", r"test\.json: this is not a stored class"),
        ("predictions/test.csv", "path\n", r"test\.csv: the column 'label' is missing"),
    ],
)
def test_a_damaged_file_is_named(
    copy: Path, tmp_path: Path, name: str, text: str, message: str
) -> None:
    (copy / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        write_html([copy], tmp_path / "report.html")


# The card


def test_the_card_says_what_one_must_know(ten: Path) -> None:
    card = model_card(ten)
    value = json.loads((ten / "predictions/test.json").read_text())
    for piece in [
        "# digits",
        f"| test | 360 | top-1 accuracy | {100 * value['top1']:.1f}",
        'vt.load("model/")',
        'timm.create_model("local-dir:model/"',
        "Unknown: no licence was stated",
        "| image\\_size | 48, 80 |",
        "10, in the order of the outputs: zero, one,",
        "Files that could not be decoded: 2.",
    ]:
        assert piece in card, piece
    assert "measured on" not in card.split("## Limits")[1].replace(
        "it was measured on:", ""
    )


def test_the_card_offers_timm_and_a_licence_only_when_stated(copy: Path) -> None:
    file = copy / "model/config.json"
    value = json.loads(file.read_text())
    value["vitral"]["timm"] = False
    value["vitral"]["license"] = "apache-2.0"
    file.write_text(json.dumps(value))
    card = model_card(copy)
    assert "timm" not in card
    assert "Licence of the weights\n\napache-2.0" in card


def test_the_card_escapes_names(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", num_classes=3, names=["a|b", SCRIPT, "[x](y)"], num_test=40
    )
    card = model_card(run)
    assert "a\\|b, &lt;script&gt;alert(1)&lt;/script&gt;, \\[x\\](y)." in card
    assert "It was measured on 42 images only." in card
