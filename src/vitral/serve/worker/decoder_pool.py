"""Decoder processes of one model, in the server process.

More of them than cores: the system shares the cores among images, so that a slow one
does not delay the others. An image above a thirty-second of `max_pixels` waits until
its bytes fit beside those of other large ones.
"""

import asyncio
import contextlib
import os
import signal
import socket
from typing import Any, Protocol, runtime_checkable

from vitral.errors import ServerError
from vitral.serve.batching import Item, PreparedImage
from vitral.serve.errors import HTTPError
from vitral.serve.settings import Settings
from vitral.serve.worker import framing
from vitral.serve.worker.arena import Arena, slot_bytes
from vitral.serve.worker.decode_limits import ByteBudget, DecodeLimits

_SPARE = 8
"""Decoders beyond one for each core."""


class PoolClosed(Exception):
    """The pool ended before the image was decoded."""


@runtime_checkable
class Forks(Protocol):
    """The part of the fork server that decoders need."""

    def fork(
        self, connection: socket.socket, arena: int, options: dict[str, Any]
    ) -> int: ...

    def how_ended(self, pid: int) -> int: ...


class Decoder:
    """Handle of one decoder process."""

    def __init__(
        self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.pid = pid
        self.reader, self.writer = reader, writer

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self.writer.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class DecoderPool:
    """Decoders that write to an arena; each takes one image at a time."""

    def __init__(
        self,
        fork_server: Forks,
        arena: Arena,
        settings: Settings,
        model_input: dict[str, Any],
        cores: int,
    ) -> None:
        """Divide the arena; decoders are started when images come.

        Args:
            model_input: what `Predictor.describe_input` returns.
        """
        self.deaths = 0
        """Decoders that an image ended, or the system."""
        count = settings.decoders or cores + _SPARE
        slots = count + 2 * settings.max_batch
        arena.divide(slot_bytes(model_input["shape"]), slots)
        self._limits = DecodeLimits(
            max_pixels=settings.max_pixels,
            seconds=settings.decode_seconds,
            channels=model_input["shape"][0],
        )
        self._hang_seconds = settings.worker_timeout
        self._options = {
            "preprocess": model_input["preprocess"],
            "max_pixels": settings.max_pixels,
        }
        self._drawn = frozenset(model_input["drawn"])
        self._fork_server, self._arena = fork_server, arena
        self._slots = asyncio.Semaphore(slots)
        self._places = asyncio.Semaphore(count)
        self._large = ByteBudget(self._limits.bytes_of(settings.max_pixels))
        self._idle: list[Decoder] = []
        self._busy: set[Decoder] = set()
        self._closed = False

    async def prepare(self, item: Item) -> PreparedImage:
        """Decode an image into a slot, which `PreparedImage.release` frees.

        Raises:
            HTTPError: it cannot be decoded within its limits.
            PoolClosed: try again with the next pool.
        """
        prepared, pixels = await self._decode(item, self._limits.small_pixels)
        if prepared is not None:
            return prepared
        size = self._limits.bytes_of(pixels)
        await self._large.take(size)
        try:
            prepared, _ = await self._decode(item, pixels)
        except BaseException:
            self._large.give_back(size)
            raise
        assert prepared is not None
        if prepared.picture:
            # It is in memory until the answer is drawn on it.
            prepared.releases.append(lambda: self._large.give_back(size))
        else:
            self._large.give_back(size)
        return prepared

    def close(self) -> None:
        """Kill all decoders; images in them raise PoolClosed."""
        self._closed = True
        for decoder in (*self._idle, *self._busy):
            decoder.kill()
        self._idle.clear()

    async def _decode(
        self, item: Item, pixels: int
    ) -> tuple[PreparedImage | None, int]:
        """Return the image, or None and its pixels if it has more than `pixels`."""
        await self._slots.acquire()
        slot = self._arena.take()
        try:
            if item.is_client_gone:
                raise HTTPError(504, "deadline", "Nobody waits for the image.")
            prepared, counted = await self._decode_into(slot, item, pixels)
        except BaseException:
            self._free(slot)
            raise
        if prepared is None:
            self._free(slot)
        return prepared, counted

    async def _decode_into(
        self, slot: int, item: Item, pixels: int
    ) -> tuple[PreparedImage | None, int]:
        request = {
            "slot": slot,
            "pixels": pixels,
            "seconds": self._limits.seconds_of(pixels),
            "bytes": self._limits.bytes_of(pixels),
            "draws": item.wants.get("media_type") in self._drawn,
        }
        reply, picture = await self._ask(request, item.content)
        if "pixels" in reply:
            return None, reply["pixels"]
        if "failed" in reply:
            message = "The decoder failed on this image; the server's log says why."
            raise HTTPError(500, "decoder_failed", message)
        if "refused" in reply:
            raise self._unreadable(reply["refused"])
        prepared = PreparedImage(
            owner=self,
            slot=slot,
            size=reply["size"],
            notes=reply["notes"],
            picture=picture,
            releases=[lambda: self._free(slot)],
        )
        return prepared, pixels

    async def _ask(
        self, request: dict[str, Any], content: bytes
    ) -> tuple[dict[str, Any], bytes]:
        async with self._places:
            if self._closed:
                raise PoolClosed
            decoder = self._idle.pop() if self._idle else await self._start()
            self._busy.add(decoder)
            try:
                async with asyncio.timeout(self._hang_seconds):
                    decoder.writer.write(framing.pack(request, content))
                    await decoder.writer.drain()
                    reply, picture = await framing.read(decoder.reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                raise await self._explain_end(decoder, request) from None
            except TimeoutError:  # not by the image, which has seconds of its own
                decoder.kill()
                raise _killed() from None
            except BaseException:
                decoder.kill()
                raise
            finally:
                self._busy.discard(decoder)
            if self._closed:
                decoder.kill()
                raise PoolClosed
            self._idle.append(decoder)
            return reply, picture

    async def _start(self) -> Decoder:
        server_end, decoder_end = socket.socketpair()
        with decoder_end:
            try:
                pid = await asyncio.to_thread(
                    self._fork_server.fork,
                    decoder_end,
                    self._arena.descriptor,
                    self._options,
                )
            except BaseException as error:
                server_end.close()
                if isinstance(error, ServerError):
                    raise _killed() from error
                raise
        decoder = Decoder(pid, *await asyncio.open_connection(sock=server_end))
        if self._closed:
            decoder.kill()
            raise PoolClosed
        return decoder

    async def _explain_end(
        self, decoder: Decoder, request: dict[str, Any]
    ) -> Exception:
        """Return what to answer for an image whose decoder ended."""
        decoder.kill()
        if self._closed:
            return PoolClosed()
        self.deaths += 1
        number = await asyncio.to_thread(self._fork_server.how_ended, decoder.pid)
        if number == signal.SIGPROF:
            return self._unreadable(
                f"decoding it takes more than {request['seconds']:.3g} seconds of "
                "processor time"
            )
        if number in (0, signal.SIGKILL):
            return _killed()
        return self._unreadable(f"it ended its decoder (signal {number})")

    def _unreadable(self, reason: str) -> HTTPError:
        return HTTPError(
            422,
            "unreadable_image",
            f"The image cannot be read: {reason}. Send a complete image of at most "
            f"{self._limits.max_pixels:,} pixels.",
        )

    def _free(self, slot: int) -> None:
        self._arena.give_back(slot)
        self._slots.release()


def _killed() -> HTTPError:
    return HTTPError(
        503,
        "decoder_killed",
        "The process that decodes images was killed, or the system had no memory for "
        "it. Send the image again.",
        retry_after=1,
    )
