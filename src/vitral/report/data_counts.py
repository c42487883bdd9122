"""Numbers of images and labels by split, from a run's data.json."""

from typing import Any

from vitral.document.numbers import Number, count, pointer


def count_rows(data: dict[str, Any]) -> dict[str, dict[str, Number]]:
    """Return {"images", "labels", "images without a label": {split: number}}.

    Labels are counted where they are not one an image. Runs of earlier versions have
    no `sizes`: of one label an image the sum over the classes is the number of images.
    """
    labels = {
        split: count(sum(per_class.values()), _place("counts", split), how="sum")
        for split, per_class in (data.get("counts") or {}).items()
    }
    images, empty = _numbers(data, "sizes"), _numbers(data, "without_label")
    if not data.get("multi_label"):
        return {"images": images or labels}
    rows = {"images": images, "labels": labels, "images without a label": empty}
    return {name: row for name, row in rows.items() if row}


def _numbers(data: dict[str, Any], key: str) -> dict[str, Number]:
    values = data.get(key) or {}
    return {split: count(size, _place(key, split)) for split, size in values.items()}


def _place(key: str, split: str) -> str:
    return pointer("data.json", key, split)
