"""`vitral models`: names, parameters, multiply-accumulates, source."""

import torch

from vitral.cli.parser import Parser
from vitral.models import build_model, families


def run(argv: list[str]) -> None:
    """One line a model."""
    parser = Parser("models", "Names, parameters, multiply-accumulates, source.")
    parser.add_argument("filter", nargs="?", default="", help="part of the name")
    known = parser.parse(argv)
    print(f"{'name':16} {'parameters':>14} {'GMACs':>9}  image  source")
    for family in families().values():
        for name, settings in family.sizes.items():
            if known.filter not in name:
                continue
            config = family.config(**settings)
            with torch.device("meta"):
                count = sum(p.numel() for p in build_model(config).parameters())
            print(
                f"{name:16} {count:14,} {config.macs() / 1e9:9.2f}  "
                f"{config.image_hw[0]:5}  arXiv {family.source}"
            )
    print("next: vitral train DATA --model NAME --out RUN")
