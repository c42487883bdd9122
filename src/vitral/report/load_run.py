"""Run folder with the results of its task, and who writes about them."""

from dataclasses import replace
from pathlib import Path

from vitral.document import (
    Remark,
    RunFolder,
    Verdict,
    read_run_folder,
)
from vitral.progress import unfinished_sentence
from vitral.report.baselines import Baselines
from vitral.tasks import (
    ObjectiveConfig,
    Result,
    Task,
    get_task,
    objectives,
    read_result,
)
from vitral.tasks import tasks as all_tasks
from vitral.tasks.reporter import Reporter


def load_run_folder(folder: Path) -> RunFolder[Result]:
    """Read a run folder.

    Raises:
        ConfigError: it is not a run folder, or one of its files is damaged.
    """
    return read_run_folder(folder, read_result)


def verdict_of(run: RunFolder[Result], reporter: Reporter) -> Verdict:
    """Return the main sentence about a run; one that did not end says so first.

    A baseline that is ahead comes next, and all baselines last.
    """
    verdict, sentence = reporter.verdict(run), unfinished_sentence(run.path)
    baselines = Baselines.read(run.path)
    ahead = "" if baselines is None else baselines.ahead(run.results)
    first = [
        Remark("warning", [_capitalize(words)]) for words in (sentence, ahead) if words
    ]
    last = [] if baselines is None else [Remark("plain", [_capitalize(str(baselines))])]
    return replace(verdict, remarks=[*first, *verdict.remarks, *last])


def _capitalize(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith('.') else '.'}"


def task_of(run: RunFolder[Result]) -> Task:
    """Return the task of a run: that of its results, else of its objective."""
    for result in run.results.values():
        for task in all_tasks().values():
            if isinstance(result, task.results):
                return task
    settings = run.config.get("objective")
    name = settings.get("name") if isinstance(settings, dict) else None
    return get_task(objectives().get(str(name), ObjectiveConfig).TASK)
