"""Download weights from the Hugging Face hub, through huggingface_hub and its cache."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vitral.errors import MissingExtraError, WeightsError
from vitral.weights.files import read_index

ID = re.compile(r"(?:hf-hub:|hf_hub:)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
TENSORS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names of tensor files, the preferred first."""
CONFIG_FILES = ("config.json", "preprocessor_config.json")
FILE_ENDINGS = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt", ".tar")


def is_id(text: str) -> bool:
    """Return whether `text` may be `owner/name`, with or without `@revision`.

    A file name, or a path in an existing folder, is a mistyped path: no network access.
    """
    match = ID.fullmatch(text)
    if match is None or text.startswith((".", "/")):
        return False
    return not text.endswith(FILE_ENDINGS) and not Path(text).parent.is_dir()


def fetch(text: str) -> Path:
    """Return the folder of a hub id, from the local cache or downloaded into it.

    A cached model is used without network access: a model that loaded yesterday loads
    today. A newer state has another revision. HF_HUB_OFFLINE=1 limits it to the cache.
    """
    match = ID.fullmatch(text)
    assert match is not None
    name, revision = match.groups()
    get = partial(_fetch_first, text, name, revision)
    for cached in (True, False):
        tensors = get(TENSORS, cached=cached)
        if tensors is not None:
            if tensors.name.endswith(".index.json"):
                _fetch_parts(text, tensors, get)
            for file in CONFIG_FILES:
                if get((file,), cached=True) is None and not cached:
                    get((file,), cached=False)
            return tensors.parent
    raise WeightsError(
        f"No weights at {text}: it is no path here, and neither the hub nor its cache "
        f"gave {' or '.join(TENSORS)}. Check the id; with HF_HUB_OFFLINE=1 only the "
        "cache is asked."
    )


def _fetch_parts(text: str, index: Path, get: Callable[..., Path | None]) -> None:
    """Fetch the files that an index names into its folder of the cache."""
    for part in sorted(set(read_index(index, present=False).values())):
        if get((part,), cached=True) is None and get((part,), cached=False) is None:
            raise WeightsError(
                f"{text}: {part}, which {index.name} names, cannot be fetched from the "
                "hub. Try again with a network."
            )


def _fetch_first(
    text: str, name: str, revision: str | None, files: tuple[str, ...], *, cached: bool
) -> Path | None:
    """Return the path of the first of `files` that the model has, or None.

    Args:
        cached: look in the cache alone.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise MissingExtraError(
            f"`{text}` is no path, and to fetch it from the hub huggingface_hub must "
            "be installed: pip install 'vitral[hf]'."
        ) from error
    for file in files:
        try:
            return Path(
                hf_hub_download(name, file, revision=revision, local_files_only=cached)
            )
        except LocalEntryNotFoundError:
            # Not cached. After a failed request the next one would wait as long again.
            if not cached:
                return None
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise WeightsError(
                f"{text} cannot be fetched from the hub: {_first_line(error)} Check "
                "the id, or give a file that is here."
            ) from error
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
