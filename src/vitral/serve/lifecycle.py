"""Start the server, run its tasks, shut it down.

A stop answers all accepted requests (signals.py), closes the sockets and exits with 0.
"""

import asyncio
import contextlib
import resource
import select
import socket
from collections.abc import Iterator

import uvicorn

from vitral.serve.app import Service
from vitral.serve.http import HEAD_BYTES, FairScheduler, HTTPProtocol
from vitral.serve.listener import bind_socket, refuse_new_connections
from vitral.serve.settings import Settings
from vitral.serve.signals import Signals, describe_model
from vitral.serve.worker import Worker, worker_died

_DRAIN_SECONDS = 1.0
"""Longest wait for the first request of connections that were just accepted."""
_ACCEPT_PASSES = 8
"""Passes of the event loop from a connection in the backlog to its open request: six
are needed."""


def run(settings: Settings) -> None:
    """Serve until a signal; raises what `vitral.serve.serve` documents."""
    # A port in use fails at once, not after the model is loaded.
    bind_socket(settings.host, settings.port).close()
    _raise_file_limit(settings)
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    worker = Worker(settings)
    service = Service(settings, worker)
    signals = Signals(service)
    try:
        with signals.handle_signals():
            await worker.start()
            listener = bind_socket(settings.host, settings.port)
            server = _Server(_config(service))
            worker.on_death = lambda: _on_worker_death(service)
            await _serve(service, server, listener, signals)
    finally:
        worker.close()


async def _serve(
    service: Service, server: "_Server", listener: socket.socket, signals: Signals
) -> None:
    """Run all tasks; the first to finish stops the others."""
    http = asyncio.create_task(server.serve(sockets=[listener]))
    batches = asyncio.create_task(service.batcher.run())
    supervision = asyncio.create_task(service.worker.supervise())
    reloads = asyncio.create_task(signals.reload_on_request())
    stop = asyncio.create_task(signals.wait_for_stop())
    while not server.started and not http.done():
        await asyncio.sleep(0.01)
    _announce(service, listener)
    tasks = {http, batches, supervision, reloads, stop}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await _drain(service, listener, server)
        server.should_exit = True
        await asyncio.wait({http}, timeout=5)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drain(service: Service, listener: socket.socket, server: "_Server") -> None:
    """Answer connections that were accepted, or wait in the backlog, before the end."""
    refuse_new_connections(listener)
    # In this time the last handshakes end.
    await _wait_until_idle(service)
    loop = asyncio.get_running_loop()
    end = loop.time() + _DRAIN_SECONDS
    while loop.time() < end and select.select([listener], [], [], 0)[0]:
        await asyncio.sleep(0)
    for each in server.servers:
        each.close()
    await _wait_until_idle(service)


async def _wait_until_idle(service: Service) -> None:
    """Wait until no request is open and no connection is without one."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _DRAIN_SECONDS
    while loop.time() < end:
        await asyncio.sleep(0.05)
        # After a pause of the process the timer may be due before a connection that
        # was accepted is made, and its request read.
        for _ in range(_ACCEPT_PASSES):
            await asyncio.sleep(0)
        if not (service.app.in_flight or service.admission.num_fresh):
            return


def _raise_file_limit(settings: Settings) -> None:
    """Allow a file for every connection, those that are being closed included."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * settings.max_connections + 256
    if soft < wanted and soft != resource.RLIM_INFINITY:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Disable uvicorn's handlers: they drop connections with unread requests."""
        yield


def _on_worker_death(service: Service) -> None:
    """Answer all pending requests with 503."""
    service.metrics.restarts += 1
    service.batcher.fail_all(worker_died())


def _config(service: Service) -> uvicorn.Config:
    settings = service.settings
    # uvicorn makes the protocols, so the class carries the settings.
    shared = {
        "settings": settings,
        "turns": FairScheduler(),
        "admission": service.admission,
    }
    protocol = type("Protocol", (HTTPProtocol,), shared)
    return uvicorn.Config(
        service.app,
        http=protocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=min(2048, max(128, settings.max_connections)),
        timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]  # a float too
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )


def _announce(service: Service, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(
        f"serving {describe_model(service.worker.model_info)} at {url}",
        f"page: {url}/   stop: Ctrl-C",
        f"next: curl -F image=@photo.jpg {url}/predict",
        sep="\n",
        flush=True,
    )
