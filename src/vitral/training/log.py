"""metrics.jsonl: a JSON object a line, appended and flushed, of finite numbers.

The length is recorded in every checkpoint, and a resumed run cuts the file back to it,
so apart from the timing fields it is the file of an unbroken run.
"""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

from vitral.atomic_io import open_unlinked, sync_folder
from vitral.errors import ConfigError, DivergedError, WeightsError

NO_MONITOR = "none"
"""Value of `LoopConfig.monitor` that keeps the last step."""
TIMING_FIELDS = ("images_per_second", "data_wait")
"""Fields that differ between two runs of the same seed."""


class MetricsLog:
    """The open log of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._file = os.fdopen(open_unlinked(path, flags), "ab", buffering=0)
            sync_folder(path.parent)
        except OSError as error:
            raise self._write_error(error) from error

    @property
    def length(self) -> int:
        return self._file.tell()

    def append(self, record: dict[str, Any]) -> None:
        """Write one line.

        Raises:
            DivergedError: a number is NaN or infinite; nothing is written.
            ConfigError: the file cannot be written.
            WeightsError: the disk is full.
        """
        for name, value in record.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise DivergedError(
                    f"`{name}` is {value} at step {record.get('step')} "
                    f"({record.get('event')}): only finite numbers are logged. Lower "
                    "the learning rate, or mend the metric that gave it."
                )
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        start = self.length
        try:
            written = self._file.write(line)
        except OSError as error:
            raise self._write_error(error) from error
        if written != len(line):  # the disk filled up in the middle of the line
            self.truncate(start)
            raise self._write_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def truncate(self, length: int) -> bool:
        """Cut the file to `length` bytes; False when it was shorter already."""
        complete = self.length >= length
        if complete:
            self._file.truncate(length)
            self._file.seek(length)
        return complete

    def sync(self) -> None:
        """Flush to the disk: a checkpoint may only name a length that is there."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._write_error(error) from error

    def close(self) -> None:
        self._file.close()

    def _write_error(self, error: OSError) -> ConfigError | WeightsError:
        reason = error.strerror or str(error)
        if error.errno == errno.ELOOP:
            reason = "it is a link, which is not followed: remove it"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return (WeightsError if full else ConfigError)(
            f"{self.path} cannot be written ({reason}): free space or choose another "
            "output folder. Saved checkpoints are intact; the run can be resumed."
        )
