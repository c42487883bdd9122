"""The header of a .npy array: NumPy's own, and hostile ones."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitral.cli import main
from vitral.data.video import open_clip
from vitral.errors import ImageError
from vitral.npy_header import parse_npy_header, read_npy_header

ATTACKS = Path(__file__).parents[2] / "shared" / "cases" / "attacks"
TYPES = ("<f4", ">f8", "<f2", "|u1", "|b1", "<i8", "|V2", "<c16", "=i4", "<U12")
GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
BAD = {
    "descr is a tuple": GOOD.replace("'<f4'", "()"),
    "structured": GOOD.replace("'<f4'", "[('a', '<f4')]"),
    "keys of two types": GOOD.replace("'shape'", "1"),
    "open bracket": GOOD[:-2] + "(",
    "negative": GOOD.replace("2", "-9000"),
    "a list as a key": GOOD.replace("'shape'", "[1]"),
    "triple quote": GOOD.replace("'descr'", "'''descr"),
    "indent": GOOD + "\n  a\n b",
    "code": GOOD.replace("(2, 3)", "__import__('os')"),
    "nested": GOOD.replace("(2, 3)", "(" * 5000 + ")" * 5000),
    "twice": GOOD.replace("'descr'", "'shape': (1,), 'descr'"),
    "missing": "{'descr': '<f4', 'shape': (2, 3), }",
    "extra": GOOD.replace("}", "'a': 1}"),
    "a type that is none": GOOD.replace("<f4", "<q9"),
    "huge": GOOD.replace("2, 3", ", ".join(["9999999999"] * 3)),
    "many axes": GOOD.replace("2, 3", ", ".join(["1"] * 40)),
    "long": GOOD + " " * 20_000,
    "nothing": "",
}


def header_bytes(text: str) -> bytes:
    body = text.encode("latin-1")
    return b"\x93NUMPY\x02\x00" + len(body).to_bytes(4, "little") + body


@settings(max_examples=200, deadline=None)
@given(
    shape=st.lists(st.integers(0, 2**20), max_size=3),
    name=st.sampled_from(TYPES),
    fortran=st.booleans(),
)
def test_numpy_reads_the_same(shape: list[int], name: str, fortran: bool):
    fields = {"descr": name, "fortran_order": fortran, "shape": tuple(shape)}
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, fields)
    stream.write(b"values")
    stream.seek(6 + 2)
    expected = np.lib.format.read_array_header_1_0(stream)
    stream.seek(0)
    header = read_npy_header(stream)
    assert (header.shape, header.fortran_order, header.dtype) == expected
    assert (
        header.nbytes == int(np.prod(shape, dtype=np.int64)) * np.dtype(name).itemsize
    )
    assert stream.read() == b"values"


@settings(max_examples=500, deadline=None)
@given(st.integers(0, len(GOOD)), st.text(max_size=6), st.integers(0, 6))
def test_a_changed_header_is_read_or_refused(at: int, text: str, cut: int):
    changed = GOOD[:at] + text + GOOD[at + cut :]
    try:
        header = parse_npy_header(changed)
    except ValueError:
        return
    assert len(header.shape) <= 32
    assert header.nbytes >= 0


def test_other_writers_order_and_suffixes():
    text = '{"shape": (2L,3L), "fortran_order": True, "descr": "<f4"}'
    assert parse_npy_header(text) == ((2, 3), True, np.dtype("<f4"))
    assert parse_npy_header(GOOD.replace("2, 3", "")).shape == ()


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_hostile_header_is_a_sentence(name: str, tmp_path: Path, capsys):
    """From weights exit 4, from a clip an unreadable file."""
    with pytest.raises(ValueError, match=r"header|NumPy"):
        read_npy_header(io.BytesIO(header_bytes(BAD[name])))
    file = tmp_path / "hostile.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("frames.npy", header_bytes(BAD[name]))
    assert main(["convert", str(file), "--explain"]) == 4
    said = capsys.readouterr().err
    assert "member frames.npy" in said
    assert "unexpected" not in said
    with pytest.raises(ImageError, match=r"it cannot be read as an \.npz"):
        open_clip(file)


@pytest.mark.skipif(not ATTACKS.is_dir(), reason="needs the hostile files")
@pytest.mark.parametrize("file", sorted(ATTACKS.glob("n*.npz")), ids=lambda f: f.stem)
def test_the_hostile_files(file: Path, capsys):
    assert main(["convert", str(file), "--explain"]) == 4
    said = capsys.readouterr().err
    assert "unexpected" not in said
    assert "\x1b" not in said


@pytest.mark.parametrize("name", ["times", "fps"])
def test_times_that_claim_gigabytes_are_not_unpacked(name: str, tmp_path: Path):
    frames, claim = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array(frames, np.zeros((4, 8, 8, 3), np.uint8))
    fields = {"descr": "<f8", "fortran_order": False, "shape": (2**29,)}
    np.lib.format.write_array_header_1_0(claim, fields)
    with zipfile.ZipFile(tmp_path / "clip.npz", "w") as archive:
        archive.writestr("frames.npy", frames.getvalue())
        archive.writestr(f"{name}.npy", claim.getvalue())
    with pytest.raises(
        ImageError, match=rf"its array {name} must hold .*\[536870912\]"
    ):
        open_clip(tmp_path / "clip.npz")
