"""Weights by their id on the model hub, through huggingface_hub and its cache."""

import re
from pathlib import Path

from vitral.errors import MissingExtraError, WeightsError

ID = re.compile(r"(?:hf-hub:|hf_hub:)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
WANTED = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "pytorch_model.bin",
)
TENSORS = WANTED[2:]
FILE_ENDINGS = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt", ".tar")


def is_id(text: str) -> bool:
    """Whether this could be `owner/name`, perhaps with `@revision`.

    What names a file, or starts with a folder that is here, is a path with a mistake:
    nothing is asked of the network for it.
    """
    match = ID.fullmatch(text)
    if match is None or text.startswith((".", "/")):
        return False
    return not text.endswith(FILE_ENDINGS) and not Path(text).parent.is_dir()


def fetch(text: str) -> Path:
    """The folder of a hub id, from the local cache or downloaded into it.

    With HF_HUB_OFFLINE=1 only the cache is asked. Revisions are content addresses, so
    a cached file is never stale under its own revision.

    Raises:
        WeightsError: there is no such model, or it cannot be reached.
        MissingExtraError: huggingface_hub is not installed.
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
    match = ID.fullmatch(text)
    assert match is not None
    name, revision = match.groups()
    found: list[Path] = []
    for file in WANTED:
        if file == TENSORS[1] and any(path.name == TENSORS[0] for path in found):
            continue
        try:
            found.append(Path(hf_hub_download(name, file, revision=revision)))
        except (LocalEntryNotFoundError, EntryNotFoundError):
            continue
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise WeightsError(
                f"{text} cannot be fetched from the hub: {_first_line(error)} Check "
                "the id, or give a file that is here."
            ) from error
    if not any(path.name in TENSORS for path in found):
        raise WeightsError(
            f"No weights at {text}: it is no path here, and neither the hub nor its "
            f"cache gave {' or '.join(TENSORS)}. Check the id; with HF_HUB_OFFLINE=1 "
            "only the cache is asked."
        )
    return found[-1].parent


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
