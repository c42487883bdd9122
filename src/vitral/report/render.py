"""HTML report of one or several run folders.

The file needs no network, script or other file: the content security policy names the
style sheet by its hash, and pictures are data URIs. The same run gives the same bytes.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from vitral.atomic_io import write_atomic
from vitral.document import PageBudget, PictureSources, RunFolder, flatten
from vitral.errors import ConfigError
from vitral.report.compare_runs import compare
from vitral.report.load_run import load_run_folder, task_of, verdict_of
from vitral.report.pages import render_page
from vitral.report.sections import attention_section, details
from vitral.tasks import Result

PICTURE_BUDGET = 1_400_000  # characters of photographs in the whole file
SAMPLE_SHARE = 0.2  # of the budget for training images; answers take the rest
FIRST_SECTIONS = (
    ("reproduce", "Reproduce"),
    ("data", "Data"),
    ("training", "Training"),
)
ATTENTION_SECTION = ("attention", "Attention")
LAST_SECTIONS = (("model", "Model"), ("events", "Events"))
MOST_TABLE_ROWS = 1000  # of the tables of classes in the file


def write_html(
    runs: Sequence[Path],
    out: Path,
    images: Callable[[Path, str], Image.Image | None] | None = None,
    samples: Callable[[Path], Sequence[tuple[Image.Image, str]]] | None = None,
    *,
    views: Callable[[Path, str], Image.Image | None] | None = None,
) -> Path:
    """Write the report of one run, or of several side by side, to `out`.

    Args:
        runs: run folders, in the order of the report.
        out: the HTML file; a missing folder is created.
        images: function of a run and an example id that returns the image of an answer,
            or None if it cannot be loaded.
        samples: function of a run that returns a few preprocessed training images, each
            with a caption.
        views: as `images`, for the preprocessed images under the maps.

    Raises:
        ConfigError: no run was given, or one is not a run or is damaged.
    """
    if not runs:
        raise ConfigError("a report needs at least one run folder: got none.")
    folders = [load_run_folder(Path(run)) for run in runs]
    pages = [
        _page(folder, _picture_sources(folder, images, views), samples, len(folders))
        for folder in folders
    ]
    html = render_page(
        "report.html.j2",
        "report.css",
        title=", ".join(folder.name for folder in folders),
        pages=pages,
        comparison=compare(folders) if len(folders) > 1 else None,
    )
    # A lone surrogate of a file's name or of a stranger's JSON cannot be written.
    html = html.encode("utf-8", "replace").decode()
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, html)
    return out


def _picture_sources(
    run: RunFolder[Result],
    images: Callable[[Path, str], Image.Image | None] | None,
    views: Callable[[Path, str], Image.Image | None] | None,
) -> PictureSources:
    return PictureSources(
        partial(images, run.path) if images is not None else None,
        partial(views, run.path) if views is not None else None,
    )


def _page(
    run: RunFolder[Result],
    sources: PictureSources,
    samples: Callable[[Path], Sequence[tuple[Image.Image, str]]] | None,
    num_runs: int,
) -> dict[str, Any]:
    """Return the variables of the template for one run."""
    task = task_of(run)
    reporter = task.reporter()
    for_samples = int(SAMPLE_SHARE * PICTURE_BUDGET)
    most_rows = MOST_TABLE_ROWS // num_runs
    budget = PageBudget((PICTURE_BUDGET - for_samples) // num_runs, most_rows)
    answers = reporter.sections(run, sources, budget)
    pictures = samples(run.path) if samples is not None else ()
    result = run.results.get(run.headline_split or "")
    return {
        "name": run.name,
        "links": [
            *FIRST_SECTIONS,
            *((section.id, section.title) for section in answers),
            *([ATTENTION_SECTION] if task.has_answers else []),
            *LAST_SECTIONS,
        ],
        "subtitle": _subtitle(run),
        "verdict": verdict_of(run, reporter),
        "gauge": None if result is None else reporter.gauge(result),
        # Lines break between options.
        "command": re.split(r" (?=--)", run.command) if run.command else [],
        "versions": details.versions(run),
        "settings": flatten(run.config),
        "has_environment": run.environment is not None,
        "data": details.data_section(run, pictures, for_samples // num_runs, most_rows),
        "training": details.training_section(run),
        "answers": answers,
        "attention": attention_section(run) if task.has_answers else None,
        "model": details.model_section(run),
        "events": details.events(run),
        "problems": run.problems,
    }


def _subtitle(run: RunFolder[Result]) -> list[str]:
    values = {name: run.setting(name) for name in ("model", "data", "recipe", "seed")}
    values["model"] = run.model_name
    values["data"] = str((run.data or {}).get("name") or values["data"])
    return [f"{name} {value}" for name, value in values.items() if value]
