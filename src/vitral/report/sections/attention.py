"""Section on attention: distances of the heads, and how to read the maps."""

from typing import Any

import numpy as np

from vitral import plots
from vitral.document import RunFolder
from vitral.document.images import Picture, svg_picture
from vitral.document.inspection_store import FILE, StoredInspection
from vitral.document.numbers import Number, Text, count, decimal, pointer, share

_CLIP_LIMITS = (
    "Rollout shows where attention went and does not depend on the class, so it is no "
    "reason for the answer; `vitral inspect --what relevance` has maps that do, and "
    "moving pictures."
)
_LIMITS = {
    "rollout": (
        "Rollout shows where attention went and does not depend on the class, so it is "
        "no reason for the answer; `vitral inspect --what faithfulness` measures "
        "whether the answer depends on the places it marks."
    ),
    "grad_cam": (
        "A coarse map of one layer is no full reason for the answer; `vitral inspect "
        "--what faithfulness` measures whether the answer depends on the places it "
        "marks."
    ),
}


def attention_section(run: RunFolder[Any]) -> dict[str, Any]:
    """Return sentences, figure and notes, or what is missing if nothing was computed.

    The notes are the meaning and limits of the maps, and what was left out.
    """
    stored = run.inspection
    section: dict[str, Any] = {
        "sentences": [],
        "figure": None,
        "notes": [],
        "missing": "",
    }
    if stored is None:
        return section | {"missing": _missing_note(run)}
    if stored.missing:
        return section | {"missing": f"It could not be computed: {stored.missing}"}
    method = str(stored.document.get("method"))
    notes = [str(note) for note in stored.document.get("notes") or []]
    if stored.maps and method in _LIMITS:
        notes.append(_CLIP_LIMITS if stored.has_frames else _LIMITS[method])
    section["notes"] = notes
    if stored.document.get("distance"):
        section |= {"sentences": _sentences(stored), "figure": _figure(stored)}
    return section


def _missing_note(run: RunFolder[Any]) -> str:
    if run.headline_split is None:
        return "Nothing was measured, so nothing was looked at either."
    return (
        f"{FILE} is missing from the run folder, so it is not known what the model "
        "looks at. `vitral report` computes it where the data of the run can be opened."
    )


def _figure(stored: StoredInspection) -> Picture:
    distance = stored.document["distance"]
    height = int(stored.document["image_size"][0])
    uniform = float(distance["uniform"])
    return svg_picture(
        plots.distance(
            np.asarray(distance["layers"]), uniform or None, image_height=height
        )
    )


def _sentences(stored: StoredInspection) -> list[Text]:
    distance, split = stored.document["distance"], stored.document["split"]
    means = distance["layer_means"]

    def source(*keys: str | int) -> str:
        return pointer(FILE, "distance", *keys)

    far: list[str | Number] = [
        "Over ",
        count(distance["images"], source("images")),
        f" {split} images the heads of the first layer look ",
        decimal(means[0], source("layer_means", 0), 1),
        " pixels far on average",
    ]
    if len(means) > 1:
        last = len(means) - 1
        number = decimal(means[last], source("layer_means", last), 1)
        far += [" and those of the last layer ", number]
    far += [
        "; attention that is the same everywhere would look ",
        decimal(distance["uniform"], source("uniform"), 1),
        " pixels far.",
    ]
    near: list[str | Number] = [
        count(distance["heads_near"], source("heads_near")),
        " of the ",
        count(distance["heads"], source("heads")),
        " heads (",
        share(distance["share_near"], source("share_near")),
        ") look less than half as far as that",
        ", at what is near, as a convolution does" if distance["heads_near"] else "",
        ". A head at the dashed line looks at everything alike.",
    ]
    return [far, near]
