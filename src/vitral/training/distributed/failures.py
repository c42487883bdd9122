"""Report one error for a failed rank.

Each rank writes its first failure to the rendezvous store; the others exit with it in
place of gloo's message about sockets. Not torch's `@record`: it needs torchrun, and
each node's agent reads the files of its own ranks only.
"""

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterator

import torch.distributed as dist

from vitral.errors import VitralError

BROKEN_COLLECTIVE_MESSAGES = (
    "connection closed",
    "connection reset",
    "connection refused",
    "broken pipe",
    "connection was likely closed",
    "timed out",
    "timeout",
    "gloo",
    "nccl",
    "socket",
    "store",
)
"""Words of the RuntimeErrors of a collective whose peer does not answer."""
NOTICE_SECONDS = 2.0
"""Seconds in which the ranks that live have noticed that one does not."""
STORE_LINGER_SECONDS = 4.0
"""Seconds that the rank that keeps the notes waits for the others to read them."""
SAME_CAUSE_SECONDS = 5.0
"""Seconds that a rank waits for a lower one to say the same."""


class PeerError(VitralError):
    """Another rank stopped or is gone, so this one cannot go on."""

    quiet = False
    """True if another rank of this machine reports it."""


@contextlib.contextmanager
def report_rank_failure(timeout: float) -> Iterator[None]:
    """Tell the others why this rank stops; explain a broken collective.

    What another rank reports already is marked, see `is_reported_elsewhere`.

    Args:
        timeout: seconds after which a collective gives up, for the sentence.
    """
    board = _FailureStore()
    try:
        yield
    except Exception as error:
        if not is_collective_failure(error):
            text = " ".join(str(error).split()) or type(error).__name__
            board.write("cause", text)
            if board.is_reported_by_lower_rank(text):
                error.quiet = True  # type: ignore[attr-defined]
            board.wait_for_readers()
            raise
        with _ignore_sigterm():
            board.write("lives", "1")
            # The others, who may wait for this rank, notice at once.
            with contextlib.suppress(Exception):
                dist.destroy_process_group()
            explained = board.build_error(error, timeout)
            board.wait_for_readers()
        raise explained from error


@contextlib.contextmanager
def _ignore_sigterm() -> Iterator[None]:
    """Let torchrun's SIGTERM pass, which follows a death at once: a sentence first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def is_collective_failure(error: BaseException) -> bool:
    """Return whether a collective failed because a rank did not answer."""
    if isinstance(error, VitralError) or not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    # torch gives its own classes to some of them, and a bare RuntimeError to gloo's.
    special = isinstance(error, dist.DistError)
    return special or any(sign in text for sign in BROKEN_COLLECTIVE_MESSAGES)


def is_reported_elsewhere(error: BaseException) -> bool:
    """Return whether another rank of this machine reports this error."""
    return bool(getattr(error, "quiet", False))


class _FailureStore:
    """Notes of the ranks on the process group's store; a dead store says nothing."""

    def __init__(self) -> None:
        from torch.distributed.distributed_c10d import _get_default_store

        self.store = dist.PrefixStore("vitral", _get_default_store())
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.node = os.environ.get("GROUP_RANK", "0")

    def write(self, topic: str, text: str) -> None:
        with contextlib.suppress(Exception):
            self.store.set(f"{topic}/{self.rank}", f"{self.node}\n{text}")

    def read(self, topic: str, rank: int) -> tuple[str, str] | None:
        """Return the node and the text of a rank's note; None without one."""
        with contextlib.suppress(Exception):
            if self.store.check([f"{topic}/{rank}"]):
                node, _, text = (
                    self.store.get(f"{topic}/{rank}").decode().partition("\n")
                )
                return node, text
        return None

    def is_reported_by_lower_rank(self, text: str) -> bool:
        """Return whether a lower rank on this machine stops for the same reason."""
        deadline = time.monotonic() + SAME_CAUSE_SECONDS
        while self.rank > 0 and time.monotonic() < deadline:
            for other in range(self.rank):
                if self.read("cause", other) == (self.node, text):
                    return True
            time.sleep(0.02)
        return False

    def wait_for_readers(self) -> None:
        """Wait until all have read: the notes end with the rank that keeps them.

        torchrun keeps them itself.
        """
        self.write("read", "1")
        if self.rank or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return
        deadline = time.monotonic() + STORE_LINGER_SECONDS
        others = range(1, self.world)
        while time.monotonic() < deadline:
            if all(self.read("read", other) for other in others):
                return
            time.sleep(0.02)

    def build_error(self, error: Exception, timeout: float) -> PeerError:
        time.sleep(NOTICE_SECONDS)
        others = [rank for rank in range(self.world) if rank != self.rank]
        causes = {rank: self.read("cause", rank) for rank in others}
        lives = {rank: self.read("lives", rank) for rank in others}
        lower = (note for rank, note in lives.items() if rank < self.rank and note)
        quiet = any(node == self.node for node, _ in lower)
        for rank, cause in causes.items():
            if cause is not None:
                peer_error = PeerError(f"Rank {rank} stopped: {cause[1]}")
                peer_error.quiet = quiet or cause[0] == self.node
                return peer_error
        gone = [rank for rank in others if causes[rank] is None and lives[rank] is None]
        if self.read("lives", self.rank) is None:
            gone = [0]  # the meeting point is gone, which was rank 0's
        detail = _shorten(str(error))
        why = "killed, or the machine or the network failed"
        if "timed out" in detail.lower() or "timeout" in detail.lower():
            why = f"silent for {timeout:g} seconds"
        peer_error = PeerError(
            f"{_format_ranks(gone)} {why}: this one (rank {self.rank} of {self.world}) "
            "stops too. Saved checkpoints are intact: run the same command with "
            f"--resume, or let torchrun do it with --max-restarts. ({detail})"
        )
        peer_error.quiet = quiet
        return peer_error


def _format_ranks(numbers: list[int]) -> str:
    if not numbers:
        return "Another rank was"
    if len(numbers) == 1:
        return f"Rank {numbers[0]} was"
    return f"Ranks {', '.join(map(str, numbers[:-1]))} and {numbers[-1]} were"


def _shorten(text: str) -> str:
    """Drop the source file, the advice and the frames of gloo's or nccl's message."""
    line = re.sub(r"\[/\S*\]\s*", "", text.splitlines()[0] if text else "")
    return line.split(" This is typically")[0].strip(" .")[:200]
