"""Fixtures that several files use.

vitral is imported inside of them: jaxtyping's hook, which checks the types in tests,
is installed after this file is read."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

# No test asks the network for weights, nor sees those of the developer.
os.environ["VITRAL_OFFLINE"] = "1"
os.environ["VITRAL_CACHE"] = "/nonexistent/vitral"


@pytest.fixture
def no_report() -> Iterator[None]:
    """Trainings of the test end without their report."""
    from run_folders import without_report

    with without_report():
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny tensors: two threads would wait for each other, and a fork for both."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def stopped_decoder() -> Iterator[None]:
    """The process that decodes clips ends with the test."""
    from vitral.data.video import decoder_client

    yield
    decoder_client.close()


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB or of the parameter, which needs the rights to mount."""
    size = getattr(request, "param", "2m")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("there is no mount command here")
    command = [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def dinov2() -> Path:
    """DINOv2's ViT-S/14, where a machine has it."""
    shared = Path(__file__).parents[2] / "shared"
    file = shared / "weights" / "dinov2_vits14.safetensors"
    if not file.is_file():
        pytest.skip("the DINOv2 ViT-S/14 weights are not on this machine")
    return file


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Eight photos a class in train, val and test; nobody may write into it."""
    from photos import contents, make_photos

    root = make_photos(tmp_path_factory.mktemp("data") / "photos", per_class=8)
    before = contents(root)
    yield root
    assert contents(root) == before


@pytest.fixture(scope="session")
def few_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six train and three val photos a class: for runs that only have to end."""
    from photos import make_photos

    root = tmp_path_factory.mktemp("few") / "few"
    make_photos(root, splits=("train",), per_class=6)
    return make_photos(root, splits=("val",), per_class=3)


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny ViT with random values in every parameter."""
    from helpers import TINY, randomise
    from vitral.data import Preprocess
    from vitral.models import ViT, ViTConfig
    from vitral.weights import save

    folder = tmp_path_factory.mktemp("weights") / "tiny"
    model = ViT(ViTConfig(**TINY))
    randomise(model)
    save(folder, model, Preprocess(image_size=(48, 80)))
    return folder


@pytest.fixture(scope="session")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small run with its report, for all who only read: others take `run_copy`."""
    from photos import contents, tiny_config
    from vitral.workflows.runtime import Runtime
    from vitral.workflows.train import train

    # What the last of its blocks merges no class token sees: hence a third.
    config = tiny_config(photos, loop={"steps": 12}, model_changes={"depth": 3})
    out = tmp_path_factory.mktemp("runs") / "my run"
    train(config, out, runtime=Runtime(device="cpu"))
    before = contents(out)
    yield out
    assert contents(out) == before


@pytest.fixture
def run_copy(run: Path, tmp_path: Path) -> Path:
    """A copy of `run` that a test may change."""
    return Path(shutil.copytree(run, tmp_path / "copy"))
