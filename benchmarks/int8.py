"""int8 against timm's eager float32: speed, and accuracy on the run's test split.

    python benchmarks/int8.py runs/solar-cells --merge 16

timm gets the run's weights, and its logits are compared with ours first. All forms of
the model are interleaved on the same batches, two threads each; ratios are of medians.
Bounds: int8 at least 3.0 times timm at batch 8 with at most 0.5 points lost, with
merging at least 4.5 times within 1 point. Exits with 6 if one is missed. Calibration
and the choice of layers use train only.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src")]

import vitral as vt  # noqa: E402
from vitral.evaluation.compare import compare  # noqa: E402
from vitral.export.int8.bounded import quantize_within  # noqa: E402
from vitral.export.int8.calibration_data import draw_quantization_data, load_labeled  # noqa: E402
from vitral.export.int8.decisions import Decisions  # noqa: E402
from vitral.export.int8.layers import fold_constants  # noqa: E402
from vitral.export.int8.quantize import quantize  # noqa: E402
from vitral.export.precisions import measure_megabytes  # noqa: E402
from vitral.export.run_openvino import compile_model  # noqa: E402
from vitral.export.to_onnx import to_onnx  # noqa: E402
from vitral.export.to_openvino import to_openvino  # noqa: E402
from vitral.models import VisionModel, set_merge  # noqa: E402
from vitral.workflows.dataset import open_run_data  # noqa: E402

PredictFunction = Callable[[np.ndarray], np.ndarray]
TIMM = "timm eager float32"
TARGETS = {"OpenVINO int8": (3.0, 0.5), "OpenVINO int8 + merge": (4.5, 1.0)}
"""By form: smallest ratio to timm at batch 8, and most points lost."""


class Timm(nn.Module):
    """timm's model with our weights and the run's pooling."""

    def __init__(self, ours: VisionModel) -> None:
        super().__init__()
        import timm

        config = ours.config
        if config.embed_dim != 384 or config.patch_hw != (14, 14):
            sys.exit("this benchmark is of ViT-S/14: train benchmarks/elpv.py")
        self.pool = config.global_pool
        self.trunk = timm.create_model(
            "vit_small_patch14_dinov2", img_size=config.image_hw, num_classes=0
        )
        state = {k: v for k, v in ours.state_dict().items() if "head" not in k}
        self.trunk.load_state_dict(state)
        self.head = ours.head

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.trunk.forward_features(image)
        pooled = tokens[:, 0]
        if self.pool == "token_avg":
            pooled = torch.cat([pooled, tokens[:, 1:].mean(1)], dim=1)
        return self.head(pooled)


def eager(model: nn.Module) -> PredictFunction:
    def predict(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    return predict


@contextlib.contextmanager
def stage(text: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    print(f"{text}: {time.monotonic() - started:.0f} s", flush=True)


def build_forms(
    run: vt.Run, args: argparse.Namespace
) -> tuple[dict[str, PredictFunction], dict]:
    """Return each form of the model as a function of a batch, and its size on disk."""
    size = run.preprocess.image_size
    model = run.model.eval()
    predictors: dict[str, PredictFunction] = {TIMM: eager(Timm(model).eval())}
    predictors["vitral eager float32"] = eager(model)
    with stage("images of train"):
        sample = draw_quantization_data(run, check=args.check)
    with stage("graph"):
        graph = fold_constants(to_openvino(to_onnx(model, image_size=size)))
    with stage("int8 within 0.5 points on train"):
        int8 = quantize_within(graph, sample, Decisions(run.task, run.labels))
    print("\n".join(int8.report.lines()))
    set_merge(model, args.merge, args.merge_schedule)
    with stage(f"graph, {args.merge} tokens merged a block"):
        merged = fold_constants(to_openvino(to_onnx(model, image_size=size)))
    set_merge(model, 0)
    with stage("its int8"):
        merged_int8 = quantize(merged, sample.calibration.batches)
    graphs = {
        "OpenVINO float32": (graph, "fp32"),
        "OpenVINO bfloat16": (graph, "bf16"),
        "OpenVINO bfloat16 + merge": (merged, "bf16"),
        "OpenVINO int8": (int8.model, "int8"),
        "OpenVINO int8 + merge": (merged_int8, "int8"),
    }
    disk = {}
    for name, (model_graph, precision) in graphs.items():
        predictors[name] = compile_model(model_graph, precision, threads=args.threads)
        disk[name] = measure_megabytes(model_graph, precision)
    return predictors, disk


def medians(
    predictors: dict[str, PredictFunction], batch: np.ndarray, rounds: int
) -> dict:
    """Return median seconds of each form, interleaved."""
    for predict in predictors.values():
        predict(batch)
    times: dict[str, list[float]] = {name: [] for name in predictors}
    for _ in range(rounds):
        for name, predict in predictors.items():
            started = time.perf_counter()
            predict(batch)
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--merge", type=int, default=16)
    parser.add_argument("--merge-schedule", default="every_fourth")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", type=int, default=256, help="train images")
    parser.add_argument("--images", type=int, default=0, help="of test; 0 for all")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run = vt.open(args.run)
    predictors, disk = build_forms(run, args)
    dataset = open_run_data(run)
    chosen = dataset.select("test")[: args.images or None]
    test = load_labeled(dataset, "test", chosen, run.preprocess)
    batch = np.ascontiguousarray(test.batches[0][:8])
    difference = np.abs(
        predictors[TIMM](batch) - predictors["vitral eager float32"](batch)
    ).max()
    print(f"timm and vitral, the same weights: logits differ by {difference:.1e}")
    if difference > 1e-3:
        sys.exit("timm does not compute the same function: nothing to compare")
    speed = {
        size: medians(predictors, np.ascontiguousarray(batch[:size]), args.rounds)
        for size in (1, 8)
    }
    predictions = {}
    for name, predict in predictors.items():
        with stage(f"{name} on {len(test.ids)} test images"):
            predictions[name] = np.concatenate(
                [predict(b) for b in test.batches]
            ).argmax(1)
    print(
        "\n| form | MB | ms, batch 1 | times timm | ms, batch 8 | times timm | top-1 % "
        "| points lost | 95 % interval | same answer % |"
    )
    print("| --- |" + " ---: |" * 9)
    failed = 0
    verdicts = []
    for name in predictors:
        result = compare(predictions[TIMM], predictions[name], test.labels, run.classes)
        low, high = result.difference_interval
        drop = -100 * result.difference
        ratio = {size: speed[size][TIMM] / speed[size][name] for size in speed}
        same = 100 * float((predictions[name] == predictions[TIMM]).mean())
        print(
            f"| {name} | {disk.get(name, 0):.1f} | {1000 * speed[1][name]:.1f} "
            f"| {ratio[1]:.2f} | {1000 * speed[8][name]:.1f} | {ratio[8]:.2f} "
            f"| {100 * result.accuracy_b:.2f} | {drop:+.2f} "
            f"| {-100 * high:+.2f} to {-100 * low:+.2f} | {same:.1f} |"
        )
        if name in TARGETS:
            min_ratio, max_drop = TARGETS[name]
            met = ratio[8] >= min_ratio and drop <= max_drop
            failed += not met
            verdicts.append(
                f"{name}: {ratio[8]:.2f} times timm at batch 8, at least {min_ratio} "
                f"asked; {drop:+.2f} points lost, at most {max_drop} allowed: "
                f"{'met' if met else 'NOT MET'}"
            )
    print("\n" + "\n".join(verdicts))
    return 6 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
