"""Starts commands with one state of the source, in a folder of their own."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = "vitral"
SECONDS = 600
"""After which a command counts as hung."""


class JobError(Exception):
    """A command that did not end as it should; the text says which and how."""


@dataclass
class Side:
    """One state of the source, and the folder that its commands run in."""

    name: str
    source: Path
    folder: Path
    words: dict[str, str] = field(default_factory=dict)
    """What this side calls a setting that the jobs call otherwise."""

    def environment(self) -> dict[str, str]:
        own = {
            "PYTHONPATH": str(self.source),
            "PYTHONSAFEPATH": "1",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "MPLCONFIGDIR": str(self.folder.parent / "matplotlib"),
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
        }
        return os.environ | own

    def spell(self, word: str) -> str:
        """A word of a command as this side writes it: --some-flag or field=value."""
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            if name not in self.words:
                return word
            return f"--{self.words[name].replace('_', '-')}"
        name, equal, value = word.partition("=")
        return f"{self.words.get(name, name)}={value}" if equal else word

    def start(self, *words: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
        command = [sys.executable, *launcher, "-m", PACKAGE]
        return subprocess.Popen(
            [*command, *map(self.spell, words)],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *words: str,
        code: int = 0,
        keep: str = "",
        launcher: tuple[str, ...] = (),
    ) -> None:
        """Run a command to its end; `keep` names a file for what it prints."""
        process = self.start(*words, launcher=launcher)
        try:
            answer, errors = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            answer, errors = process.communicate()
        if process.returncode != code:
            raise JobError(describe_failure(words, process.returncode, errors))
        if keep:
            self.write(keep, answer)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(str(self.folder), "."))


def describe_failure(words: tuple[str, ...], code: int | None, errors: str) -> str:
    last = "\n".join(f"    {line}" for line in errors.strip().splitlines()[-8:])
    return f"`{PACKAGE} {' '.join(words)}` ended with {code}:\n{last}"
