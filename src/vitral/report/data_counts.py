"""Numbers of images and labels by split, from a run's data.json."""

from typing import Any

from vitral.document.numbers import Number, count, pointer


def count_rows(data: dict[str, Any]) -> dict[str, dict[str, Number]]:
    """Return {"images", "labels", "images without a label": {split: number}}.

    Labels are counted where they are not one an image. Runs of earlier versions have
    no `sizes`, and a sum over the classes, which may be either.
    """
    names = {
        "sizes": "images",
        "labels": "labels",
        "without_label": "images without a label",
    }
    rows = {name: _numbers(data, key) for key, name in names.items() if data.get(key)}
    return rows or {"images by class": _sums(data)}


def _numbers(data: dict[str, Any], key: str) -> dict[str, Number]:
    return {
        split: count(size, pointer("data.json", key, split))
        for split, size in data[key].items()
    }


def _sums(data: dict[str, Any]) -> dict[str, Number]:
    return {
        split: count(sum(sizes.values()), pointer("data.json", "counts", split), "sum")
        for split, sizes in (data.get("counts") or {}).items()
    }
