"""Standard streams that are closed or full: a sentence and an exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")


def run(words: str, redirections: str) -> subprocess.CompletedProcess[str]:
    command = f'"{sys.executable}" -m vitral {words} {redirections}'
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60
    )


@pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("words", ["--help", "models s16", "convert --help"])
def test_a_full_output_is_named(words):
    done = run(words, f"> {FULL}")
    assert done.returncode == 4
    assert "the standard output cannot be written (No space left" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", ["--help", "models s16"])
def test_a_closed_output_is_nobody_who_reads(words):
    done = run(words, ">&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("redirections", ["2>&-", f"2>{FULL}", "2>&- >&- <&-"])
@pytest.mark.parametrize("words", ["nosuch", "report /no/run"])
def test_an_error_keeps_its_code_and_stays_off_the_output(words, redirections):
    done = run(words, redirections)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_closed_number_is_not_given_to_a_file(tmp_path):
    """Else a library that writes to stderr writes into the next file."""
    code = (
        "from vitral.cli.streams import open_closed_streams\n"
        "open_closed_streams()\n"
        f"print(open({str(tmp_path / 'a')!r}, 'w').fileno() > 2)\n"
    )
    command = ["bash", "-c", f'"{sys.executable}" -c "{code}" 2>&- <&-']
    assert subprocess.run(command, capture_output=True, text=True).stdout == "True\n"
