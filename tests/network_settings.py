"""Settings of the network and of the caches for tests that run their own server."""

from pathlib import Path

import pytest


def use_own_network(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """No pauses, a short patience, own caches, and the network of this machine."""
    monkeypatch.setattr(
        "vitral.weights.zoo.retry.pause_before_retry", lambda error, failures: 0.0
    )
    for name, value in {
        "VITRAL_TIMEOUT": "0.25",
        "VITRAL_CACHE": str(folder / "cache"),
        "VITRAL_OFFLINE": "0",
        "HF_HOME": str(folder / "hf"),
        "TORCH_HOME": str(folder / "torch"),
        "NO_PROXY": "127.0.0.1,localhost",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
