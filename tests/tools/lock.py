"""Write requirements.lock: every package with its version and the hash of its file.

    python tests/tools/lock.py

pip resolves the package with the extras of its users, under constraints.txt, on this
machine: the hashes are those of the files for its system and its Python.
"""

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXTRAS = "export,serve,video,hf,studies"
LOCK = ROOT / "requirements.lock"


def resolve(folder: Path) -> dict[str, Any]:
    """Return pip's report on an installation into an empty environment."""
    report = folder / "report.json"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet"),
            *("--ignore-installed", "--report", str(report)),
            *("-c", str(ROOT / "constraints.txt"), f"{ROOT}[{EXTRAS}]"),
        ],
        check=True,
    )
    return dict(json.loads(report.read_text("utf-8")))


def format_lock(report: dict[str, Any]) -> str:
    """Return the lines of a requirements file with hashes, in the order of names."""
    entries = []
    for item in report["install"]:
        hashes = item["download_info"].get("archive_info", {}).get("hashes", {})
        if not hashes:
            continue  # the project itself, which is a folder
        name, version = item["metadata"]["name"].lower(), item["metadata"]["version"]
        entries.append(
            f"{name.replace('_', '-')}=={version} --hash=sha256:{hashes['sha256']}"
        )
    system = f"{platform.system()} {platform.machine()}"
    python = ".".join(platform.python_version_tuple()[:2])
    head = [
        f"# For {system} and Python {python}; `python tests/tools/lock.py` makes it.",
        "# pip install --require-hashes -r requirements.lock",
        "# pip install --no-deps .",
    ]
    return "\n".join([*head, *sorted(entries)]) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        LOCK.write_text(format_lock(resolve(Path(made))), encoding="utf-8")
