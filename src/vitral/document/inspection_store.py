"""Storage of the best model's attention maps in inspection/ of a run folder."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vitral.atomic_io import write_atomic, write_json
from vitral.errors import ConfigError

FOLDER = "inspection"
FILE = f"{FOLDER}/report.json"
MAPS = f"{FOLDER}/report.npz"
_READ_ERRORS = (OSError, EOFError, zipfile.BadZipFile, ValueError, TypeError, KeyError)


@dataclass(frozen=True, kw_only=True)
class StoredInspection:
    """Content of report.json, and its maps."""

    document: dict[str, Any]
    maps: dict[str, Float[np.ndarray, "*frames rows columns"]]
    """By the id of the example."""

    @property
    def missing(self) -> str:
        """Reason why nothing could be computed; empty if something was."""
        return str(self.document.get("missing", ""))

    @property
    def has_frames(self) -> bool:
        """True for maps of clips."""
        return any(heat.ndim == 3 for heat in self.maps.values())

    def covers(self, split: str, ids: set[str]) -> bool:
        """Return whether it was computed for all these examples of this split."""
        tried = {*self.maps, *self.document.get("unreadable", [])}
        return not self.missing and self.document.get("split") == split and ids <= tried


def store(
    run: Path,
    document: dict[str, Any],
    maps: Float[np.ndarray, "images *frames rows columns"],
) -> None:
    """Write inspection/ of a run folder.

    Args:
        document: content of report.json; its `ids` are in the order of `maps`.
    """
    (run / FOLDER).mkdir(exist_ok=True)
    # A crash must not leave the old document with new maps.
    (run / FILE).unlink(missing_ok=True)
    target = io.BytesIO()
    np.savez(target, maps=maps.astype(np.float16))
    write_atomic(run / MAPS, target.getvalue())
    write_json(run / FILE, document)


def read(run: Path, document: dict[str, Any] | None) -> StoredInspection | None:
    """Return the stored maps with their document; None without a document.

    Raises:
        ConfigError: a file is damaged, or the two do not belong together.
    """
    if document is None:
        return None
    if "missing" in document:
        return StoredInspection(document=document, maps={})
    try:
        # From memory, because np.load leaves a damaged file open.
        content = io.BytesIO((run / MAPS).read_bytes())
        with np.load(content, allow_pickle=False) as stored:
            maps = stored["maps"].astype(np.float64)
        ids = [str(name) for name in document["ids"]]
        if maps.ndim not in (3, 4) or len(maps) != len(ids):
            raise ValueError(f"{len(ids)} ids, but maps of the shape {maps.shape}")
        if document.get("distance") is not None:
            layers = np.asarray(document["distance"]["layers"], dtype=np.float64)
            if layers.ndim != 2 or not np.isfinite(layers).all() or layers.min() < 0:
                raise ValueError("`distance.layers` is no table of distances")
    except _READ_ERRORS as error:
        raise ConfigError(
            f"{run / FOLDER} is damaged ({error}). Remove that folder and write the "
            "report again: it is then computed anew."
        ) from error
    return StoredInspection(document=document, maps=dict(zip(ids, maps, strict=True)))
