"""Distillation: losses by hand, the two heads, a teacher that is only asked."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers import TINY, images, randomise, tiny_vit
from objectives_batch import Killed, batch_of, run
from vitral.data import Batch, ClassTarget
from vitral.errors import ConfigError
from vitral.models import DeiT, DeiTConfig
from vitral.tasks.classification import Distill, DistillConfig
from vitral.tasks.classification.distill import soft_loss


class Answers(nn.Module):
    """Says the same whatever the image, with a parameter and dropout inside."""

    def __init__(self, logits) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float64))
        self.drop = nn.Dropout(0.9)
        self.modes: list[bool] = []

    def forward(self, image):
        self.modes.append(self.training)
        return self.drop(self.logits)


class TwoHeads(DeiT):
    """A DeiT whose two heads say what they are told."""

    def __init__(self, by_label, by_teacher) -> None:
        super().__init__(DeiTConfig(**{**TINY, "num_classes": 3}))
        self.said = [
            nn.Parameter(torch.tensor(logits, dtype=torch.float64))
            for logits in (by_label, by_teacher)
        ]

    def forward_features(self, image, patch_mask=None):
        return None

    def forward_heads(self, features):
        return self.said[0], self.said[1]


def deit(seed=0) -> DeiT:
    model = DeiT(DeiTConfig(**TINY)).double()
    randomise(model, seed)
    return model


def softmax(logits, temperature=1.0):
    powers = [math.exp(x / temperature) for x in logits]
    return [power / sum(powers) for power in powers]


S_LABEL = [[1.0, -0.5, 0.25], [0.0, 2.0, -1.0]]
S_TEACHER = [[0.5, 0.75, -2.0], [1.5, -0.25, 0.5]]
TEACHER = [[3.0, -1.0, 0.5], [-0.5, 0.25, 1.0]]
TARGET = [[0.0, 0.7, 0.3], [1.0, 0.0, 0.0]]


def batch() -> Batch:
    target = torch.tensor(TARGET, dtype=torch.float64)
    classes = ClassTarget(target, torch.tensor([1, 0]))
    return Batch(images(), classes, ("a.png", "b.png"))


def label_loss_by_hand(logits) -> float:
    return (
        -sum(
            t * math.log(p)
            for row, target in zip(logits, TARGET, strict=True)
            for t, p in zip(target, softmax(row), strict=True)
        )
        / 2
    )


def test_hard_distillation_by_hand():
    objective = Distill(TwoHeads(S_LABEL, S_TEACHER), Answers(TEACHER), DistillConfig())
    found = objective(batch())
    # The teacher's classes are 0 and 2, whatever the labels say.
    taught = -(math.log(softmax(S_TEACHER[0])[0]) + math.log(softmax(S_TEACHER[1])[2]))
    labelled = label_loss_by_hand(S_LABEL)
    assert found["label_loss"].item() == pytest.approx(labelled, rel=1e-12)
    assert found["teacher_loss"].item() == pytest.approx(taught / 2, rel=1e-12)
    assert found["loss"].item() == pytest.approx(labelled / 2 + taught / 4, rel=1e-12)
    # The sums of both heads: (1.5, 0.25, -1.75) and (1.5, 1.75, -0.5).
    assert found["accuracy"].item() == 0.0
    assert found["agreement"].item() == 0.5


@pytest.mark.parametrize(("share", "temperature"), [(0.1, 3.0), (0.5, 1.0)])
def test_soft_distillation_by_hand(share, temperature):
    config = DistillConfig(kind="soft", share=share, temperature=temperature)
    found = Distill(TwoHeads(S_LABEL, S_TEACHER), Answers(TEACHER), config)(batch())
    divergence = 0.0
    for student, teacher in zip(S_TEACHER, TEACHER, strict=True):
        for p, q in zip(
            softmax(teacher, temperature), softmax(student, temperature), strict=True
        ):
            divergence += p * math.log(p / q) / 2
    taught = divergence * temperature**2
    labelled = label_loss_by_hand(S_LABEL)
    assert found["teacher_loss"].item() == pytest.approx(taught, rel=1e-12)
    assert found["loss"].item() == pytest.approx(
        (1 - share) * labelled + share * taught, rel=1e-12
    )


def test_soft_loss_is_that_of_the_released_code_times_the_classes():
    student, teacher = torch.tensor(S_TEACHER), torch.tensor(TEACHER)
    tau = 3.0
    released = (
        functional.kl_div(
            functional.log_softmax(student / tau, dim=1),
            functional.log_softmax(teacher / tau, dim=1),
            reduction="sum",
            log_target=True,
        )
        * (tau * tau)
        / student.numel()
    )
    torch.testing.assert_close(soft_loss(student, teacher, tau), 3 * released)


def test_a_student_that_is_the_teacher_loses_nothing():
    logits = torch.tensor(TEACHER)
    assert float(soft_loss(logits, logits + 5, 2.0)) == pytest.approx(0, abs=1e-7)


def test_smoothing_is_of_the_labels_alone():
    plain, smooth = (
        Distill(
            TwoHeads(S_LABEL, S_TEACHER),
            Answers(TEACHER),
            DistillConfig(smoothing=smoothing),
        )(batch())
        for smoothing in (0.0, 0.3)
    )
    assert plain["teacher_loss"] == smooth["teacher_loss"]
    wanted = functional.cross_entropy(
        torch.tensor(S_LABEL, dtype=torch.float64),
        torch.tensor(TARGET, dtype=torch.float64),
        label_smoothing=0.3,
    )
    torch.testing.assert_close(smooth["label_loss"], wanted)


def test_a_student_with_one_head_learns_both_with_it():
    student = tiny_vit(num_classes=3)
    found = Distill(student, Answers(TEACHER), DistillConfig(share=0.25))(batch())
    logits = student(images()).detach()
    labelled = functional.cross_entropy(logits, torch.tensor(TARGET).double())
    taught = functional.cross_entropy(logits, torch.tensor([0, 2]))
    torch.testing.assert_close(
        found["loss"].detach(), 0.75 * labelled + 0.25 * taught, atol=1e-6, rtol=1e-6
    )


def test_each_head_of_deit_learns_from_its_own():
    for share, other in ((0.0, "head_dist"), (1.0, "head")):
        student = deit()
        config = DistillConfig(share=share)
        Distill(student, tiny_vit(), config)(batch_of(images()))["loss"].backward()
        silent = {
            name
            for name, parameter in student.named_parameters()
            if not bool(parameter.grad.any())
        }
        assert silent >= {f"{other}.weight", f"{other}.bias"}
        assert not any("blocks" in name for name in silent)


def test_the_heads_are_the_models_own():
    student = deit()
    student.eval()
    objective = Distill(student, tiny_vit(), DistillConfig())
    found = objective(batch_of(images()))
    features = student.forward_features(images())
    cls, distilled = (
        student.head(features.cls),
        student.head_dist(features.distillation),
    )
    taught = tiny_vit()(images()).argmax(dim=1)
    torch.testing.assert_close(
        found["label_loss"],
        functional.cross_entropy(cls, torch.tensor([0, 1])).detach(),
    )
    torch.testing.assert_close(
        found["teacher_loss"], functional.cross_entropy(distilled, taught).detach()
    )


# The teacher


def test_the_teacher_gets_no_gradient_and_stays_in_eval_mode():
    teacher = Answers(TEACHER).train()
    objective = Distill(TwoHeads(S_LABEL, S_TEACHER), teacher, DistillConfig())
    objective.train()
    teacher.train()  # somebody else uses it
    objective(batch())["loss"].backward()
    assert teacher.modes == [False]
    assert teacher.logits.grad is None
    assert teacher.logits.requires_grad


def test_the_teacher_sees_the_students_image():
    seen = []
    teacher = tiny_vit()
    teacher.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    part = batch_of(images())
    Distill(deit(), teacher, DistillConfig())(part)
    assert seen[0] is part.image


def test_the_teacher_is_neither_trained_nor_saved_but_moves():
    teacher = tiny_vit()
    objective = Distill(deit(), teacher, DistillConfig())
    names = {name for name, _ in objective.named_parameters()}
    assert names == {f"model.{name}" for name, _ in deit().named_parameters()}
    assert objective.state_dict().keys() == names
    before = copy.deepcopy(teacher.state_dict())
    objective.to(torch.float32)
    assert teacher.head.weight.dtype == torch.float32
    objective(batch_of(images().float()))
    assert objective.teacher is teacher
    assert all(before[n].float().equal(t) for n, t in teacher.state_dict().items())


def test_a_killed_run_goes_on_to_the_same_bits_without_a_teacher_on_disk(tmp_path):
    def fresh():
        student = DeiT(DeiTConfig(**TINY, drop_path_rate=0.3))
        randomise(student)
        return Distill(student, tiny_vit().float(), DistillConfig(kind="soft"))

    whole = run(fresh(), tmp_path / "whole")
    with pytest.raises(Killed):
        run(fresh(), tmp_path / "killed", kill=True)
    resumed = run(fresh(), tmp_path / "killed", resume=True)
    assert all(whole[name].equal(resumed[name]) for name in whole)
    assert not whole["model.dist_token"].equal(fresh().state_dict()["model.dist_token"])
    assert not list(tmp_path.rglob("objective*"))


def test_half_precision_keeps_a_float32_loss():
    student = deit().float().eval()
    objective = Distill(student, tiny_vit().float(), DistillConfig(kind="soft"))
    part = batch_of(images().float())
    whole = objective(part)["loss"].detach()
    with torch.autocast("cpu", torch.bfloat16):
        half = objective(part)["loss"].detach()
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(whole), rel=0.1)


# Errors


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"share": 1.5}, "`share` must lie between 0 and 1: got 1.5."),
        ({"temperature": 0.0}, "`temperature` must be a finite number above 0: got 0"),
        ({"smoothing": 1.0}, "`smoothing` must be at least 0 and below 1: got 1.0."),
    ],
    ids=["share", "temperature", "smoothing"],
)
def test_settings_that_cannot_be(settings, sentence):
    with pytest.raises(ConfigError) as caught:
        DistillConfig(**settings)
    assert sentence in str(caught.value)


def test_a_kind_that_there_is_not():
    config = DistillConfig()
    # The type checker of the tests would refuse it first.
    object.__setattr__(config, "kind", "warm")
    with pytest.raises(ConfigError, match="must be 'hard' or 'soft': got 'warm'"):
        config.__post_init__()


def test_a_teacher_of_other_classes():
    objective = Distill(deit(), tiny_vit(num_classes=9), DistillConfig())
    with pytest.raises(ConfigError) as caught:
        objective(batch_of(images()))
    assert "got [2, 7], [2, 9] and [2, 7]" in str(caught.value)


def test_targets_of_other_classes():
    objective = Distill(deit(), tiny_vit(), DistillConfig())
    with pytest.raises(ConfigError, match="num_classes=5, and take a teacher"):
        objective(batch_of(images(), classes=5))
