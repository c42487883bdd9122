"""ResNet against ViT on growing data sets (arXiv 2010.11929, figure 4).

Models of about equal compute are trained from zero on nested subsets with one recipe.
The subsets are tables with PNG images in the study's folder; the data is only read.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import vitral.data
from vitral import plots
from vitral.data import Dataset, Example
from vitral.errors import ConfigError, DataError
from vitral.studies.engine import (
    TINY,
    TINY_RESNET,
    ModelVariant,
    ResultTable,
    Trial,
    TrialScheduler,
    build_table,
    command_lines,
    describe_leaders,
    describe_machine,
    detail_lines,
    markdown_table,
    nested_order,
    small_config,
    subset_sizes,
    total_cpu_seconds,
    write_files,
    write_image_table,
)
from vitral.workflows import TrainConfig

HELD_OUT = {"test": 0.4, "val": 0.1}
STEPS = 400
DISPLAY_NAMES = {"vit": "ViT", "resnet": "ResNet"}
MODELS = {"vit": ModelVariant("vit_ti7", TINY), "resnet": TINY_RESNET}
"""Each about 2.4 million multiply-accumulates per image."""
QUESTION = (
    "Which family learns most from few images and which from many, ResNet or Vision "
    "Transformer, at about equal compute?"
)
SOURCE = "arXiv 2010.11929, figure 4"


@dataclass(frozen=True, slots=True)
class FamiliesPlan:
    """Trials of the study, with the sizes of the subsets."""

    trials: list[Trial]
    sizes: tuple[int, ...]
    families: tuple[str, ...]
    test_images: int


def plan_families(
    families: Sequence[str],
    data: str,
    seeds: Sequence[int],
    *,
    fractions: Sequence[float],
    folder: Path,
) -> FamiliesPlan:
    """Write the subsets of each seed, and list a trial per size and family.

    Each seed has its own split: 40 % test, 10 % val to choose the best step, and the
    rest for the subsets. Val and test are the same for all sizes.

    Args:
        fractions: of the rest; empty for six sizes in equal ratios.
        folder: gets `tables/`.

    Raises:
        ConfigError: an unknown family, fewer than two, or no seed.
        DataError: several labels per image, an image that cannot be decoded, or a class
            with too few images.
    """
    unknown = [family for family in families if family not in MODELS]
    if unknown or len(set(families)) < 2 or len(set(families)) < len(families):
        raise ConfigError(
            f"`families` compares two or more of {', '.join(MODELS)}: got "
            f"{', '.join(families) or 'none'}."
        )
    if not seeds:
        raise ConfigError("`seeds` needs one seed at least.")
    dataset = vitral.data.open(data)
    if any(len(item.label) != 1 or item.target for item in dataset.examples):
        raise DataError(
            f"The images of {dataset.name} have several labels each; this study "
            "compares families with one label an image."
        )
    tables = folder / "tables"
    trials: list[Trial] = []
    for seed in seeds:
        parts = _split(dataset, seed)
        labels = np.array([example.label[0] for example in parts["train"]])
        sizes = subset_sizes(labels, dataset.classes, fractions)
        order = nested_order(labels, seed)
        for size in sizes:
            subset = [parts["train"][row] for row in order[:size]]
            table = write_image_table(
                tables, f"seed-{seed}-{size}", dataset, {**parts, "train": subset}
            )
            trials += [
                Trial(
                    row=f"{size:,} images",
                    column=DISPLAY_NAMES[family],
                    seed=seed,
                    config=_config(family, table, seed),
                )
                for family in families
            ]
    names = tuple(DISPLAY_NAMES[family] for family in families)
    return FamiliesPlan(trials, sizes, names, len(parts["test"]))


def families_verdict(plan: FamiliesPlan, table: ResultTable) -> str:
    """Compare the families at each size, and with the paper's figure 4."""
    sentences = describe_leaders(
        plan.families,
        plan.sizes,
        lambda first, second, size: table.difference(
            (f"{size:,} images", first), (f"{size:,} images", second)
        ),
    )
    return (
        " ".join(sentences) + " In the paper ResNets are ahead after pre-training on 9 "
        "million images, and ViTs from 90 million on; these are tiny models on a few "
        "thousand, so only the direction can be compared."
    )


def _config(family: str, table: Path, seed: int) -> TrainConfig:
    variant = MODELS[family]
    config = small_config(
        str(table),
        seed,
        model=variant.model,
        changes=variant.changes,
        steps=STEPS,
        lr=3e-3,
    )
    return replace(config, loop=replace(config.loop, eval_every=50))


def _split(dataset: Dataset, seed: int) -> dict[str, list[Example]]:
    """Draw a stratified split, ignoring the data set's own splits."""
    labels = np.array([example.label[0] for example in dataset.examples])
    order = nested_order(labels, 1_000_003 + seed)
    parts: dict[str, list[Example]] = {}
    first = 0
    for name, share in HELD_OUT.items():
        last = first + round(share * len(order))
        parts[name] = [dataset.examples[row] for row in order[first:last]]
        first = last
    parts["train"] = [dataset.examples[row] for row in order[first:]]
    return parts


@dataclass(frozen=True, slots=True)
class FamiliesResult:
    """Result of the comparison."""

    table: ResultTable
    lines: list[str]
    """The table in Markdown."""
    verdict: str
    page: Path


def run_families_study(
    families: Sequence[str],
    data: str,
    out: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    fractions: Sequence[float] = (),
    jobs: int = 1,
    device: str = "auto",
    command: str = "",
) -> FamiliesResult:
    """Train every family on every subset and write the page into `out`.

    Finished trainings of an earlier start are not repeated.

    Args:
        jobs: trainings at a time.
        command: the command line that repeats it, for the page.

    Raises:
        VitralError: raised by the plan or a training.
    """
    folder = Path(out)
    started = time.monotonic()
    plan = plan_families(families, data, seeds, fractions=fractions, folder=folder)
    done = TrialScheduler(folder, jobs, device).run(plan.trials)
    table, names = build_table(plan.trials, done), plan.families
    verdict = families_verdict(plan, table)
    rows = [
        [f"{size:,}", *(str(table.cell_stats(f"{size:,} images", f)) for f in names)]
        for size in plan.sizes
    ]
    marks = ["---:"] * (len(names) + 1)
    lines = markdown_table(["training images", *names], rows, marks)
    plot = _figure(plan, table, data)
    text = [
        f"# Study: data-size, families on {data}",
        "",
        f"{QUESTION} Asked in {SOURCE}.",
        "",
        f"**Verdict.** {verdict}",
        "",
        f"![{plot.alt}](families.png)",
        "",
        *lines,
        "",
        "Test accuracy in per cent, mean ± standard deviation over "
        f"{len(seeds)} seeds; each seed splits anew and has its own nested subsets. "
        "The paper has a graph only, of 5-shot accuracy after pre-training on parts of "
        "JFT-300M, so no number of it stands beside ours.",
        "",
        "## How it was made",
        "",
        f"Every model is trained from zero for {STEPS} updates of "
        f"{plan.trials[0].config.batch_size} images with the same settings, whatever "
        "the size of its subset; the best step on the same val images is measured on "
        f"the same {plan.test_images:,} test images.",
        "",
        *command_lines(command),
        "",
        f"{len(plan.trials)} trainings, {total_cpu_seconds(done):.0f} s of one "
        f"core in all, {time.monotonic() - started:.0f} s by the clock, on "
        f"{describe_machine()}.",
        "",
        *detail_lines(table),
    ]
    result = {
        "study": "data-size families",
        "data": data,
        "verdict": verdict,
        "command": command,
        "seeds": list(seeds),
        "sizes": list(plan.sizes),
        "test_images": plan.test_images,
        "machine": describe_machine(),
        "table": table.to_dict(),
    }
    page = write_files(folder, "families", plot, text, result)
    return FamiliesResult(table, lines, verdict, page)


def _figure(plan: FamiliesPlan, table: ResultTable, data: str) -> plots.Plot:
    series = {}
    for family in plan.families:
        runs = {size: table.results[f"{size:,} images", family] for size in plan.sizes}
        series[family] = plots.DataSizeSeries(
            [size for size, group in runs.items() for _ in group],
            [run.accuracy for group in runs.values() for run in group],
        )
    return plots.data_size_curves(series, title=f"Trained from zero on parts of {data}")
