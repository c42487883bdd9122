"""`vitral models`: names, parameters, multiply-accumulates."""

import torch

from vitral.cli.parser import Parser
from vitral.models import config, create, names


def run(words: list[str]) -> None:
    """One line a model."""
    parser = Parser("models", "Names, parameters and multiply-accumulates.")
    parser.add_argument("filter", nargs="?", default="", help="part of the name")
    known = parser.read(words)
    print(f"{'name':16} {'parameters':>14} {'GMACs':>9}  image  source")
    for name in names():
        if known.filter not in name:
            continue
        with torch.device("meta"):
            count = sum(p.numel() for p in create(name).parameters())
        settings = config(name)
        side = settings.image_hw[0]
        source = "2010.11929" if name[4] in "blh" else "see docs/models.md"
        print(f"{name:16} {count:14,} {settings.macs() / 1e9:9.2f}  {side:5}  {source}")
    print("next: vitral train DATA --model NAME --out RUN")
