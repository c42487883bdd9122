"""`vitral convert IN OUT --to LAYOUT`: weights from one layout to another."""

from vitral.cli.parser import Parser
from vitral.errors import ConfigError, WeightsError

LAYOUTS = {
    "big_vision": "big_vision",
    "big_vision_scan": "big_vision_scan",
    "bit": "BiT",
    "dino": "DINOv2",
    "google": "vision_transformer",
    "huggingface": "Hugging Face",
    "huggingface_aimv2": "Hugging Face AIMv2",
    "huggingface_beit": "Hugging Face BEiT",
    "huggingface_bit": "Hugging Face BiT",
    "huggingface_clip": "Hugging Face CLIP",
    "huggingface_dinov3": "Hugging Face DINOv3",
    "huggingface_timesformer": "Hugging Face TimeSformer",
    "mae": "MAE",
    "native": "vitral",
    "openclip": "OpenCLIP",
    "simple_vit": "vit-pytorch SimpleViT",
    "timesformer": "TimeSformer",
    "timm": "timm",
    "timm_aimv2": "timm AIMv2",
    "timm_beit": "timm BEiT",
    "timm_dinov3": "timm DINOv3",
    "timm_eva": "timm EVA",
    "tnt": "TNT",
    "torchvision": "torchvision",
    "vit_pytorch": "vit-pytorch",
}
"""Titles of `vitral.weights.available_layouts()`."""


def make_parser() -> Parser:
    parser = Parser(
        "convert",
        "Write weights in another layout, with a line per tensor; the file is read "
        "again and compared bit by bit. Layouts: "
        + ", ".join(f"{name} ({title})" for name, title in LAYOUTS.items()),
        usage="IN OUT --to LAYOUT",
        examples=(
            "W.npz W.safetensors --to timm",
            "W.safetensors --explain",
            "W.pth model --to native --num-heads 6 --grid 14 14",
        ),
    )
    parser.add("source IN", str, "a file, a folder or a hub id")
    parser.add("out OUT", "", "to make")
    parser.add("--to LAYOUT", "", "its layout")
    parser.add(
        "--explain", False, "say what IN is, whether it would load and what is missing"
    )
    parser.add(
        "--grid ROWS COLUMNS",
        int,
        "of the position table, where the file cannot tell",
        nargs=2,
    )
    parser.add("--num-heads", int, "where the file cannot tell")
    parser.add(
        "--set FIELD=VALUE",
        [str],
        "settings that no tensor shows, in place of those assumed, such as "
        "global_pool=avg",
        action="extend",
    )
    return parser


def run(argv: list[str]) -> None:
    """Convert with a line per tensor, or describe a file."""
    args = make_parser().parse(argv)
    grid = None if args.grid is None else (args.grid[0], args.grid[1])
    if args.explain:
        if args.out or args.to:
            raise ConfigError(
                "`--explain` says what IN is and writes nothing: leave OUT and `--to` "
                "out, or leave `--explain` out to convert."
            )
        _explain(args.source, grid, args.num_heads)
        return
    if not args.out or not args.to:
        raise ConfigError(
            "A conversion needs OUT and `--to LAYOUT`; `--explain` says what IN is."
        )
    from vitral.cli.train_config import parse_assignment
    from vitral.tasks import describe_extra
    from vitral.weights import convert

    made = convert(
        args.source,
        args.out,
        args.to,
        grid=grid,
        num_heads=args.num_heads,
        settings=dict(map(parse_assignment, args.set)),
        describe=describe_extra,
    )
    print(made.ledger)
    print(made.ledger.summary().splitlines()[0])
    print(f"files: {made.path}, read again and found bit-equal")
    print(f"next: vitral convert {made.path} --explain")


def _explain(source: str, grid: tuple[int, int] | None, num_heads: int | None) -> None:
    from vitral.weights import explain

    description = explain(source, grid=grid, num_heads=num_heads)
    print(description)
    if description.problem:
        raise WeightsError(f"{source} would not load: {description.problem}")
    print(f"next: vitral train DATA --weights {source} --out RUN")
