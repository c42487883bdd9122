"""Small shards: rectangular pictures whose red tells their number."""

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HEIGHT, WIDTH = 7, 9


def png(number: int) -> bytes:
    """A picture of one colour: red is the number modulo 256, green its 256s."""
    out = io.BytesIO()
    colour = (number % 256, number // 256, 200)
    Image.new("RGB", (WIDTH, HEIGHT), colour).save(out, "PNG")
    return out.getvalue()


def number_of(image: Image.Image) -> int:
    red, green, blue = (int(value) for value in np.asarray(image)[3, 4])
    assert blue == 200
    assert image.size == (WIDTH, HEIGHT)
    return red + 256 * green


def pack(
    file: Path, members: Sequence[tuple[str, bytes]], kind: int = tarfile.USTAR_FORMAT
) -> Path:
    """A tar file with these members, in this order."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=kind) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def labelled(
    numbers: Sequence[int],
    label: Callable[[int], Any] = lambda number: number % 3,
    suffix: str = "cls",
) -> list[tuple[str, bytes]]:
    """NUMBER.png and NUMBER.cls for each number."""
    members = []
    for number in numbers:
        members.append((f"{number:05d}.png", png(number)))
        members.append((f"{number:05d}.{suffix}", str(label(number)).encode()))
    return members


def pack_rows(
    file: Path,
    numbers: Sequence[int],
    label: Callable[[int], Any] | None = lambda number: number % 3,
    *,
    group: int = 4,
    metadata: bytes = b"",
) -> Path:
    """A Parquet or, by its suffix, Arrow file with the columns image and label."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pictures = [{"bytes": png(number), "path": None} for number in numbers]
    columns = {"image": pa.array(pictures, kind)}
    if label is not None:
        columns["label"] = pa.array([label(number) for number in numbers])
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata({b"huggingface": metadata})
    if file.suffix == ".parquet":
        pq.write_table(table, file, row_group_size=group)
    else:
        with pa.ipc.new_stream(str(file), table.schema) as writer:
            writer.write_table(table, max_chunksize=group)
    return file
