"""Import the runtimes of the extra [export] without their telemetry.

OpenVINO and NNCF import a package that reports their use over the network, unless that
package cannot be imported.
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
    """Import openvino without messages.

    Raises:
        MissingExtraError: it is not installed.
    """
    return _import_runtime("openvino", "OpenVINO models")


def openvino_core() -> Any:
    """Return the one openvino.Core of this process, which lives until its end.

    Each Core installs a signal stack of its own. Where two end in the order in which
    they began, the second restores the first one's freed stack. The next signal
    (Ctrl-C, the end of a process that loads images) then kills this process without a
    message.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    return _core(import_openvino())


@cache
def _core(module: ModuleType) -> Any:
    core = module.Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # now, before NNCF makes another
    return core


def import_nncf() -> ModuleType:
    """Import nncf without telemetry and with no messages but errors.

    Raises:
        MissingExtraError: it is not installed.
    """
    openvino_core()
    # It imports torch.utils.cpp_extension, which logs that there is no CUDA.
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
    """Import onnxruntime."""
    return _import_runtime("onnxruntime", "ONNX models")


def import_onnx() -> ModuleType:
    """Import onnx, which writes graphs; onnxscript must be installed to make them.

    Raises:
        MissingExtraError: one of the two is not installed.
    """
    _import_runtime("onnxscript", "Writing ONNX models")
    return _import_runtime("onnx", "ONNX models")


def _import_runtime(name: str, purpose: str) -> ModuleType:
    # None in sys.modules makes `import` fail; both packages then use stubs. It stays,
    # because both import more modules later.
    sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]
    try:
        with warnings.catch_warnings():
            # Their own warnings, of missing types and of names that torch renames.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the package {name}, which is not installed: "
            "pip install 'vitral[export]'."
        ) from error
