"""Compare the tensors of a file with those of the model that its shapes describe."""

from typing import NamedTuple

import vitral.models
from vitral.errors import WeightsError
from vitral.validation import nearest_names
from vitral.weights.checkpoint_facts import WeightsSource

SHOWN = 4


def check(source: WeightsSource) -> None:
    """Check that the file has exactly the tensors of its model, in their shapes."""
    mismatch = find_mismatches(source)
    if mismatch.quantized:
        raise WeightsError(f"{source.path}: {mismatch.quantized[0]}")
    if mismatch.missing or mismatch.unexpected:
        raise WeightsError(_mismatch_message(source, mismatch))
    if mismatch.mismatched:
        raise WeightsError(
            f"{source.path}: {mismatch.mismatched[0]}. Write it again in the shape of "
            f"its layout, {source.layout}; no tensor was loaded."
        )


class KeyMismatch(NamedTuple):
    """Differences between a file and the model that its shapes describe."""

    missing: list[str]
    """Tensors that the model needs, in the file's names."""
    unexpected: list[str]
    """Tensors of the file that the model does not have."""
    mismatched: list[str]
    """Sentences: a tensor's shape, and the expected one."""
    quantized: list[str]
    """Sentences: a tensor whose stored numbers are not the model's."""


def find_mismatches(source: WeightsSource) -> KeyMismatch:
    """Return everything that keeps a file from being loaded."""
    shapes = vitral.models.tensor_shapes(source.config)
    rules = source.by_name()
    used = {name for rule in source.mappings for name in rule.theirs}
    mismatch = KeyMismatch([], [], [], [])
    for name in source.file.names():
        if name not in used and name not in source.dropped:
            mismatch.unexpected.append(name)
    for name, shape in shapes.items():
        rule = rules.get(name)
        if rule is None:
            mismatch.missing.append(name)
            continue
        for theirs, expected in zip(
            rule.theirs, rule.expected_shapes(shape), strict=True
        ):
            if theirs not in source.file:
                mismatch.missing.append(theirs)
                continue
            if not source.file.dtype(theirs).is_floating_point:
                mismatch.quantized.append(_quantized(source, theirs))
            actual = source.file.shape(theirs)
            if actual != expected and actual not in rule.accepted_shapes:
                turned = ": it is transposed" if actual == expected[::-1] else ""
                mismatch.mismatched.append(
                    f"tensor {theirs} has shape {actual}, expected {expected}{turned}"
                )
    return mismatch


def _quantized(source: WeightsSource, name: str) -> str:
    dtype = str(source.file.dtype(name)).removeprefix("torch.")
    return (
        f"tensor {name} is stored as {dtype}, expected float16, bfloat16, float32 or "
        "float64. Another program quantized it, and vitral does not know its scale: "
        "take the weights from before that; no tensor was loaded."
    )


def _mismatch_message(source: WeightsSource, mismatch: KeyMismatch) -> str:
    missing, unknown = mismatch.missing, mismatch.unexpected
    text = f"{source.path} does not fit the model that its shapes describe: it lacks "
    text += (
        f"{_join_names(missing)} and has {_join_names(unknown)} that the model has "
        "no place for"
    )
    if missing and unknown:
        near = nearest_names(missing[0], unknown, count=1, cutoff=0.8)
        if near:
            text += f" ({near[0]} looks like {missing[0]}, renamed)"
    return f"{text}. Give the names of its layout, {source.layout}, or another file."


def _join_names(names: list[str]) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - SHOWN} more" if names[SHOWN:] else ""
    return ", ".join(names[:SHOWN]) + more
