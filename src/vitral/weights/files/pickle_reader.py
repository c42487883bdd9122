"""Pickle reader without code: a stack machine that imports and calls nothing.

`torch.load(weights_only=True)` calls allow-listed functions; crafted files ran code
(CVE-2025-32434, torch <= 2.5.1) or corrupted memory (CVE-2026-24747, torch < 2.10).
Here names are text, calls are notes, and each view is checked against the file's bytes.
"""

import math
from collections.abc import Callable
from io import BufferedIOBase
from pickletools import genops
from typing import IO, Any, NoReturn, cast

import torch

from vitral.errors import WeightsError
from vitral.weights.files.pickle_nodes import (
    ALLOWED,
    IGNORED_CALLS,
    NAMESPACE,
    ORDERED,
    PARAMETER,
    STORAGES,
    TENSOR,
    Global,
    PickledOrderedDict,
    Placeholder,
    Storage,
    View,
)
from vitral.weights.files.tensor_file import (
    MAX_DIMENSIONS,
    format_int,
    one_line,
    printable_name,
)

MAX_OPCODES = 500_000
"""About 15,000 tensors; it bounds the memory that a pickle can ask for."""
MAX_ARGUMENT_SIZE = 2**20
"""Most bytes of one string in a pickle."""
MAX_LINE_LENGTH = 1000


class _BoundedFile:
    """Binary file for genops that refuses long reads."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file, self.tell = file, file.tell

    def read(self, size: int) -> bytes:
        if size > MAX_ARGUMENT_SIZE:
            raise ValueError(f"a length of {size} is over {MAX_ARGUMENT_SIZE}")
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(MAX_LINE_LENGTH)
        if b"\\" in line:  # genops would warn of some, and no name has one
            raise ValueError("a line has a backslash")
        return line


def read_structure(
    file: BufferedIOBase, where: str, storage_size: Callable[[str, torch.dtype], int]
) -> Any:
    """Return the one value of the pickle at the file's position, up to its STOP.

    Args:
        where: file (and member) as a message names it.
        storage_size: returns the bytes that the file has for the storage of a key.
    """
    machine = _PickleMachine(where, storage_size)
    source = cast(IO[bytes], _BoundedFile(file))
    try:
        for count, (opcode, argument, _) in enumerate(genops(source)):
            if count >= MAX_OPCODES:
                machine.refuse_damaged(f"it has more than {MAX_OPCODES} steps")
            machine.step(opcode.name, argument)
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        if isinstance(error, WeightsError):
            raise
        machine.refuse_damaged(one_line(error))
    if len(machine.stack) != 1 or machine.marks:
        machine.refuse_damaged("it does not end with one value")
    return machine.stack[0]


CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
NEW = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
LITERALS = {
    "BINFLOAT",
    "BININT",
    "BININT1",
    "BININT2",
    "BINSTRING",
    "BINUNICODE",
    "LONG1",
    "SHORT_BINSTRING",
    "SHORT_BINUNICODE",
}
PUTS, GETS = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _PickleMachine:
    """Stack and memo of one pickle."""

    def __init__(
        self, where: str, storage_size: Callable[[str, torch.dtype], int]
    ) -> None:
        self.where, self.storage_size = where, storage_size
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in LITERALS:
            stack.append(argument)
        elif opcode in PUTS:
            self.put(argument)
        elif opcode == "MEMOIZE":
            self.put(len(self.memo))
        elif opcode in GETS:
            if argument not in self.memo:
                self.refuse_damaged(f"it takes memo {argument}, which it never kept")
            stack.append(self.memo[argument])
        elif opcode in CONSTANTS:
            stack.append(CONSTANTS[opcode])
        elif opcode in NEW:
            stack.append(NEW[opcode]())
        elif opcode == "MARK":
            self.marks.append(len(stack))
        elif opcode == "TUPLE":
            stack.append(tuple(self.pop_mark()))
        elif opcode in TUPLES:
            stack.append(tuple(self.pop(TUPLES[opcode])))
        elif opcode in ("APPEND", "APPENDS"):
            items = self.pop(1) if opcode == "APPEND" else self.pop_mark()
            self.top(list).extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self.pop(2) if opcode == "SETITEM" else self.pop_mark()
            self.set_items(self.top(dict), items)
        elif opcode == "GLOBAL":
            self.push_global(argument.replace(" ", "."))
        elif opcode == "STACK_GLOBAL":
            self.push_global(".".join(printable_name(part) for part in self.pop(2)))
        elif opcode == "BINPERSID":
            stack.append(self.make_storage(*self.pop(1)))
        elif opcode == "REDUCE":
            stack.append(self.call(*self.pop(2)))
        elif opcode == "NEWOBJ":
            cls, arguments = self.pop(2)
            if cls != Global(NAMESPACE) or arguments != ():
                self.refuse(f"makes an object of {_describe_value(cls)}")
            stack.append(Placeholder())
        elif opcode == "BUILD":
            self.pop(1)
            if not isinstance(stack[-1], PickledOrderedDict | Placeholder):
                self.refuse(f"sets the state of {_describe_value(stack[-1])}")
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            self.refuse(f"uses the step {opcode}{self.describe_argument(argument)}")

    def put(self, index: int) -> None:
        if index > MAX_OPCODES:
            self.refuse_damaged(f"it keeps memo {index}, which is over {MAX_OPCODES}")
        self.memo[index] = self.stack[-1]

    def pop(self, count: int) -> list[Any]:
        floor = self.marks[-1] if self.marks else 0
        if len(self.stack) - count < floor:
            self.refuse_damaged("it takes more values than it made")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            self.refuse_damaged("it goes back to a mark that it never made")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, expected: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], expected):
            self.refuse_damaged(
                f"it puts items into something that is not a {expected.__name__}"
            )
        return self.stack[-1]

    def set_items(self, target: dict[Any, Any], items: list[Any]) -> None:
        if len(items) % 2:
            self.refuse_damaged("a dict has a name without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing deeply nested tuples would overflow the interpreter's own stack.
            if not isinstance(key, str | int | float | None):
                self.refuse_damaged(f"a dict has {_describe_value(key)} as a name")
            if key in target:
                self.refuse_damaged(
                    f"the name {_describe_value(key)} comes twice in one dict"
                )
            target[key] = value

    def push_global(self, name: str) -> None:
        if name not in ALLOWED:
            self.refuse(f"names {printable_name(name)}")
        self.stack.append(Global(name))

    def call(self, function: Any, arguments: Any) -> Any:
        name = function.name if isinstance(function, Global) else None
        if not isinstance(arguments, tuple):
            self.refuse_damaged("it calls with something that is not a tuple")
        if name == ORDERED:
            return self.make_ordered_dict(arguments)
        if name == TENSOR:
            return self.make_tensor(arguments)
        if name == PARAMETER:
            if not arguments or not isinstance(arguments[0], View):
                self.refuse_damaged("a parameter is made of no tensor")
            return arguments[0]
        if name not in IGNORED_CALLS:
            self.refuse(f"calls {_describe_value(function)}")
        return Placeholder()

    def make_ordered_dict(self, arguments: tuple[Any, ...]) -> PickledOrderedDict:
        result = PickledOrderedDict()
        if arguments:  # as Python 2 pickled it: one list of pairs
            pairs = arguments[0]
            if len(arguments) > 1 or not isinstance(pairs, list):
                self.refuse_damaged(
                    "an OrderedDict is made of something that is no list"
                )
            for pair in pairs:
                if not isinstance(pair, list | tuple) or len(pair) != 2:
                    self.refuse_damaged(
                        "an OrderedDict is made of something that is no pair"
                    )
                self.set_items(result, list(pair))
        return result

    def make_storage(self, claim: Any) -> Storage:
        if not isinstance(claim, tuple) or len(claim) not in (5, 6):
            self.refuse_damaged("a persistent id is not that of a storage")
        tag, storage_type, key, _, numel, *more = claim
        name = storage_type.name if isinstance(storage_type, Global) else None
        if tag != "storage" or name not in STORAGES:
            self.refuse_damaged("a persistent id is not that of a storage")
        if not isinstance(key, str) or not _is_whole(numel):
            self.refuse_damaged("a storage has no key or no number of elements")
        dtype, first = STORAGES[name], 0
        available = self.storage_size(key, dtype)
        if numel * dtype.itemsize > available:
            self.refuse_damaged(
                f"storage {printable_name(key)} claims "
                f"{format_int(numel * dtype.itemsize)} bytes but "
                f"the file has {available} for it"
            )
        if more and more[0] is not None:
            first, part = _parse_storage_view(more[0])
            if part is None or first + part > numel:
                self.refuse_damaged(
                    f"storage {printable_name(key)} has a view past its end"
                )
            numel = part
        return Storage(key, dtype, first, numel)

    def make_tensor(self, arguments: tuple[Any, ...]) -> View:
        if not 4 <= len(arguments) <= 7 or not isinstance(arguments[0], Storage):
            self.refuse_damaged("a tensor is made of no storage")
        storage, offset, shape, stride, *more = arguments
        key = f"a tensor in storage {printable_name(storage.key)}"
        if not _is_shape(shape) or not _is_shape(stride) or len(shape) != len(stride):
            self.refuse_damaged(f"{key} has no shape and strides of whole numbers")
        if not _is_whole(offset):
            self.refuse_damaged(f"{key} has no offset")
        if len(more) == 3 and more[2]:
            self.refuse("makes a tensor that is conjugate or negative")
        if len(more) >= 2 and more[1]:
            self.refuse("gives a tensor hooks")
        last = sum((s - 1) * step for s, step in zip(shape, stride, strict=True))
        if math.prod(shape) and offset + last >= storage.numel:
            self.refuse_damaged(f"{key} reaches past its {storage.numel} elements")
        if math.prod(shape) and _overlaps(shape, stride):
            self.refuse_damaged(
                f"{key} of shape {_format_shape(shape)} overlaps itself"
            )
        return View(storage, offset, shape, stride)

    def describe_argument(self, argument: Any) -> str:
        if isinstance(argument, str):
            return f" with {printable_name(argument.replace(' ', '.'))}"
        return ""

    def refuse(self, what: str) -> NoReturn:
        raise WeightsError(
            f"{self.where}: the pickle {what}, which is not among the few things that "
            "a state dict needs and could run code, so it is refused and nothing was "
            "run. Get the weights as .safetensors, or as a plain state dict."
        )

    def refuse_damaged(self, reason: str) -> NoReturn:
        raise WeightsError(
            f"{self.where}: the pickle is not that of a state dict: {reason}. It may "
            "be cut short, damaged or made up; fetch it again and compare its sha256."
        )


def _describe_value(value: Any) -> str:
    text = value.name if isinstance(value, Global) else value
    return printable_name(text) if isinstance(text, str) else f"a {type(text).__name__}"


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) <= MAX_DIMENSIONS
        and all(_is_whole(size) for size in value)
    )


def _format_shape(shape: tuple[int, ...]) -> str:
    return " x ".join(format_int(size) for size in shape[:8])


def _parse_storage_view(value: Any) -> tuple[int, int | None]:
    if not isinstance(value, tuple) or len(value) != 3:
        return 0, None
    _, first, part = value
    return (first, part) if _is_whole(first) and _is_whole(part) else (0, None)


def _overlaps(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Return whether two elements could share memory: a stride within smaller ones."""
    reach = 0
    for step, size in sorted(zip(stride, shape, strict=True)):
        if size > 1:
            if step <= reach:
                return True
            reach += (size - 1) * step
    return False
