"""Where a run finds itself: folders that are read-only, vanish or lie elsewhere; an
output that is closed; a home that is not there; names with spaces and umlauts."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from photos import make_photos
from tiny_fit import batches_of, config_of, images
from tiny_fit import run as fit_tiny
from vitral.cli import main
from vitral.errors import ConfigError, WeightsError
from vitral.training import CheckpointStore

SOURCE = Path(__file__).parents[1] / "src"


def test_a_folder_on_a_read_only_disk(tmp_path, capsys):
    """Root may write anywhere but there; for others a folder's permissions do it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("there is no mount command here")
    options = ["-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder)]
    done = subprocess.run(
        [mount, *options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
    try:
        with pytest.raises(ConfigError, match="choose another output folder"):
            CheckpointStore(folder / "checkpoints").prepare()
        words = ["train", "digits", "--out", str(folder / "run"), "--model", "vit_mu4"]
        assert main([*words, "--recipe", "small.scratch"]) == 2
        said = capsys.readouterr().err
        assert "cannot be written" in said
        assert "choose another `--out`" in said
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_vanishes(tmp_path):
    folder = tmp_path / "run"

    def batches(epoch, start):
        for index, batch in enumerate(batches_of(images())(epoch, start)):
            if (epoch, start + index) == (0, 4):
                shutil.rmtree(folder)
            yield batch

    with pytest.raises(WeightsError, match=r"step 6 could not be written .* No such"):
        fit_tiny(folder, batches=batches)
    assert not folder.exists()


def test_a_rename_that_fails(tmp_path, monkeypatch):
    """As between two devices, or on a network folder: the old checkpoint stays."""
    rename = Path.rename

    def refused(self, target):
        if self.name.startswith(".new-step-00000006"):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(WeightsError, match="cross-device link"):
        fit_tiny(tmp_path)
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.latest() == (3, ())
    assert [path.name for path in store.folder.iterdir()] == ["step-00000003"]
    monkeypatch.undo()
    assert fit_tiny(tmp_path, resume=True, config=config_of()).step == 23


def test_a_closed_output_a_missing_home_and_long_names(tmp_path):
    """`vitral train ... | head -1` trains to its end."""
    root = tmp_path / ("mit Leerzeichen und ü " + "x" * 150)
    photos = make_photos(root / "Bilder, ä", splits=("train", "val"), per_class=4)
    out = root / ("läuf " + "y" * 150)
    words = ["train", str(photos), "--out", str(out), "--model", "vit_mu16", "--set"]
    words += ["depth=1", "embed_dim=8", "mlp_dim=12", "num_heads=2", "--image-size"]
    words += ["32", "48", "--steps", "2", "--warmup", "0", "--device", "cpu"]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(SOURCE),
        "OMP_NUM_THREADS": "1",
        "HOME": "/nowhere",
        "LC_ALL": "C",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "vitral", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"task: ")
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert (out / "report.html").is_file()
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["event"] == "final"
    assert "next: vitral predict" in (out / "log.txt").read_text()
