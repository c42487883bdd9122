"""Bounds of the benchmark on two cores, and whether a result meets them.

Every bound is on a ratio of medians of one run, or on megabytes.
"""

from typing import Any

PEER_EAGER = 1.0
EXACT = 1.1
STEP = 1.0
CHECKPOINTED = 0.6
LOADING = 1.3
IMPORT_SECONDS = 0.1
HELP_SECONDS = 1.0


def targets(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one entry per bound that the result has figures for."""
    entries: list[dict[str, Any]] = []
    for cell in result.get("inference", []):
        where = f"{cell['model']}, batch {cell['batch']}"
        entries += _inference(cell, where)
    for cell in result.get("training", []):
        fastest = _fastest(cell, "peer")
        if fastest:
            entries.append(
                _at_least(
                    f"training step of {cell['model']}, batch {cell['batch']}: times "
                    f"as fast as the fastest peer ({fastest['name']})",
                    1 / fastest["ratio"],
                    STEP,
                )
            )
    for cell in result.get("loading", []):
        for peer in _select_rows(cell, "peer"):
            text = f"loading JPEG files: times as fast as {peer['name']}"
            entries.append(_at_least(text, 1 / peer["ratio"], LOADING))
    for cell in result.get("memory", []):
        entries += _memory(cell)
    for cell in result.get("startup", []):
        seconds = {row["name"]: row["seconds"] for row in cell["rows"]}
        for name, bound in (
            ("import vitral", IMPORT_SECONDS),
            ("vitral --help", HELP_SECONDS),
        ):
            if name in seconds:
                entries.append(_at_most(f"{name}: seconds", seconds[name], bound))
    return entries


def _inference(cell: dict[str, Any], where: str) -> list[dict[str, Any]]:
    fastest = _fastest(cell, "peer")
    if fastest is None:
        return []
    comparison = f"times as fast as the fastest peer ({fastest['name']})"
    # Every peer's ratio is to the vitral model with its function.
    eager = 1 / fastest["ratio"]
    entries = [_at_least(f"inference of {where}: {comparison}", eager, PEER_EAGER)]
    exact = _fastest(cell, "exact")
    if exact:
        best = exact["ratio"] * eager
        text = f"inference of {where} through {exact['name']}: {comparison}"
        entries.append(_at_least(text, best, EXACT))
    return entries


def _memory(cell: dict[str, Any]) -> list[dict[str, Any]]:
    peak = {row["name"]: row["peak_mb"] for row in cell["rows"]}
    if "timm" not in peak:
        return []
    where = f"training {cell['model']}, batch {cell['batch']}"
    entries = []
    for name, bound in (("vitral", 1.0), ("vitral, checkpointed", CHECKPOINTED)):
        text = f"memory of {where}: {name}, as a share of timm's peak"
        entries.append(_at_most(text, peak[name] / peak["timm"], bound))
    return entries


def _select_rows(cell: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [row for row in cell["rows"] if row["kind"] == kind]


def _fastest(cell: dict[str, Any], kind: str) -> dict[str, Any] | None:
    rows = _select_rows(cell, kind)
    return max(rows, key=lambda row: row["ratio"]) if rows else None


def _at_least(text: str, value: float, bound: float) -> dict[str, Any]:
    return {"text": text, "value": value, "bound": f">= {bound}", "met": value >= bound}


def _at_most(text: str, value: float, bound: float) -> dict[str, Any]:
    return {"text": text, "value": value, "bound": f"<= {bound}", "met": value <= bound}
