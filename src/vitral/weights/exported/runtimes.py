"""The runtimes of the extra [export], imported so that nothing is sent anywhere.

OpenVINO and NNCF bring a package that reports their use over the network as soon as
they are imported, unless that package cannot be imported itself.
"""

import importlib
import logging
import sys
import warnings
from functools import cache
from types import ModuleType
from typing import Any

from vitral.errors import MissingExtraError

TELEMETRY = "openvino_telemetry"


def import_openvino() -> ModuleType:
    """The module openvino, silent.

    Raises:
        MissingExtraError: it is not installed.
    """
    return _import_runtime("openvino", "OpenVINO models")


def openvino_core() -> Any:
    """The one openvino.Core of this process, which stays until its end.

    As long as one lives, it has signals handled on a stack of its own. Where two end in
    the order in which they began, the second puts the stack of the first back, which is
    gone, and the next signal (Ctrl-C, the end of a process that loads images) ends
    this process without a word.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    return _core(import_openvino())


@cache
def _core(module: ModuleType) -> Any:
    made = module.Core()
    made.get_property("CPU", "FULL_DEVICE_NAME")  # now, before NNCF makes another
    return made


def import_nncf() -> ModuleType:
    """The module nncf, silent: nothing sent, nothing printed but errors.

    Raises:
        MissingExtraError: it is not installed.
    """
    openvino_core()
    # It imports torch's compiler of extensions, which says that there is no CUDA.
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        module = _import_runtime("nncf", "int8")
    finally:
        logger.setLevel(level)
    module.set_log_level(logging.ERROR)
    return module


def import_onnxruntime() -> ModuleType:
    """The module onnxruntime.

    Raises:
        MissingExtraError: it is not installed.
    """
    return _import_runtime("onnxruntime", "ONNX models")


def import_onnx() -> ModuleType:
    """The module onnx, which writes graphs; onnxscript must be there to make them.

    Raises:
        MissingExtraError: one of the two is not installed.
    """
    _import_runtime("onnxscript", "Writing ONNX models")
    return _import_runtime("onnx", "ONNX models")


def _import_runtime(name: str, purpose: str) -> ModuleType:
    # None in sys.modules makes `import` fail; both packages then take their own stubs.
    # It stays: both import more of themselves when they are used.
    sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]
    try:
        with warnings.catch_warnings():
            # Theirs, of types that their builds lack and of names that torch renames.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the package {name}, which is not installed: "
            "pip install 'vitral[export]'."
        ) from error
