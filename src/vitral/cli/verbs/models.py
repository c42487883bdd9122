"""`vitral models`: names, parameters, multiply-accumulates, source."""

from vitral.cli.parser import Parser


def make_parser() -> Parser:
    parser = Parser(
        "models",
        "Names, parameters, multiply-accumulates, source.",
        usage="[FILTER]",
        examples=("", "s16", "timesformer"),
    )
    parser.add("filter", "", "part of the name")
    return parser


def run(argv: list[str]) -> None:
    """Print a line for each model."""
    args = make_parser().parse(argv)
    import torch

    from vitral.models import build_model, count_parameters, families

    print(f"{'name':16} {'parameters':>14} {'GMACs':>9}  image  source")
    for family in families().values():
        for name, settings in family.sizes.items():
            if args.filter not in name:
                continue
            config = family.config(**settings)
            with torch.device("meta"):
                count = count_parameters(build_model(config))
            print(
                f"{name:16} {count:14,} {config.macs() / 1e9:9.2f}  "
                f"{config.image_hw[0]:5}  arXiv {family.source}"
            )
    print("next: vitral train DATA --model NAME --out RUN")
