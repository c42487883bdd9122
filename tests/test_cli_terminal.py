"""What is printed reaches a terminal without control characters of files."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vitral.cli.terminal import escape_controls

COMMAND = (sys.executable, "-P", "-m", "vitral")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index, name in enumerate(("a\x1b[2Jb", "c\u202ed", "plain")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (index * 90, 5, 5)).save(folder / "0.png")
    return tmp_path / "photos"


def _in_terminal(*words: str) -> bytes:
    shown = b""
    owner, terminal = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *words], stdout=terminal, stderr=terminal, stdin=subprocess.DEVNULL
    ) as process:
        os.close(terminal)
        while True:
            try:
                part = os.read(owner, 65536)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            shown += part
    os.close(owner)
    assert process.returncode == 0, shown
    return shown


def test_names_of_files_do_not_steer_a_terminal(photos: Path):
    shown = _in_terminal("data", "check", str(photos))
    assert b"\x1b" not in shown
    assert b"a\\x1b[2Jb" in shown
    assert "\u202e".encode() not in shown
    assert b"\\u202e" in shown


def test_a_pipe_gets_the_names_as_they_are(photos: Path):
    done = subprocess.run(
        [*COMMAND, "data", "check", str(photos)], capture_output=True, check=True
    )
    assert b"a\x1b[2Jb" in done.stdout


def test_ordinary_text_stays_as_it_is():
    text = "Größe\t3 × 4, 猫 🐈\n"
    assert escape_controls(text) == text
    assert escape_controls("\r\x07\x9b") == "\\r\\x07\\x9b"
