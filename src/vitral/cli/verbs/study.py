"""`vitral study NAME`: an experiment of the paper, with table, figure and verdict."""

from pathlib import Path
from typing import TYPE_CHECKING

from vitral.cli.flags import add_device_flag
from vitral.cli.logs import TRAINING, install_handler
from vitral.cli.parser import Parser
from vitral.cli.verbs import data_size

if TYPE_CHECKING:
    from vitral.studies import Study


def make_parser() -> Parser:
    parser = Parser(
        "study",
        "An experiment of the paper at a reachable size. `vitral study` alone lists "
        "them; `vitral study data-size --help` shows the study of your own data.",
        usage="NAME",
        common="--size --start --seeds --jobs --device --out",
        examples=(
            "position",
            "hybrid --size paper",
            "head --seeds 0 1 --jobs 2 --out studies/head",
        ),
    )
    parser.add("name", "", "none lists all")
    parser.add(
        "--size",
        "cpu",
        "cpu: minutes on two cores; paper: the recipe, its cost, and with --start "
        "the training",
        choices=("cpu", "paper"),
    )
    parser.add("--seeds", [0, 1, 2], "of the trainings")
    parser.add("--out", "", "default: studies/NAME")
    parser.add("--jobs", 0, "trainings at a time")
    add_device_flag(parser)
    parser.add("--start", False, "start --size paper", modes="paper")
    # Shown here too; what takes paths is read by a parser of its own.
    data_size.add_flags(parser)
    return parser


def run(argv: list[str]) -> None:
    """Train what the question needs, and write the answer's page."""
    if argv[:1] == [data_size.NAME]:
        data_size.run(argv[1:])
        return
    parser = make_parser()
    args = parser.parse(argv)
    if not args.name:
        _list_studies()
        return
    parser.refuse_given(
        "protocol fractions families data cache_dir",
        f"goes with `vitral study {data_size.NAME}`: leave it out.",
    )
    parser.require_read("--size", args.size)
    if args.size == "paper" and not args.start:
        parser.refuse_given(
            "jobs device",
            "goes with `--start`, and does nothing for the plan: leave it out.",
        )
    from vitral.studies import get_study
    from vitral.studies.engine import run_study, table_lines

    study = get_study(args.name)
    out = Path(args.out or f"studies/{study.name}-{args.size}")
    if args.size == "paper" and not args.start:
        _show_plan(study, args.seeds, out)
        return
    seeds = " ".join(map(str, args.seeds))
    install_handler(print, without=TRAINING)
    finished = run_study(
        study,
        out,
        size=args.size,
        seeds=args.seeds,
        jobs=args.jobs,
        device=args.device,
        command=f"vitral study {study.name} --size {args.size} --seeds {seeds}",
    )
    for line in table_lines(study, finished.table):
        print(line)
    print(finished.verdict)
    print(f"files: {finished.page}")
    print(f"next: vitral report {out}/runs/*")


def _list_studies() -> None:
    from vitral.studies import all_studies
    from vitral.studies.data_size import QUESTION

    questions = {study.name: study.question for study in all_studies().values()}
    for name, question in sorted({**questions, data_size.NAME: QUESTION}.items()):
        print(f"{name:12} {question}")
    print("next: vitral study NAME")


def _show_plan(study: "Study", seeds: list[int], out: Path) -> None:
    from vitral.studies.engine import describe_plan, write_recipes

    print(study.setting["paper"])
    for line in describe_plan(study, "paper", seeds):
        print(line)
    print(f"files: {write_recipes(study, 'paper', seeds, out)}")
    print(f"next: vitral study {study.name} --size paper --start --out {out}")
