"""Weights files that were made to do harm: refused in one line, and nothing ran."""

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitral.errors import WeightsError
from vitral.weights.files import open_file

SOURCE = Path(__file__).parents[1] / "src"
CANARY = "canary"


def everything(path: Path) -> dict[str, torch.Tensor]:
    file = open_file(path)
    return {name: file.read(name) for name in file.names()}


def refusal(path: Path) -> str:
    """The message with which `path` is refused, by opening or by reading all of it."""
    with pytest.raises(WeightsError) as caught:
        everything(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 700
    assert str(path) in message
    assert caught.value.exit_code == 4
    return message


def text(value: str) -> bytes:
    content = value.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def number(value: int) -> bytes:
    content = pickle.encode_long(value)
    return b"\x8a" + bytes([len(content)]) + content


def plain(value: Any) -> bytes:
    """A value as pickle protocol 2 writes it, without PROTO and STOP."""
    if isinstance(value, bytes):
        return value  # opcodes already
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return number(value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if value is None:
        return b"N"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(plain, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(plain, value)) + b"e"
    items = b"".join(plain(k) + plain(v) for k, v in value.items())
    return b"}(" + items + b"u"


def glob(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def whole(*parts: Any) -> bytes:
    return b"\x80\x02" + b"".join(map(plain, parts)) + b"."


def call(name: str, *arguments: Any) -> bytes:
    return glob(name) + plain(arguments) + b"R"


def torch_zip(path: Path, content: bytes, **members: bytes) -> Path:
    """A zip as torch.save makes it, with storage 0 of 24 bytes and `members`."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", np.arange(6, dtype=np.float32).tobytes())
        archive.writestr("archive/version", b"3\n")
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def storage(
    kind: str = "torch.FloatStorage", key: Any = "0", numel: Any = 6, *more: Any
) -> bytes:
    return plain(("storage", glob(kind), key, "cpu", numel, *more)) + b"Q"


def tensor(
    shape: Any = (2, 3),
    stride: Any = (3, 1),
    offset: Any = 0,
    hooks: Any = b"ccollections\nOrderedDict\n)R",
    claim: bytes | None = None,
    more: tuple[Any, ...] = (),
) -> bytes:
    place = storage() if claim is None else claim
    name = "torch._utils._rebuild_tensor_v2"
    return call(name, place, offset, shape, stride, False, hooks, *more)


SHELL = f"echo ran > {CANARY}"
CODE = f"__import__('pathlib').Path('{CANARY}').touch()"
CALLS: dict[str, tuple[Any, ...]] = {
    "os.system": (SHELL,),
    "posix.system": (SHELL,),
    "nt.system": (SHELL,),
    "os.popen": (SHELL,),
    "os.execvp": ("touch", ["touch", CANARY]),
    "os.remove": (CANARY,),
    "subprocess.Popen": (["touch", CANARY],),
    "subprocess.check_output": (["touch", CANARY],),
    "subprocess.getoutput": (SHELL,),
    "builtins.eval": (CODE,),
    "builtins.exec": (CODE,),
    "__builtin__.eval": (CODE,),
    "__builtin__.execfile": (CANARY,),
    "builtins.compile": (CODE, "x", "exec"),
    "builtins.__import__": ("antigravity",),
    "builtins.getattr": ("x", "get"),
    "builtins.open": (CANARY, "w"),
    "builtins.bytearray": (10**13,),
    "builtins.breakpoint": (),
    "builtins.range": (10**13,),
    "_io.FileIO": (CANARY, "w"),
    "io.open": (CANARY, "w"),
    "pathlib.Path": (CANARY,),
    "importlib.import_module": ("antigravity",),
    "imp.load_source": ("x", CANARY),
    "ctypes.CDLL": ("libc.so.6",),
    "runpy.run_path": (CANARY,),
    "runpy._run_code": (CODE, {}),
    "webbrowser.open": ("http://localhost",),
    "socket.create_connection": (("localhost", 1),),
    "urllib.request.urlopen": ("http://localhost",),
    "shutil.rmtree": (CANARY,),
    "shutil.copyfile": (CANARY, CANARY),
    "tempfile.mkdtemp": (),
    "pty.spawn": ("sh",),
    "timeit.timeit": ("pass", CODE),
    "cProfile.run": (CODE,),
    "profile.run": (CODE,),
    "pdb.run": (CODE,),
    "bdb.Bdb": (),
    "code.interact": (),
    "trace.Trace": (),
    "doctest.debug_script": (CODE,),
    "asyncio.create_subprocess_shell": (SHELL,),
    "multiprocessing.Process": (),
    "threading.Thread": (),
    "_thread.start_new_thread": (),
    "signal.alarm": (1,),
    "sys.exit": (0,),
    "logging.config.fileConfig": (CANARY,),
    "torch.load": (CANARY,),
    "torch.hub.load": ("someone/something", "x"),
    "torch.jit.load": (CANARY,),
    "torch.utils.cpp_extension.load_inline": ("x", "int x;"),
    "torch._inductor.codecache.PyCodeCache.load": (CODE,),
    "torch.storage._load_from_bytes": ("x",),
    "torch._utils._rebuild_qtensor": (),
    "torch._utils._rebuild_wrapper_subclass": (),
    "torch._utils._rebuild_device_tensor_from_numpy": (),
    "torch._tensor._rebuild_from_type_v2": (),
    "torch.nn.modules.linear.Linear": (3, 2),
    "numpy.load": (CANARY,),
    "numpy.f2py.compile": ("x",),
    "numpy.testing._private.utils.runstring": (CODE, {}),
    "numpy._core.multiarray._reconstruct": (),
    "numpy.ndarray": (),
    "functools.partial": ("x",),
    "functools.reduce": (),
    "operator.attrgetter": ("system",),
    "operator.methodcaller": ("system", SHELL),
    "types.CodeType": (),
    "types.FunctionType": (),
    "pickle.loads": (CODE,),
    "_pickle.loads": (CODE,),
    "dill._dill._create_function": (),
    "cloudpickle.cloudpickle._make_function": (),
    "joblib.numpy_pickle.NumpyArrayWrapper": (),
    "marshal.loads": (CODE,),
    "copyreg._reconstructor": ("x", "y", None),
    "copyreg.add_extension": ("os", "system", 1),
    "collections.Counter": ("aaa",),
    "collections.defaultdict": ("x",),
    "atexit.register": ("x",),
    "site.main": (),
    "pip._internal.main": (["install", "x"],),
    "idlelib.run.Executive": (),
    "lib2to3.pgen2.grammar.Grammar": (),
    "ssl.get_server_certificate": (("localhost", 1),),
}


def forms(name: str, arguments: tuple[Any, ...]) -> dict[str, bytes]:
    """The call of `name` by every opcode that makes one."""
    module, _, attribute = name.rpartition(".")
    given = plain(arguments)
    inside = b"".join(map(plain, arguments))
    stack = plain(module) + plain(attribute) + b"\x93"
    line = f"{module}\n{attribute}\n".encode()
    return {
        "REDUCE": whole(glob(name) + given + b"R"),
        "STACK_GLOBAL": b"\x80\x04" + stack + given + b"R.",
        "dotted": b"\x80\x04"
        + plain(module.split(".")[0])
        + plain(name.partition(".")[2])
        + b"\x93"
        + given
        + b"R.",
        "INST": whole(b"(" + inside + b"i" + line),
        "OBJ": whole(b"(" + glob(name) + inside + b"o"),
        "NEWOBJ": whole(glob(name) + given + b"\x81"),
        "NEWOBJ_EX": b"\x80\x04" + stack + given + b"}\x92.",
        "deep in a state dict": whole(
            {"args": {"a": [(call(name, *arguments),)]}, "model": {"w": tensor()}}
        ),
        "without a call": whole({"n": glob(name), "w": tensor()}),
        "state of a namespace": whole(
            glob("argparse.Namespace") + b")\x81" + plain({"x": glob(name)}) + b"b"
        ),
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a payload that ran would leave its canary."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / CANARY).exists()


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_refused_by_name(folder, name):
    assert len(CALLS) > 80
    for form, content in forms(name, CALLS[name]).items():
        bare = folder / "bare.pth"
        bare.write_bytes(content)
        zipped = torch_zip(folder / "zip.pth", content)
        for path in (bare, zipped) if form in ("REDUCE", "STACK_GLOBAL") else (bare,):
            message = refusal(path)
            assert name in message, form
            assert "could run code" in message
            assert "nothing was run" in message


RUNNABLE = [
    "os.system",
    "posix.system",
    "subprocess.getoutput",
    "subprocess.check_output",
    "builtins.eval",
    "builtins.exec",
    "builtins.open",
    "_io.FileIO",
    "timeit.timeit",
]


@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.parametrize("form", ["REDUCE", "STACK_GLOBAL", "INST", "OBJ"])
def test_the_payloads_do_run_where_nothing_stops_them(
    tmp_path, monkeypatch, name, form
):
    """Or the canary would prove nothing."""
    monkeypatch.chdir(tmp_path)
    made = pickle.loads(forms(name, CALLS[name])[form])
    if isinstance(made, io.IOBase):
        made.close()
    del made
    assert (tmp_path / CANARY).exists()


SHORT = b"\x8c\x02os\x8c\x06system\x93"
LEGACY_HEAD = b"".join(
    pickle.dumps(value, 2)
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
)
PICKLES: dict[str, tuple[bytes, str]] = {
    # steps that no state dict needs
    "EXT1": (whole(b"\x82\x01"), "the step EXT1"),
    "EXT2": (whole(b"\x83\x01\x01"), "the step EXT2"),
    "EXT4": (whole(b"\x84\x01\x01\0\0"), "the step EXT4"),
    "PERSID": (whole(b"Pstorage\n"), "the step PERSID"),
    "PUT": (whole(b"Np99999999999\n"), "the step PUT"),
    "GET": (whole(b"g5\n"), "the step GET"),
    "DUP": (whole(b"N2"), "the step DUP"),
    "POP": (whole(b"NN0"), "the step POP"),
    "POP_MARK": (whole(b"N(1"), "the step POP_MARK"),
    "DICT": (whole(b"(d"), "the step DICT"),
    "LIST": (whole(b"(l"), "the step LIST"),
    "SET": (whole(b"\x8f"), "the step EMPTY_SET"),
    "FROZENSET": (whole(b"(\x91"), "the step FROZENSET"),
    "NEXT_BUFFER": (whole(b"\x97"), "the step NEXT_BUFFER"),
    "INT": (whole(b"I5\n"), "the step INT"),
    "LONG": (whole(b"L5L\n"), "the step LONG"),
    "LONG4": (whole(b"\x8b\x01\0\0\0\x05"), "the step LONG4"),
    "STRING": (whole(b"S'x'\n"), "the step STRING"),
    "UNICODE": (whole(b"Vx\n"), "the step UNICODE"),
    "BINBYTES": (whole(b"B\x01\0\0\0x"), "the step BINBYTES"),
    # lengths that are not there
    "BYTEARRAY8": (whole(b"\x96" + struct.pack("<Q", 2**42)), "a length of 4398"),
    "BINBYTES8": (whole(b"\x8e" + struct.pack("<Q", 2**42)), "a length of 4398"),
    "BINUNICODE8": (whole(b"\x8d" + struct.pack("<Q", 2**62)), "a length of 46116"),
    "BINUNICODE8 over": (whole(b"\x8d" + b"\xff" * 8), "sys.maxsize"),
    "BINUNICODE": (whole(b"X\xff\xff\xff\xff"), "a length of 4294967295"),
    "LONG4 long": (whole(b"\x8b\xff\xff\xff\x7f"), "a length of 2147483647"),
    "LONG4 negative": (whole(b"\x8b\xff\xff\xff\xff"), "byte count < 0"),
    "BINUNICODE short": (whole(b"X\x50\0\0\0abc"), "expected 80 bytes"),
    "backslash": (b"\x80\x02c\\Qos\nsystem\n.", "a line has a backslash"),
    "endless line": (b"\x80\x02c" + b"a" * 3_000_000, "no newline"),
    # the memo and the stack
    "LONG_BINPUT": (whole(b"Nr\xff\xff\xff\x7f"), "keeps memo 2147483647"),
    "BINGET": (whole(b"h\x07"), "takes memo 7"),
    "empty BINPUT": (whole(b"q\0"), "index out of range"),
    "stack underflow": (whole(b"\x85"), "more values than it made"),
    "underflow of a mark": (whole(b"N(\x85"), "more values than it made"),
    "no mark": (whole(b"t"), "a mark that it never made"),
    "open mark": (whole(b"N("), "one value"),
    "two values": (whole(b"NN"), "one value"),
    "nothing": (whole(), "one value"),
    "no STOP": (b"\x80\x02}", "exhausted"),
    "unknown opcode": (b"\x80\x02\xfe.", "unknown"),
    "protocol 99": (b"\x80\x02}\x80\xff\xfe.", "unknown"),
    "long names": (
        whole({"a" * 700: {"b" * 700: {"w": tensor()}}}),
        "a name over 1000",
    ),
    # items and states
    "items into a tuple": (whole(b")(NNu"), "not a dict"),
    "odd items": (whole(b"}(Nu"), "a name without a value"),
    "append to a dict": (whole(b"}Na"), "not a list"),
    "doubled name": (whole({}, b"(" + (text("w") + tensor()) * 2 + b"u"), "w comes tw"),
    "BUILD of a dict": (whole(b"}}b"), "sets the state of a dict"),
    "BUILD of a tensor": (whole(tensor() + b"}b"), "sets the state of a View"),
    "BUILD of a name": (
        whole(glob("argparse.Namespace") + plain({"__setstate__": 1}) + b"b"),
        "sets the state of argparse.Namespace",
    ),
    "NEWOBJ of a storage": (
        whole(glob("torch.FloatStorage") + plain((10**13,)) + b"\x81"),
        "makes an object of torch.FloatStorage",
    ),
    "call of a storage": (
        whole(call("torch.FloatStorage", 10**13)),
        "calls torch.FloatStorage",
    ),
    "call of a string": (whole(text("os.system"), (SHELL,), b"R"), "calls os.system"),
    "OrderedDict of a number": (whole(call("collections.OrderedDict", 5)), "no list"),
    "OrderedDict of triples": (
        whole(call("collections.OrderedDict", [(1, 2, 3)])),
        "no pair",
    ),
    "parameter of nothing": (
        whole(call("torch._utils._rebuild_parameter", 1)),
        "no tensor",
    ),
    "name with control characters": (
        b"\x80\x04" + text("os\n\x1b[2J") + text("sys\ttem") + b"\x93.",
        r"os\n\x1b[2J.sys\ttem",
    ),
    "very long name": (whole(f"c{'a' * 900}\nb\n".encode()), "aaa..."),
    # persistent ids
    "module": (
        whole(("module", None, "x.py", "import os"), b"Q"),
        "not that of a storage",
    ),
    "text": (whole(text("../../etc/passwd"), b"Q"), "not that of a storage"),
    "whole number": (whole(number(3), b"Q"), "not that of a storage"),
    "storage of a name": (
        whole(storage("collections.OrderedDict")),
        "not that of a storage",
    ),
    "two TB": (whole(storage(numel=2**39)), "claims 2199023255552 bytes but the file"),
    "huge": (whole(storage(numel=2**62)), "claims 18446744073709551616 bytes but"),
    "negative": (whole(storage(numel=-1)), "no number of elements"),
    "too big a number": (whole(storage(numel=2**80)), "no number of elements"),
    "true": (whole(storage(numel=True)), "no number of elements"),
    "float": (whole(storage(numel=6.0)), "no number of elements"),
    "key": (whole(storage(key=7)), "no key"),
    "view": (whole(storage("torch.FloatStorage", "0", 6, ("v", 4, 3))), "past its end"),
    # shapes and strides over a storage of six elements
    "past the end": (whole(tensor(offset=1)), "reaches past its 6 elements"),
    "past by strides": (whole(tensor(stride=(9, 1))), "reaches past its 6 elements"),
    "expanded": (whole(tensor((10**12,), (0,))), "1000000000000 overlaps itself"),
    "windows": (whole(tensor((2, 3), (1, 1))), "2 x 3 overlaps itself"),
    "huge shape": (whole(tensor((2**40, 2**40), (0, 0))), "overlaps itself"),
    "negative stride": (whole(tensor(stride=(-1, 1))), "no shape and strides"),
    "negative size": (whole(tensor((-2, 3))), "no shape and strides"),
    "negative offset": (whole(tensor(offset=-4)), "no offset"),
    "shape of text": (whole(tensor(("2", 3))), "no shape and strides"),
    "fewer strides": (whole(tensor(stride=(1,))), "no shape and strides"),
    "many dimensions": (whole(tensor((1,) * 99, (1,) * 99)), "no shape and strides"),
    "hooks": (whole(tensor(hooks={"0": 1})), "gives a tensor hooks"),
    "conjugate": (whole(tensor(more=({"conj": True},))), "conjugate or negative"),
    "tensor of no storage": (whole(tensor(claim=b"N")), "no storage"),
    # values that are no state dict
    "number": (whole(5), "not a dict of tensors"),
    "one tensor": (whole(tensor()), "one tensor, not a dict of tensors"),
    "list": (whole([tensor()]), "a list, not a dict of tensors"),
    "no tensors": (whole({"epoch": 5}), "no tensor in a dict"),
    "only an optimizer": (whole({"optimizer": {"w": tensor()}}), "no tensor in a dict"),
}


@pytest.mark.parametrize("case", PICKLES)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_pickle_that_lies_is_refused(folder, case, form):
    content, expected = PICKLES[case]
    path = folder / "w.pth"
    if form == "zip":
        torch_zip(path, content)
    else:
        path.write_bytes(LEGACY_HEAD + content + pickle.dumps(["0"], 2))
        expected = "reaches past its 6" if "past" in case and "view" not in case else ""
    tracemalloc.start()
    message = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert expected in message
    assert peak < 10_000_000


ITEMS = b"".join(plain(f"i{i}") + b"N" for i in range(9000))
AGAIN = b"".join(plain(f"o{i}") + b"h\1" for i in range(9000))
HEAVY: dict[str, tuple[bytes, str]] = {
    "too many steps": (b"\x80\x02" + b"]" * 1_100_000 + b".", "500000 steps"),
    "deep tuples": (b"\x80\x02N" + b"\x85" * 450_000 + b".", "a tuple, not a dict"),
    "deep key": (b"\x80\x02}N" + b"\x85" * 450_000 + b"Ns.", "a tuple as a name"),
    "memo bomb": (
        b"\x80\x02]q\0" + b"](h\0h\0eq\0" * 60_000 + b".",
        "does not end with one value",
    ),
    "dict bomb": (
        whole(b"}(" + plain("x") + b"}q\1(" + ITEMS + b"u" + AGAIN + b"u"),
        "over 1000000 values",
    ),
    "bytearray": (whole(call("builtins.bytearray", 10**13)), "builtins.bytearray"),
    "memo": (whole(b"Nr\xff\xff\xff\x7f"), "keeps memo 2147483647"),
    "bytes": (whole(b"\x8e" + struct.pack("<Q", 2**42)), "a length of 4398"),
    "storage": (whole(storage(numel=2**39)), "claims 2199023255552 bytes"),
    "expanded": (whole({"w": tensor((10**12,), (0,))}), "overlaps itself"),
}
ALL_IN_LITTLE = """
import resource, sys
from pathlib import Path
from vitral.errors import WeightsError
from vitral.weights.files import open_file

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000,) * 2)
for path in sys.argv[1:]:
    try:
        file = open_file(Path(path))
        for name in file.names():
            file.read(name)
        print("opened")
    except WeightsError as error:
        print(error)
"""


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + data


def test_the_worst_ones_need_little_memory(folder):
    """In a process that may take 400 MB more than it has; each asks for much more."""
    expected, paths = [], []
    for name, (content, reason) in HEAVY.items():
        paths.append(torch_zip(folder / f"{name}.pth", content))
        expected.append(reason)
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [2**39], "data_offsets": [0, 2**41]}}
    ).encode()
    lies = {
        "long.safetensors": (struct.pack("<Q", 2**41) + b"{}", "no weights file"),
        "tb.safetensors": (struct.pack("<Q", len(header)) + header, "claims bytes"),
        "tb.npz": (b"", "needs 2199023255552 bytes"),
        "bomb.npz": (b"", "claims 3000000000 bytes"),
    }
    shape = "{'descr': '<f4', 'fortran_order': False, 'shape': (549755813888,)}"
    for name, (content, reason) in lies.items():
        path = folder / name
        path.write_bytes(content)
        if name == "tb.npz":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("w.npy", npy(shape))
        if name == "bomb.npz":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("w.npy", b"x" * 999)
            broken = path.read_bytes().replace(
                struct.pack("<I", 999), struct.pack("<I", 3_000_000_000)
            )
            path.write_bytes(broken)
        paths.append(path)
        expected.append("no weights file" if name == "long.npz" else reason)
    lies_of_safetensors = expected.index("no weights file")
    expected[lies_of_safetensors] = "not a readable safetensors file"
    done = subprocess.run(
        [sys.executable, "-c", ALL_IN_LITTLE, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths)
    for line, reason, path in zip(lines, expected, paths, strict=True):
        assert reason in line, path
        assert str(path) in line


# archives and disguises

EVIL = forms("os.system", (SHELL,))["REDUCE"]
GOOD = whole({"w": tensor()})


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ("archive/constants.pkl", "a TorchScript program"),
        ("archive/code/__torch__.py", "a TorchScript program"),
        ("archive/evil.pkl", "which torch.save does not write"),
        ("archive/data/sub/0", "which torch.save does not write"),
        ("other/data.pkl", "which torch.save does not write"),
        ("../data.pkl", "which torch.save does not write"),
        ("/etc/passwd", "which torch.save does not write"),
    ],
)
def test_a_member_that_torch_save_does_not_write(folder, member, expected):
    path = torch_zip(folder / "w.pth", GOOD, **{member: EVIL})
    message = refusal(path)
    assert expected in message
    assert member in message


def test_the_helper_makes_a_file_that_opens(folder):
    read = everything(torch_zip(folder / "w.pth", GOOD))
    assert read["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_bytes_after_the_pickle(folder):
    assert "bytes follow after" in refusal(torch_zip(folder / "w.pth", GOOD + EVIL))


def test_a_legacy_file_with_more_after_it(folder):
    path = folder / "w.pth"
    torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    everything(path)
    path.write_bytes(path.read_bytes() + EVIL)
    assert "follow after the last storage" in refusal(path)


@pytest.mark.parametrize("place", range(5))
def test_each_pickle_of_a_legacy_file_is_looked_at(folder, place):
    head = [
        pickle.dumps(value, 2)
        for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, [])
    ]
    head[3] = GOOD
    head[place] = EVIL
    path = folder / "w.pth"
    path.write_bytes(b"".join(head))
    assert "names os.system" in refusal(path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.npz", "w.pth", "w.txt", "w.tar"])
def test_a_pickle_under_any_name(folder, name):
    path = folder / name
    path.write_bytes(EVIL)
    assert "names os.system" in refusal(path)


def test_other_wrappings(folder):
    path = folder / "w.pth"
    path.write_bytes(gzip.compress(EVIL))
    assert "compressed by gzip" in refusal(path)
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("pickle")
        info.size = len(EVIL)
        archive.addfile(info, io.BytesIO(EVIL))
    assert "is a tar archive" in refusal(path)
    path.write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
    assert "names os.system" in refusal(path)
    other = folder / "w.weights"
    other.write_bytes(b"<!DOCTYPE html><html>")
    assert "a web page in the place" in refusal(other)
    assert "No weights at" in refusal(folder / "none.pth")
    assert "No weights at" in refusal(folder)


def test_pickled_objects_in_npz(folder):
    class Evil:
        def __reduce__(self):
            return os.system, (SHELL,)

    path = folder / "w.npz"
    np.savez(path, w=np.array([Evil()], dtype=object))
    assert "pickled objects" in refusal(path)
    np.savez(path, w=np.array(["text"]))
    assert "no number of torch" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("payload.pkl", EVIL)
    assert "payload.pkl" in refusal(path)


def test_zips_that_lie(folder):
    path = folder / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", GOOD)
    assert "is compressed, which torch.save never does" in refusal(path)
    torch_zip(path, GOOD, **{"archive/data.pk_": EVIL})
    path.write_bytes(path.read_bytes().replace(b"data.pk_", b"data.pkl"))
    assert "two members archive/data.pkl" in refusal(path)
    good = torch_zip(path, GOOD).read_bytes()
    end = good.rfind(b"PK\5\6")
    path.write_bytes(good[: end + 10] + b"\1\0" + good[end + 12 :])
    assert "claims 1 members but lists 4" in refusal(path)
    start = struct.pack("<I", struct.unpack_from("<I", good, end + 16)[0] + 50)
    path.write_bytes(good[: end + 16] + start + good[end + 20 :])
    assert "begins before the file" in refusal(path)
    first = good.find(b"PK\1\2")
    path.write_bytes(good[: first + 8] + b"\1" + good[first + 9 :])
    assert "is encrypted" in refusal(path)
    torch_zip(path, whole({"w": tensor(claim=storage(key="9"))}))
    assert "it has no storage 9" in refusal(path)
