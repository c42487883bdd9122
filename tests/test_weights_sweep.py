"""benchmarks/weights_sweep.py: models of timm and transformers load or are named."""

import pytest
import transformers
from benchmarks.weights_sweep import (
    REAL_HUGGING_FACE,
    REAL_TIMM,
    TOLERANCE,
    Outcome,
    hugging_face_candidates,
    hugging_face_classes,
    make_table,
    measure,
    timm_candidates,
    timm_modules,
)

transformers.logging.set_verbosity_error()
QUICK = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "test_vit")
"""Architectures of the sample that take no time."""


def test_the_sample_has_forty_models():
    assert len({*REAL_TIMM, *REAL_HUGGING_FACE}) >= 40


@pytest.mark.parametrize("name", [*QUICK, *REAL_HUGGING_FACE])
def test_a_model_with_numbers_is_the_same_function(name):
    assert measure(name) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", [it for it in REAL_TIMM if it not in QUICK])
def test_another_model_with_numbers_is_the_same_function(name):
    assert measure(name) < TOLERANCE


def test_a_few_architectures_load_or_are_named():
    chosen = {
        "vision_transformer": ["vit_tiny_patch16_224", "vit_base_patch16_rpn_224"],
        "swin_transformer": ["swin_tiny_patch4_window7_224"],
    }
    outcomes = [made.read() for made in timm_candidates(chosen)]
    classes = {"ViTForImageClassification": "vit", "SwinModel": "swin"}
    outcomes += [made.read() for made in hugging_face_candidates(classes)]
    assert [not outcome.sentence for outcome in outcomes] == [1, 0, 0, 1, 0]
    assert all(outcome.is_right for outcome in outcomes)
    assert make_table(outcomes).splitlines()[2:] == [
        "| timm | `vision_transformer` | 2 | 1 | 1 |",
        "| timm | 1 other families | 1 | 0 | 1 |",
        "| transformers | `vit` | 1 | 1 | 0 |",
        "| transformers | 1 other families | 1 | 0 | 1 |",
    ]


def test_a_refusal_without_the_name_is_wrong():
    assert not Outcome("timm", "eva", "eva_large", "model.safetensors is odd").is_right
    assert Outcome("timm", "eva", "eva_large", "it is timm's eva_large").is_right


@pytest.mark.slow
def test_every_transformer_of_timm_loads_or_is_named():
    made = timm_candidates(timm_modules())
    wrong = [it for each in made if not (it := each.read()).is_right]
    assert wrong == []


@pytest.mark.slow
def test_every_vision_class_of_transformers_loads_or_is_named():
    classes = hugging_face_classes()
    assert len(classes) > 300
    made = hugging_face_candidates(classes)
    wrong = [it for each in made if not (it := each.read()).is_right]
    assert wrong == []
