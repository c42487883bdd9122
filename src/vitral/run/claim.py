"""Whether a folder may be this run's, and what is said when it cannot be written."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from vitral import config_io
from vitral.atomic_io import TEMPORARY_SUFFIX, make_folder
from vitral.errors import ConfigError, VitralError, WeightsError
from vitral.run.config import VOLATILE, TrainConfig, read_config

LOCK = "lock.json"
"""Who is training into the folder; see lock.py."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def claim(config: TrainConfig, out: Path, resume: bool) -> None:
    """Make the folder of a run; refuse one in use, or of a run with other settings.

    Raises:
        ConfigError: `out` cannot be made, is in use, or is resumed with other settings.
    """
    if out.is_file():
        raise ConfigError(f"`--out {out}` is a file: name a folder for the run.")
    with write_errors_as_ours(out):
        make_folder(out)
    if all(_left_by_a_start(file) for file in out.iterdir()):
        return
    stored = out / "config.json"
    if not stored.is_file():
        raise ConfigError(
            f"The output folder {out} holds something that is not a run: name another "
            "folder."
        )
    if not resume:
        raise ConfigError(
            f"The output folder {out} already holds a run: give another `--out`, or "
            "`--resume` to go on with it."
        )
    before = read_config(stored)
    old, new = config_io.to_plain(before), config_io.to_plain(config)
    different = [name for name in new if old[name] != new[name]]
    different = [name for name in different if name not in VOLATILE]
    if different:
        name = different[0]
        raise ConfigError(
            f"The run in {out} was started with `{name}` {old[name]} and cannot go on "
            f"with {new[name]}. Use the first settings, or another `--out`."
        )


def _left_by_a_start(file: Path) -> bool:
    """Whether a run that ended before its config was written leaves this file."""
    known = ("log.txt", "split.csv", LOCK)
    return file.name in known or file.suffix == TEMPORARY_SUFFIX


def remove_leftovers(out: Path) -> None:
    """Remove what killed processes left of their last writes; checkpoints do so
    themselves. Only for the process that owns the folder."""
    for file in out.rglob(f".*.[0-9]*{TEMPORARY_SUFFIX}"):
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)


@contextmanager
def write_errors_as_ours(out: Path) -> Iterator[None]:
    """A full disk or a forbidden folder is the user's to mend, so it gets a sentence.

    The checkpoints have a sentence of their own; this is for every other file.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, VitralError):
            raise
        number = error.errno if isinstance(error, OSError) else None
        if number in FORBIDDEN:
            raise ConfigError(
                f"{out} cannot be written ({error}): choose another `--out`, or change "
                "the permissions."
            ) from error
        if isinstance(error, SafetensorError) or number in FULL:
            raise WeightsError(
                f"A file of the run could not be written to {out} ({error}). Free "
                "space and run the same command with --resume; saved checkpoints are "
                "intact."
            ) from error
        raise
