"""`vitral demo`: the main job end to end on scikit-learn's digits."""

import time
from dataclasses import replace
from pathlib import Path

from vitral.cli.logs import install_handler, say, set_log_folder
from vitral.cli.parser import Parser
from vitral.errors import ConfigError


def make_parser() -> Parser:
    parser = Parser(
        "demo",
        "Train a small ViT from zero on 1,797 digits of 8 x 8 pixels.",
        examples=("", "--out runs/first", "--seed 1"),
    )
    parser.add("--out", "", "folder; by default a new one")
    parser.add("--seed", 0, "of everything that is random")
    return parser


def run(argv: list[str]) -> None:
    """Train a small ViT_C from zero, measure it, write the report."""
    args = make_parser().parse(argv)
    out = Path(args.out) if args.out else _new_folder(Path("runs"), "demo")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"The output folder {out} is in use: give another `--out`.")
    out.mkdir(parents=True, exist_ok=True)
    set_log_folder(out)
    install_handler(say)
    import torch

    import vitral.recipes
    from vitral.cli.output import summary_lines
    from vitral.workflows.train import train

    started = time.monotonic()
    config = replace(vitral.recipes.small.scratch("digits"), seed=args.seed)
    say(
        "demo: a small Vision Transformer with a convolutional stem, trained from zero "
        "on scikit-learn's digits; a fifth of them is kept for the test"
    )
    # The model is tiny: a second thread gains nothing, and where something else is
    # computing, threads that wait for each other make it many times slower.
    torch.set_num_threads(1)
    finished = train(config, out)
    for line in summary_lines(finished):
        say(line)
    say(f"done in {time.monotonic() - started:.0f} s")


def _new_folder(parent: Path, name: str) -> Path:
    if not (parent / name).exists():
        return parent / name
    index = 2
    while (parent / f"{name}-{index}").exists():
        index += 1
    return parent / f"{name}-{index}"
