"""`vitral study NAME`: an experiment of the paper, with table, figure and verdict."""

from pathlib import Path

from vitral.cli.logs import TRAINING, install_handler
from vitral.cli.parser import Parser
from vitral.cli.verbs import data_size
from vitral.studies import Study, all_studies, get_study
from vitral.studies.data_size import NAME as DATA_SIZE
from vitral.studies.data_size import QUESTION
from vitral.studies.engine import describe_plan, run_study, table_lines, write_recipes


def run(argv: list[str]) -> None:
    """Train what the question needs, and write the answer's page."""
    if argv[:1] == [DATA_SIZE]:
        data_size.run(argv[1:])
        return
    parser = Parser("study", "An experiment of the paper at a reachable size.")
    parser.add_argument("name", nargs="?", default="", help="none lists all")
    parser.add_argument(
        "--size",
        choices=("cpu", "paper"),
        default="cpu",
        help="cpu: minutes on two cores; paper: the recipe, its cost, and with --start "
        "the training",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default="", help="default: studies/NAME")
    parser.add_argument("--jobs", type=int, default=0, help="trainings at a time")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--start", action="store_true", help="start --size paper")
    # Shown here too; what takes paths is read by a parser of its own.
    data_size.add_flags(parser)
    known = parser.parse(argv)
    if not known.name:
        _list_studies()
        return
    study = get_study(known.name)
    out = Path(known.out or f"studies/{study.name}-{known.size}")
    if known.size == "paper" and not known.start:
        _show_plan(study, known.seeds, out)
        return
    seeds = " ".join(map(str, known.seeds))
    install_handler(print, without=TRAINING)
    finished = run_study(
        study,
        out,
        size=known.size,
        seeds=known.seeds,
        jobs=known.jobs,
        device=known.device,
        command=f"vitral study {study.name} --size {known.size} --seeds {seeds}",
    )
    for line in table_lines(study, finished.table):
        print(line)
    print(finished.verdict)
    print(f"files: {finished.page}")
    print(f"next: vitral report {out}/runs/*")


def _list_studies() -> None:
    questions = {study.name: study.question for study in all_studies().values()}
    for name, question in sorted({**questions, DATA_SIZE: QUESTION}.items()):
        print(f"{name:12} {question}")
    print("next: vitral study NAME")


def _show_plan(study: Study, seeds: list[int], out: Path) -> None:
    print(study.setting["paper"])
    for line in describe_plan(study, "paper", seeds):
        print(line)
    print(f"files: {write_recipes(study, 'paper', seeds, out)}")
    print(f"next: vitral study {study.name} --size paper --start --out {out}")
