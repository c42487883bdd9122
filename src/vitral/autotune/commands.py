"""What to type to get the chosen point: the exported file, or the run itself."""

import json
import math
import shlex

from vitral.autotune.measurement import Point
from vitral.workflows.inference import Views

MAX_DROP = 0.5
"""Points that an export may lose unless it is told otherwise."""


def commands(
    point: Point,
    run: str,
    *,
    run_size: tuple[int, int],
    run_merge: int = 0,
    views: Views | None = None,
    max_drop: float | None = None,
) -> list[str]:
    """Shell commands, one after the other; IMAGES... stands for the images to answer.

    Args:
        run_size: (height, width) that the run takes by itself.
        run_merge: tokens that it merges by itself.
        views: of an image, where they are others than the run's own.
        max_drop: the bound it was chosen by, which an export is held to as well; None
            for what it lost, and as much as it may have lost.
    """
    one = point.candidate
    size = f"--batch-size {one.batch}"
    if max_drop is None:
        max_drop = max(MAX_DROP, float(math.ceil(point.drop_interval[1])))
    place = {"torch": run, "onnx": "model.onnx", "openvino": "model_openvino"}
    made = shlex.quote(place[one.runtime])
    answer = f"vitral predict {made} IMAGES... {size}"
    if one.image_size != run_size or views is not None:
        changed = None if one.image_size == run_size else one.image_size
        return _python(point, run, changed, views, max_drop) + (
            [] if one.runtime == "torch" else [answer]
        )
    merge = _merge(point, run_merge)
    if one.runtime == "torch":
        return [f"vitral predict {made} IMAGES...{merge} {size}"]
    export = f"vitral export {shlex.quote(run)} {made}"
    if one.runtime == "openvino":
        export += " --to openvino"
    if one.precision != "fp32":
        export += f" --{one.precision}"
        if max_drop != MAX_DROP:
            export += f" --max-drop {max_drop:g}"
    return [f"{export} --static{merge}", answer]


def _merge(point: Point, run_merge: int) -> str:
    one = point.candidate
    if not one.merge:
        return " --merge 0" if run_merge else ""
    return f" --merge {one.merge} --merge-schedule {one.merge_schedule}"


def _python(
    point: Point,
    run: str,
    image_size: tuple[int, int] | None,
    views: Views | None,
    max_drop: float,
) -> list[str]:
    """For what has no flag: another size, or other views."""
    one = point.candidate
    merging = [f"merge={one.merge}"]
    if one.merge:
        merging.append(f"merge_schedule={json.dumps(one.merge_schedule)}")
    lines = [
        "import dataclasses, sys, vitral as vt",
        f"run = vt.open({json.dumps(run)}, {', '.join(merging)})",
    ]
    if image_size is not None:
        lines.append(
            "run.preprocess = dataclasses.replace(run.preprocess, "
            f"image_size={image_size})"
        )
    if views is not None:
        lines.append(f"run.extra[{json.dumps('eval_views')}] = {json.dumps(views)}")
    tail = ""
    if one.runtime == "torch":
        lines.append(f"print(run.predict(sys.argv[1:], batch_size={one.batch}))")
        tail = " IMAGES..."
    elif one.runtime == "onnx":
        lines.append('print(vt.export.onnx(run, "model.onnx", static=True))')
    else:
        lines.append(
            'print(vt.export.openvino(run, "model_openvino", static=True, '
            f"precision={json.dumps(one.precision)}, max_drop={max_drop:g}))"
        )
    return [f"python -c {shlex.quote('; '.join(lines))}{tail}"]
