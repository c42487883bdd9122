"""vitral.data.shards.tar: against Python's tarfile, cut files, and files made to do
harm."""

import io
import os
import random
import tarfile
import time
from pathlib import Path

import pytest

from shard_files import labelled, pack
from vitral.data.shards.tar import BLOCK, TarContents, read_contents

CASES = int(os.environ.get("VITRAL_FUZZ", "2000"))


def contents(file: Path) -> TarContents:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        return read_contents(descriptor)
    finally:
        os.close(descriptor)


def read(file: Path) -> dict[str, bytes]:
    """Every member's bytes, cut out of the file by our offsets."""
    whole = file.read_bytes()
    found = contents(file)
    assert found.fault == ""
    return {
        member.name: whole[member.offset : member.offset + member.size]
        for member in found.members
    }


MEMBERS = [
    ("a/0001.jpg", b"x" * 511),
    ("./b.cls", b"7"),
    ("empty.json", b""),
    ("d" * 90 + "/" + "e" * 120 + ".png", b"y" * 513),
    ("größe.txt", b"z" * 1024),
]


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_tarfile_writes_is_read(kind, tmp_path):
    file = pack(tmp_path / "x.tar", MEMBERS, kind)
    with tarfile.open(file) as archive:
        by_tarfile = {
            info.name.removeprefix("./"): archive.extractfile(info).read()
            for info in archive
        }
    assert read(file) == by_tarfile
    assert list(read(file).values()) == [content for _, content in MEMBERS]


def test_the_prefix_of_posix_names(tmp_path):
    name = "p" * 120 + "/" + "q" * 60 + ".jpg"
    file = pack(tmp_path / "x.tar", [(name, b"1234567")], tarfile.USTAR_FORMAT)
    assert read(file) == {name: b"1234567"}


def test_links_devices_and_names_that_lead_out(tmp_path):
    file = tmp_path / "x.tar"
    with tarfile.open(file, "w") as archive:
        for name, kind, target in (
            ("hard.jpg", tarfile.LNKTYPE, "/etc/passwd"),
            ("soft.jpg", tarfile.SYMTYPE, "../../etc/passwd"),
            ("char.jpg", tarfile.CHRTYPE, ""),
            ("block.jpg", tarfile.BLKTYPE, ""),
            ("fifo.jpg", tarfile.FIFOTYPE, ""),
            ("folder", tarfile.DIRTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        for name in ("/etc/x.jpg", "a/../../x.jpg", "a\nb.jpg", "", "good.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    found = contents(file)
    assert found.fault == ""
    assert [member.name for member in found.members] == ["good.jpg"]
    assert found.ignored == [
        ("hard.jpg", "a hard link; links are not followed"),
        ("soft.jpg", "a symbolic link; links are not followed"),
        ("char.jpg", "a device"),
        ("block.jpg", "a device"),
        ("fifo.jpg", "a pipe (FIFO)"),
        ("/etc/x.jpg", "its name leads out of the archive"),
        ("a/../../x.jpg", "its name leads out of the archive"),
        (r"'a\nb.jpg'", "its name is not UTF-8, or holds control characters"),
        ("", "without a name"),
    ]


def test_sparse_files_are_named(tmp_path):
    file = tmp_path / "x.tar"
    old = tarfile.TarInfo("old.jpg")
    old.type = tarfile.GNUTYPE_SPARSE
    new = tarfile.TarInfo("new.jpg")
    new.size = 3
    new.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "new.jpg"}
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(old)
        archive.addfile(new, io.BytesIO(b"abc"))
    found = contents(file)
    assert [name for name, _ in found.ignored] == ["old.jpg", "new.jpg"]
    assert all("sparse" in reason for _, reason in found.ignored)
    assert found.members == []


def test_sizes_beyond_eight_gigabytes_and_in_pax_records(tmp_path):
    big = tarfile.TarInfo("big.jpg")
    big.size = 9 << 30
    file = tmp_path / "x.tar"
    file.write_bytes(big.tobuf(tarfile.GNU_FORMAT))
    assert contents(file).fault == (
        f"the file is cut off in big.jpg: {(9 << 30) + 512:,} bytes are needed, 512 "
        "are there"
    )
    file.write_bytes(big.tobuf(tarfile.PAX_FORMAT))
    assert f"{(9 << 30) + 1536:,} bytes are needed" in contents(file).fault


@pytest.mark.parametrize("cut", range(0, 12 * BLOCK, 97))
def test_a_cut_file_gives_the_members_before_the_cut(cut, tmp_path):
    file = pack(tmp_path / "x.tar", labelled(range(3)), tarfile.USTAR_FORMAT)
    ends = [member.offset + member.size for member in contents(file).members]
    assert len(ends) == 6
    file.write_bytes(file.read_bytes()[:cut])
    found = contents(file)
    assert len(found.members) == sum(end <= cut for end in ends)
    assert found.fault


def test_what_ends_a_file(tmp_path):
    file = pack(tmp_path / "x.tar", [("a.jpg", b"abc")])
    assert file.stat().st_size == 10240
    whole = file.read_bytes()
    file.write_bytes(whole[:1024])
    assert "ends without an end mark" in contents(file).fault
    file.write_bytes(whole + whole)
    assert contents(file).fault.startswith(
        "there is something behind the end mark at byte 1,024, such as a second tar"
    )
    file.write_bytes(b"")
    assert contents(file).fault == "the file is empty"
    file.write_bytes(b"\xff\xd8 not a tar file" * 100)
    assert contents(file).fault == "the header at byte 0 is damaged (wrong checksum)"


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """A tar file with a few of its header bytes changed, checksums often put right."""
    data = bytearray(whole)
    headers = [at for at in range(0, len(data) - BLOCK, BLOCK) if data[at + 257] == 117]
    for _ in range(rng.randint(1, 4)):
        at = rng.choice(headers)
        start, end = rng.choice(
            [(0, 100), (124, 136), (148, 156), (156, 157), (257, 265), (345, 500)]
        )
        place = at + rng.randrange(start, end)
        data[place] = rng.choice([0, 32, 47, 48, 55, 128, 255, rng.randrange(256)])
        if rng.random() < 0.3:
            data[at + 156] = rng.choice(b"0123456Lx7SKgVMDA\0")
        if rng.random() < 0.2:
            size = rng.choice([0, 1, 511, 513, 65_537, 1 << 33, (1 << 95) - 1])
            data[at + 124 : at + 136] = b"\x80" + size.to_bytes(12, "big")[1:]
        if rng.random() < 0.8:
            block = data[at : at + BLOCK]
            block[148:156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    if rng.random() < 0.2:
        del data[rng.randrange(len(data)) :]
    if rng.random() < 0.1:
        place = rng.randrange(len(data) + 1)
        data[place:place] = rng.randbytes(rng.randrange(1, 600))
    return bytes(data)


def test_damaged_headers_end_in_members_inside_the_file(tmp_path):
    seeds = [
        pack(tmp_path / "a.tar", labelled(range(4)), tarfile.USTAR_FORMAT),
        pack(tmp_path / "b.tar", MEMBERS, tarfile.GNU_FORMAT),
        pack(tmp_path / "c.tar", MEMBERS, tarfile.PAX_FORMAT),
    ]
    wholes = [seed.read_bytes()[: 20 * BLOCK] for seed in seeds]
    rng = random.Random(5)
    file = tmp_path / "damaged.tar"
    outcomes = set()
    for case in range(CASES):
        data = damaged(wholes[case % 3], rng)
        file.write_bytes(data)
        found = contents(file)
        outcomes.add(" ".join(found.fault.split()[:4]))
        for member in found.members:
            assert 0 <= member.offset <= member.offset + member.size <= len(data)
            assert member.name
            assert not member.name.startswith("/")
            assert ".." not in member.name.split("/")
            assert member.name.isprintable()
            assert data[member.offset - BLOCK + 156] in b"0\x007"
        assert all(name.isprintable() for name, _ in found.ignored)
        assert len(found.members) + len(found.ignored) <= len(data) // BLOCK
    assert len(outcomes) > 5  # the mutator reaches more than the checksum


def test_many_pax_records_take_linear_time(tmp_path):
    """10,000 records a header, as extended ones and as common ones of all members."""
    records = b"".join(b"5 %c=\n" % (97 + i % 26) for i in range(10_000))
    path = b"19 path=real/7.jpg\n"
    records += path

    def header(name: str, kind: bytes, size: int) -> bytes:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, size
        return info.tobuf(tarfile.USTAR_FORMAT)

    body = records.ljust(-(-len(records) // BLOCK) * BLOCK, b"\0")
    common = b"".join(b"14 k%05d=abc\n" % i for i in range(4_600))
    common_body = common.ljust(-(-len(common) // BLOCK) * BLOCK, b"\0")
    file = tmp_path / "a.tar"
    with file.open("wb") as out:
        out.write(header("g", b"g", len(common)) + common_body)
        for number in range(60):
            out.write(header("x", b"x", len(records)) + body)
            out.write(header(f"{number}.jpg", b"0", 0))
        out.write(b"\0" * 2 * BLOCK)
    start = time.monotonic()
    found = contents(file)
    assert time.monotonic() - start < 6
    assert found.fault == ""
    assert {member.name for member in found.members} == {"real/7.jpg"}
    assert len(found.members) == 60
