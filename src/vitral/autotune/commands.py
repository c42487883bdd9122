"""Shell commands that reproduce the chosen point by an export or the run itself."""

import json
import math
import shlex

from vitral.autotune.measurement import Point
from vitral.workflows.inference import Views

MAX_DROP = 0.5
"""Default of `--max-drop` of an export, in points."""
STATIC = "options = vt.export.ExportOptions(static=True)"
"""Line of Python that goes before an export."""


def commands(
    point: Point,
    run: str,
    *,
    run_size: tuple[int, int],
    run_merge: int = 0,
    views: Views | None = None,
    max_drop: float | None = None,
) -> list[str]:
    """Return shell commands in order; IMAGES... stands for the images to predict.

    Args:
        run_size: (height, width) of the run.
        run_merge: tokens that the run merges in each block.
        views: of an image, if they differ from the run's.
        max_drop: bound of the choice and of the export; None for the upper end of what
            the point may have lost.
    """
    candidate = point.candidate
    size = f"--batch-size {candidate.batch}"
    if max_drop is None:
        max_drop = max(MAX_DROP, float(math.ceil(point.drop_interval[1])))
    paths = {"torch": run, "onnx": "model.onnx", "openvino": "model_openvino"}
    target = shlex.quote(paths[candidate.runtime])
    predict = f"vitral predict {target} IMAGES... {size}"
    if candidate.image_size != run_size or views is not None:
        changed = candidate.image_size != run_size
        code = _python(
            point,
            run,
            image_size=candidate.image_size if changed else None,
            views=views,
            max_drop=max_drop,
        )
        return code if candidate.runtime == "torch" else [*code, predict]
    merge = _merge(point, run_merge)
    if candidate.runtime == "torch":
        return [f"vitral predict {target} IMAGES...{merge} {size}"]
    export = f"vitral export {shlex.quote(run)} {target}"
    if candidate.runtime == "openvino":
        export += " --to openvino"
    if candidate.precision != "fp32":
        export += f" --{candidate.precision}"
        if max_drop != MAX_DROP:
            export += f" --max-drop {max_drop:g}"
    return [f"{export} --static{merge}", predict]


def _merge(point: Point, run_merge: int) -> str:
    candidate = point.candidate
    if not candidate.merge:
        return " --merge 0" if run_merge else ""
    return f" --merge {candidate.merge} --merge-schedule {candidate.merge_schedule}"


def _python(
    point: Point,
    run: str,
    *,
    image_size: tuple[int, int] | None,
    views: Views | None,
    max_drop: float,
) -> list[str]:
    """Return Python code for what has no flag: another size, or other views."""
    candidate = point.candidate
    merging = [f"merge={candidate.merge}"]
    if candidate.merge:
        merging.append(f"merge_schedule={json.dumps(candidate.merge_schedule)}")
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
    if candidate.runtime == "torch":
        lines.append(f"print(run.predict(sys.argv[1:], batch_size={candidate.batch}))")
        tail = " IMAGES..."
    elif candidate.runtime == "onnx":
        lines += [STATIC, 'print(vt.export.onnx(run, "model.onnx", options))']
    else:
        lines.append(STATIC)
        lines.append(
            'print(vt.export.openvino(run, "model_openvino", options, '
            f"precision={json.dumps(candidate.precision)}, max_drop={max_drop:g}))"
        )
    return [f"python -c {shlex.quote('; '.join(lines))}{tail}"]
