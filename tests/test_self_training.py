"""self_train: rounds, files, mending, going on after a kill, and what never leaks."""

import csv
import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import vitral as vt
from helpers import captured_log
from photos import CLASSES, contents, make_photos, photo, tiny_config
from vitral.atomic_io import write_json
from vitral.cli import main
from vitral.data import AugmentConfig, read_unlabelled
from vitral.data.names import unescape_cell
from vitral.data.sources.pseudo_labels import PREFIX, PseudoData, RepeatedExample
from vitral.data.targets import ClassShares
from vitral.errors import ConfigError, DataError
from vitral.tasks.classification import PseudoLabels, SupervisedConfig
from vitral.training.checkpointing.resume import RunStore
from vitral.workflows.self_training.config import (
    SelfTrainingConfig,
    find_last_round,
    student_config,
)
from vitral.workflows.self_training.pseudo_labels import (
    RoundLabels,
    TeacherPredictions,
    predict_unlabeled,
    repeat_factors,
    write_labels,
)
from vitral.workflows.self_training.self_train import self_train
from vitral.workflows.self_training.student_noise import describe_noise, student_notes

module = importlib.import_module("vitral.workflows.self_training.self_train")

UNLABELLED = 27
SETTINGS = SelfTrainingConfig(rounds=2, threshold=0.34, per_class=7, ratio=2.5)


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    """No report and no maps of the runs; what marks a finished one stays."""

    def written(out: Path, *rest: object) -> Path:
        (out / "report.html").write_text("")
        return out / "report.html"

    monkeypatch.setattr("vitral.workflows.train.finalize.write_report", written)
    monkeypatch.setattr(
        "vitral.workflows.train.finalize.compute_report_maps", lambda *rest: None
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """photos/ with 5 + 3 + 4 images a class, more/ without labels, truth.csv."""
    root = tmp_path_factory.mktemp("self")
    number = 0
    for split, per_class in (("train", 5), ("val", 3), ("test", 4)):
        for label, name in enumerate(CLASSES):
            folder = root / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(per_class):
                photo(label, number).save(folder / f"{index}.png")
                number += 1
    (root / "more" / "deep").mkdir(parents=True)
    rows = [["path", "label"]]
    for number in range(UNLABELLED):
        name = f"{'deep/' if number % 2 else ''}{number:02d}.png"
        photo(number % 3, 700 + number).save(root / "more" / name)
        rows.append([name, CLASSES[(number % 3 + ((700 + number) % 9 == 0)) % 3]])
    shutil.copy(root / "photos/test/green/1.png", root / "more" / "seen before.png")
    (root / "more" / "broken.png").write_bytes(b"no image")
    with (root / "truth.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def config_of(data: Path, **changes) -> vt.TrainConfig:
    fields = {
        "epochs": 2.0,
        "objective": SupervisedConfig(smoothing=0.12),
        "loop": {"eval_every": 0, "checkpoint_every": 3},
        **changes,
    }
    return tiny_config(data / "photos", **fields)


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    """Two rounds, with what was announced and the user's files before."""
    before = contents(data)
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "vitral.workflows.train.finalize.write_report",
            lambda out, *rest: (out / "report.html").write_text(""),
        )
        patch.setattr(
            "vitral.workflows.train.finalize.compute_report_maps", lambda *rest: None
        )
        with captured_log() as lines:
            result = self_train(
                config_of(data),
                data / "more",
                tmp_path_factory.mktemp("out") / "st",
                settings=SETTINGS,
                truth=data / "truth.csv",
            )
    assert contents(data) == before
    return result, lines


def rows_of(folder: Path) -> list[dict]:
    text = (folder / "pseudo.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def open_round(out: Path, number: int) -> vt.data.Dataset:
    config = vt.open(out / f"round-{number}").config
    return vt.data.open(config.data, val=config.val, test=config.test)


# the rounds


def test_the_folder_has_every_round(done):
    result, lines = done
    names = {path.name for path in result.out.iterdir()}
    rounds = {f"{kind}-{n}" for kind in ("pseudo", "round") for n in (1, 2)}
    files = {"self-training.json", "split.csv", "unlabelled.json", "result.json"}
    assert names == rounds | files | {"round-0", "teacher"}
    labels = {"pseudo.jsonl", "answers.csv", "data.json", "report.html", "overview.png"}
    for number in (1, 2):
        there = {path.name for path in (result.out / f"pseudo-{number}").iterdir()}
        assert there == labels
    assert [r.name for r in result.results] == ["teacher", "round 1", "round 2"]
    assert result.split == "test"
    assert all(r.n == 12 for r in result.results)
    stored = json.loads((result.out / "result.json").read_text())
    assert [r["accuracy"] for r in stored["results"]] == [
        r.accuracy for r in result.results
    ]
    assert result.comparison is not None
    assert stored["compared"]["n"] == 12
    assert result.comparison.result.accuracy_b == result.results[-1].accuracy
    assert any(line.startswith("note: noise of the student: flip") for line in lines)


def test_what_cannot_or_must_not_be_labelled_is_left_out(done):
    result, lines = done
    listed = json.loads((result.out / "unlabelled.json").read_text())
    assert len(listed["images"]) == UNLABELLED
    left_out = listed["left_out"]
    assert set(left_out) == {"broken.png", "seen before.png"}
    assert left_out["broken.png"].startswith("unreadable: the content is not a JPEG")
    assert left_out["seen before.png"] == "copy of test/green/1.png (test)"
    assert "unlabelled: 27 images, 2 left out" in lines
    with (result.out / "pseudo-1" / "answers.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    assert len(answers) == UNLABELLED + 2
    assert {row["path"] for row in answers if not row["label"]} == set(left_out)


def test_a_spreadsheet_runs_no_cell_of_the_answers(tmp_path):
    paths, classes = ("=1+1.png", "'@a.png", "plain.png"), ("-b", "c")
    labels = RoundLabels(
        predictions=TeacherPredictions(
            paths, np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
        ),
        pseudo=PseudoLabels(
            torch.tensor([0]), torch.tensor([2]), torch.tensor([[0.9, 0.1]])
        ),
        labelled_copies=1,
        pseudo_copies=1,
        num_labelled=1,
    )
    about = PseudoData(
        labelled="data",
        group_by="",
        seed=0,
        val=0.1,
        test=0.1,
        split="split.csv",
        unlabelled="new",
        smoothing=0.0,
        labelled_copies=1,
        pseudo_copies=1,
    )
    left_out = {"+c.png": "unreadable"}
    write_labels(tmp_path, labels, classes, metadata=about, left_out=left_out)
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    cells = [row["path"] for row in rows]
    assert cells == ["'=1+1.png", "''@a.png", "plain.png", "'+c.png"]
    assert [unescape_cell(cell) for cell in cells] == [*paths, *left_out]
    assert [row["label"] for row in rows] == ["'-b", "c", "'-b", ""]


def test_held_out_images_are_those_of_the_teacher_in_every_round(done):
    result, _ = done
    first = vt.data.open(vt.open(result.out / "round-0").config.data)
    held = {(e.id, e.split, e.label) for e in first.examples if e.split != "train"}
    assert len(held) == 3 * (3 + 4)
    for number in (1, 2):
        dataset = open_round(result.out, number)
        assert {
            (e.id, e.split, e.label) for e in dataset.examples if e.split != "train"
        } == held
        assert not any(
            e.id.startswith(PREFIX) for e in dataset.examples if e.split != "train"
        )
        with (result.out / f"round-{number}/split.csv").open(newline="") as file:
            saved = {row["path"]: row["split"] for row in csv.DictReader(file)}
        assert {id_ for id_, split in saved.items() if split != "train"} == {
            id_ for id_, _, _ in held
        }


def test_the_merged_set_is_balanced_and_has_its_targets(done):
    result, _ = done
    dataset = open_round(result.out, 1)
    train = dataset.select("train")
    pseudo = [e for e in train if e.id.startswith(PREFIX)]
    labelled = [e for e in train if not e.id.startswith(PREFIX)]
    rows = rows_of(result.out / "pseudo-1")
    classes = {row["label"] for row in rows}
    # 7 of each class that the teacher answered; 15 labelled: a ratio of 2.5 would be
    # 37.5 of them, so whole copies come as near as they can.
    number = 7 * len(classes)
    about = json.loads((result.out / "pseudo-1" / "data.json").read_text())
    copies = round(2.5 * 15 / number)
    assert about["pseudo_copies"] == copies
    assert about["labelled_copies"] == 1
    assert len(pseudo) == number * copies
    assert len(labelled) == 15
    assert len({e.id for e in train}) == len(train)
    for e in labelled:
        assert e.target is not None
        assert e.target == ClassShares(e.label, (pytest.approx(0.88 + 0.12 / 3),), 0.04)
    by_path = {row["path"]: row for row in rows}
    for e in pseudo:
        assert isinstance(e, RepeatedExample)
        row = by_path[e.source_id]
        shares = np.zeros(len(CLASSES))
        e.target.write_to(shares)
        wanted = [row["target"].get(name, 0.0) for name in CLASSES]
        assert shares == pytest.approx(wanted, abs=1e-6)
        assert dataset.classes[e.label[0]] == row["label"]
        assert row["confidence"] >= 0.34
    # Each id draws its own noise, of the same picture.
    copies_of = [e for e in pseudo if e.source_id == pseudo[0].source_id]
    assert len(copies_of) > 1
    pictures = [np.asarray(dataset.read(e)) for e in copies_of]
    assert all(np.array_equal(pictures[0], picture) for picture in pictures)
    assert vt.open(result.out / "round-1").config.objective.smoothing == 0


def test_the_page_shows_what_the_files_say(done):
    result, _ = done
    page = (result.out / "pseudo-1" / "report.html").read_text()
    kept = len(rows_of(result.out / "pseudo-1"))
    assert f"Of 27 unlabelled images {kept} are learned from" in page
    assert "copy of test/green/1.png (test)" in page
    assert "the teacher is right for" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


# going on


def test_the_same_call_does_nothing_again(done, data, monkeypatch):
    result, _ = done
    before = contents(result.out)
    monkeypatch.setattr(module, "train", _fail)
    monkeypatch.setattr(module, "predict_unlabeled", _fail)
    again = self_train(config_of(data), data / "more", result.out, settings=SETTINGS)
    assert [r.accuracy for r in again.results] == [r.accuracy for r in result.results]
    assert contents(result.out) == before


def _fail(*rest, **named):
    raise AssertionError("this was done before")


@pytest.mark.parametrize("at", ["teacher", "table", "round 2"])
def test_a_kill_anywhere_changes_nothing(done, data, tmp_path, monkeypatch, at):
    result, _ = done
    out = tmp_path / "st"

    class Killed(BaseException):
        pass

    def stop(file, values):
        if file.name == "data.json":
            raise Killed
        write_json(file, values)

    with monkeypatch.context() as patch:
        if at == "table":
            patch.setattr(
                "vitral.workflows.self_training.pseudo_labels.write_json", stop
            )
        else:
            place = {"teacher": 0, "round 2": 2}[at]
            patch.setattr(module, "train", _stopping(out, place, Killed))
        with pytest.raises(Killed):
            self_train(config_of(data), data / "more", out, settings=SETTINGS)
    finished = [p for p in out.glob("round-*") if (p / "report.html").is_file()]
    kept = {p: contents(p) for p in finished}
    self_train(config_of(data), data / "more", out, settings=SETTINGS)
    assert all(contents(p) == files for p, files in kept.items())
    for number in (0, 1, 2):
        ours, theirs = (vt.open(p / f"round-{number}").model for p in (out, result.out))
        other = theirs.state_dict()
        assert all(torch.equal(v, other[k]) for k, v in ours.state_dict().items())
    for name in ("pseudo.jsonl", "answers.csv"):
        for number in (1, 2):
            file = Path(f"pseudo-{number}") / name
            assert (out / file).read_bytes() == (result.out / file).read_bytes()


def _stopping(out: Path, place: int, error: type[BaseException]):
    """`train`, killed after the first checkpoint of one round."""
    real = module.train

    def stopped(config, folder, **named):
        if folder.name != f"round-{place}":
            return real(config, folder, **named)
        with pytest.MonkeyPatch.context() as patch:
            _stop_after_checkpoint(patch, error)
            return real(config, folder, **named)

    return stopped


def _stop_after_checkpoint(patch, error: type[BaseException]) -> None:
    real = RunStore.save

    def save(self, *rest, **named):
        real(self, *rest, **named)
        raise error

    patch.setattr(RunStore, "save", save)


def test_more_rounds_may_follow_and_other_settings_may_not(done, data, tmp_path):
    result, _ = done
    out = shutil.copytree(result.out, tmp_path / "st")
    with pytest.raises(
        ConfigError, match=r"began with `threshold` 0\.34 and cannot go"
    ):
        self_train(
            config_of(data),
            data / "more",
            out,
            settings=replace(SETTINGS, threshold=0.5),
        )
    with pytest.raises(ConfigError, match=r"began with `epochs` 2\.0 and cannot"):
        self_train(config_of(data, epochs=3.0), data / "more", out, settings=SETTINGS)
    with pytest.raises(ConfigError, match="began with `teacher` ''"):
        self_train(
            config_of(data),
            data / "more",
            out,
            teacher=out / "round-0",
            settings=SETTINGS,
        )
    more = self_train(
        config_of(data), data / "more", out, settings=replace(SETTINGS, rounds=3)
    )
    assert more.results[-1].name == "round 3"
    assert find_last_round(out) == out / "round-3"


def test_a_person_may_mend_labels_before_they_are_learned(data, done, tmp_path):
    teacher = done[0].out / "round-0"
    out = tmp_path / "st"
    first = self_train(
        config_of(data),
        data / "more",
        out,
        teacher=teacher,
        settings=SETTINGS,
        labels_only=True,
    )
    assert [r.name for r in first.results] == ["teacher"]
    assert not (out / "round-1").exists()
    table = out / "pseudo-1" / "pseudo.jsonl"
    rows = rows_of(table.parent)
    removed, mended = rows.pop(), rows[0]
    other = next(name for name in CLASSES if name != mended["label"])
    mended["label"] = other
    table.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    self_train(
        config_of(data),
        data / "more",
        out,
        teacher=teacher,
        settings=replace(SETTINGS, rounds=1),
    )
    train = open_round(out, 1).select("train")
    assert not any(e.id.startswith(PREFIX + removed["path"]) for e in train)
    own = [e for e in train if e.id.startswith(PREFIX + mended["path"])]
    assert len(own) >= 1
    assert all(e.target is None and CLASSES[e.label[0]] == other for e in own)


# the teacher


class Watched(nn.Module):
    """A model with dropout that says in which mode it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.LazyLinear(3))
        self.asked: list[tuple[bool, bool]] = []

    def forward(self, image):
        self.asked.append((self.training, torch.is_grad_enabled()))
        return self.body(image)


def test_the_teacher_answers_clean_images_in_eval_mode_without_gradients(data, done):
    run = vt.open(done[0].out / "round-0")
    images = read_unlabelled(data / "more")
    known = [e for e in images.examples if "broken" not in e.id]
    images = replace(images, examples=tuple(known))
    run.model = Watched().train()  # type: ignore[assignment]
    one = predict_unlabeled(
        run, images, torch.device("cpu"), workers=0, temperature=1.0
    )
    two = predict_unlabeled(
        run, images, torch.device("cpu"), workers=0, temperature=1.0
    )
    assert set(run.model.asked) == {(False, False)}
    assert np.array_equal(one.probabilities, two.probabilities)
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert one.probabilities.sum(axis=1) == pytest.approx(np.ones(len(known)))
    # What `vitral predict` says of the same file, but for its temperature.
    run = vt.open(done[0].out / "round-0")
    found = predict_unlabeled(
        run, images, torch.device("cpu"), workers=0, temperature=1.0
    )
    said = run.predict([data / "more" / found.paths[3]])[0]
    colder = found.probabilities[3] ** (1 / run.metadata["temperature"])
    assert colder / colder.sum() == pytest.approx(
        list(said.probabilities.values()), abs=1e-6
    )
    # Halved logits: the square root of each probability, renormalised.
    warm = predict_unlabeled(
        run, images, torch.device("cpu"), workers=0, temperature=2.0
    ).probabilities
    roots = np.sqrt(found.probabilities)
    assert warm == pytest.approx(roots / roots.sum(axis=1, keepdims=True), abs=1e-9)


def test_a_teacher_of_other_classes_is_refused(data, done, tmp_path):
    make_photos(
        tmp_path / "photos", splits=("train", "val"), classes=CLASSES[:2], per_class=4
    )
    with pytest.raises(ConfigError, match="both need the same classes, one an image"):
        self_train(
            config_of(tmp_path),
            data / "more",
            tmp_path / "st",
            teacher=done[0].out / "round-0",
        )


def test_a_teacher_of_other_data_gets_a_note(data, done, tmp_path):
    shutil.copytree(data / "photos", tmp_path / "photos")
    with captured_log() as lines:
        self_train(
            config_of(tmp_path),
            data / "more",
            tmp_path / "st",
            teacher=done[0].out / "round-2",
            settings=SETTINGS,
            labels_only=True,
        )
    assert any("does not tell which images of" in line for line in lines)
    # A student's run is known to have learned from these.
    with captured_log() as lines:
        self_train(
            config_of(data),
            data / "more",
            tmp_path / "same",
            teacher=done[0].out,
            settings=SETTINGS,
            labels_only=True,
        )
    assert not any("does not tell" in line for line in lines)


# refusals and notes


def test_a_teacher_that_is_sure_of_nothing(data, done, tmp_path):
    with pytest.raises(DataError, match=r"sure of no image of .*Lower the threshold"):
        self_train(
            config_of(data),
            data / "more",
            tmp_path / "st",
            teacher=done[0].out / "round-0",
            settings=replace(SETTINGS, threshold=1.0),
        )


def test_images_that_are_all_labelled_already(data, done, tmp_path):
    with pytest.raises(DataError, match=r"no image that a teacher could label: all"):
        self_train(
            config_of(data),
            data / "photos" / "train",
            tmp_path / "st",
            teacher=done[0].out / "round-0",
        )


def test_a_folder_in_use(data, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something that is not a self-train"):
        self_train(config_of(data), data / "more", tmp_path)
    with pytest.raises(ConfigError, match="is a file: name a folder"):
        self_train(config_of(data), data / "more", tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rounds": 0}, "`rounds` must be 1 or more: got 0"),
        ({"ratio": 0.0}, "`ratio` must be above 0"),
        ({"threshold": -0.1}, "`threshold` must be a probability"),
    ],
)
def test_settings_out_of_range(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        SelfTrainingConfig(**changes)


def test_the_sigmoid_loss_is_refused(data):
    config = config_of(data, objective=SupervisedConfig(loss="sigmoid"))
    with pytest.raises(ConfigError, match="learns one class an image with the softmax"):
        student_config(config, Path("x/data.json"))


def test_a_student_without_noise_gets_a_note(data, done):
    teacher = vt.open(done[0].out / "round-0")
    still = config_of(data, augment=AugmentConfig(flip=0.0))
    assert describe_noise(still) == ()
    assert "the student learns without noise" in student_notes(still, teacher)[0]
    noisy = config_of(
        data,
        augment=AugmentConfig(flip=0.0, rand_augment=2),
        model_changes={"depth": 2, "drop_rate": 0.1, "drop_path_rate": 0.2},
    )
    assert describe_noise(noisy) == (
        "RandAugment 2 x 9",
        "dropout 0.1",
        "stochastic depth 0.2",
    )
    assert len(student_notes(noisy, teacher)) == 1
    auto = config_of(
        data,
        augment=AugmentConfig(flip=0.0, policy="auto"),
        model_changes={"depth": 2, "patch_drop_rate": 0.5},
    )
    assert describe_noise(auto) == ("AutoAugment", "dropped patches 0.5")
    nearly = config_of(data, model_changes={"depth": 2, "class_token": False})
    assert len(student_notes(nearly, teacher)) == 1
    smaller = config_of(data, model_changes={"depth": 1})
    assert "in the paper it is equal or larger" in student_notes(smaller, teacher)[1]


@pytest.mark.parametrize(
    ("labelled", "pseudo", "ratio", "copies"),
    [(100, 3000, 3.0, (10, 1)), (100, 120, 3.0, (1, 2)), (50, 150, 3.0, (1, 1))],
)
def test_copies_come_near_the_ratio(labelled, pseudo, ratio, copies):
    assert repeat_factors(labelled, pseudo, ratio) == copies


# the merged set's file


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ('{"path": "a.png", "label": "cat"}', "line 1: the label 'cat' is no class"),
        ('{"path": "", "label": "green"}', "line 1: expected a path, got ''"),
        (
            '{"path": "a.png", "label": "green", "copies": 0}',
            "line 1: `copies` must be a whole number of at least 1: got 0",
        ),
        (
            '{"path": "a.png", "label": "green", "target": {"dog": 1}}',
            "line 1: `target` must give shares",
        ),
        ('{"path": "a.png"}', "column 'label' is missing"),
        (
            '{"path": "a.png", "label": "green"}\n{"path": "a.png", "label": "green"}',
            "two images are called 'unlabelled:a.png'",
        ),
    ],
)
def test_a_mended_table_with_a_mistake(done, tmp_path, row, sentence):
    out = shutil.copytree(done[0].out, tmp_path / "st")
    (out / "pseudo-1" / "pseudo.jsonl").write_text(row + "\n")
    with pytest.raises(DataError, match=sentence):
        vt.data.open(out / "pseudo-1" / "data.json")


def test_another_json_file_is_no_data_set(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"a": 1}')
    with pytest.raises(DataError, match="does not say which labelled and pseudo"):
        vt.data.open(file)


# the command


def test_the_command_ends_with_every_round(data, done, tmp_path, capsys):
    out = tmp_path / "st"
    words = ["self-train", str(data / "photos"), str(data / "more"), "--out", str(out)]
    words += ["--teacher", str(done[0].out / "round-0"), "--rounds", "1"]
    words += ["--threshold", "0.34", "--ratio", "1", "--per_class", "5", "--hard"]
    words += ["--model", "vit_mu16", "--set", "depth=2", "--img-size", "32", "48"]
    words += ["--epochs", "1", "-b", "15", "--flip", "0.5", "--warmup", "1"]
    assert main([*words, "--labels-only"]) == 0
    said = capsys.readouterr().out
    assert "next: the same command without --labels-only" in said
    assert not (out / "round-1").exists()
    assert main(words) == 0
    last = capsys.readouterr().out.splitlines()[-4:]
    assert last[0].startswith("teacher  test ")
    assert last[1].startswith("round 1  test ")
    assert "of 12 images right (95 % interval" in last[1]
    assert last[2].startswith("last round less teacher: ")
    assert "McNemar's exact test" in last[2]
    assert last[3] == f"next: vitral report {out / 'round-1'}"
    targets = [row["target"] for row in rows_of(out / "pseudo-1")]
    assert all(list(target.values()) == [1.0] for target in targets)


def test_mistakes_in_the_command(capsys, tmp_path):
    assert main(["self-train", "digits", "--out", str(tmp_path)]) == 2
    assert "takes the labelled data and then the folder" in capsys.readouterr().err
    assert main(["self-train", "digits", "more"]) == 2
    assert "needs `--out FOLDER`" in capsys.readouterr().err
    words = ["self-train", "digits", "more", "--out", str(tmp_path / "o"), "--resume"]
    assert main(words) == 2
    assert "goes on by itself" in capsys.readouterr().err
    assert main(["self-train", "--help"]) == 0
    assert "--per-class" in capsys.readouterr().out
