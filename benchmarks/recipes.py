"""Print the table of docs/recipes.md: settings and cost of each pre-training recipe.

Run: `python benchmarks/recipes.py`. It needs no data: the figures are those of
`vitral train DATA --recipe NAME --dry-run`.
"""

import inspect
import re

import vitral.recipes
from vitral.recipes.table import format_scientific
from vitral.workflows.cost.plan import estimate

HEADER = (
    "| recipe | data | updates x batch | parameters | MACs an image | operations "
    "| state | an image | paper |"
)
UNDER = "|---|---|---:|---:|---:|---:|---:|---:|---|"
PERCENT = re.compile(r"reports ([\d.]+) %")


def row(name: str, data: str) -> str:
    """Return one recipe as a row of Markdown."""
    config = vitral.recipes.get_recipe(name)(data, "")
    cost = estimate(config)
    work, memory = cost.work, cost.memory
    state = memory.total - memory.activations
    reported = PERCENT.search(config.expected)
    cells = (
        f"`{name}`",
        data,
        f"{work.updates:,} x {work.batch_size:,}",
        f"{work.parameters:,}",
        f"{work.macs / 1e9:.2f}e9",
        format_scientific(work.flops),
        f"{state / 2**30:.2f}",
        f"{memory.activations / memory.microbatch_size / 2**20:.0f}",
        reported[1] if reported else "graph",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    print(HEADER)
    print(UNDER)
    for name, recipe in vitral.recipes.RECIPES.items():
        text = inspect.getdoc(recipe) or ""
        of_a_paper = "not run here" in " ".join(text.split())
        match = re.search(r"^Command: `vitral train (\w+) ", text, re.M)
        if of_a_paper and match and name != "mae.linear":  # which needs real weights
            print(row(name, match[1]), flush=True)


if __name__ == "__main__":
    main()
