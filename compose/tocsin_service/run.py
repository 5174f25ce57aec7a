"""Runs services in one process: start in order, serve, and on SIGTERM stop in reverse order within a deadline.

Shutdown of each service, last started first: its socket closes and requests in flight end, its loops are cancelled,
`drain` finishes what is in memory, `close` lets go of files and connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import uvicorn
from starlette.types import ASGIApp

from tocsin_service import telemetry
from tocsin_service.web_auth import Guard
from tocsin_service.web_config import WebFile
from tocsin_service.web_tls import Rotating

Step = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """Do nothing; the default of every step."""


@dataclass(frozen=True, slots=True)
class Service:
    """One part of the process.

    Args:
        listeners: more sockets that answer like `listener`.
        web: TLS, passwords and headers of its sockets.
        start: opens what the service needs; the socket answers only after it.
        settle: waits for what `start` has only begun, once all services have started.
        loops: run until they are cancelled; one that ends or raises ends the process with exit code 1.
        drain: finishes what is in memory once nothing new comes in.
        close: lets go of everything; always called, also after a failed start.
    """

    name: str
    app: ASGIApp | None = None
    listener: socket.socket | None = None
    listeners: Sequence[socket.socket] = field(default=())
    web: WebFile | None = None
    start: Step = nothing
    settle: Step = nothing
    loops: Sequence[Step] = field(default=())
    drain: Step = nothing
    close: Step = nothing


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the runner has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Running:
    """A service that has been started."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.tasks: list[asyncio.Task[None]] = []
        self._server: _Server | None = None

    async def start(self) -> None:
        service = self.service
        await service.start()
        sockets = [each for each in (service.listener, *service.listeners) if each is not None]
        if service.app is not None and sockets:
            await self._serve(service.app, sockets)
        for loop in service.loops:
            self.tasks.append(asyncio.create_task(_forever(service.name, loop), name=f"{service.name} loop"))

    async def _serve(self, app: ASGIApp, sockets: list[socket.socket]) -> None:
        web = self.service.web
        config = uvicorn.Config(
            app if web is None else Guard(app, web),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        config.load()
        if web is not None and web.settings().tls_server_config is not None:
            config.ssl = Rotating(web)
        self._server = _Server(config)
        served = asyncio.create_task(self._server.serve(sockets=sockets), name=f"{self.service.name} server")
        self.tasks.append(served)
        while not self._server.started and not served.done():  # noqa: ASYNC110 uvicorn offers no event to wait for
            await asyncio.sleep(0.005)
        if served.done():
            served.result()
            raise RuntimeError(f"the server of {self.service.name} ended at once")

    async def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
            await asyncio.gather(self.tasks.pop(0), return_exceptions=True)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.service.drain()


async def _forever(name: str, loop: Step) -> None:
    await loop()
    raise RuntimeError(f"a loop of {name} ended by itself")


async def serve(
    services: Sequence[Service],
    *,
    grace: float = 4.5,
    stop: asyncio.Event | None = None,
    ready: Step = nothing,
    reload: Step | None = None,
) -> int:
    """Run `services` until SIGTERM, SIGINT, `stop` or a crash; return the exit code.

    Args:
        grace: seconds that the whole shutdown may take; what is not done then is left and logged.
        ready: called once all services are up.
        reload: called on SIGHUP.

    Returns:
        0 after a clean stop, 1 when a service failed or did not stop in time.
    """
    log = telemetry.logger("tocsin.run")
    stop = stop or asyncio.Event()
    running: list[Running] = []
    code = 0
    async with _signals(stop, reload) as reloads:
        try:
            if await _until(stop, _start(services, running, ready)) and (failed := await _first_failure(running, stop)):
                error = None if failed.cancelled() else failed.exception()
                log.error("a part failed, stopping", part=failed.get_name(), exc_info=error)
                code = 1
        except Exception:
            log.exception("a part did not start, stopping", part=running[-1].service.name if running else "")
            code = 1
        finally:
            # Also when we are cancelled: what was started is stopped. A reload could start things again behind us.
            stop.set()
            await _end(reloads)
            if not await _shut_down(running, grace):
                code = 1
    return code


async def _start(services: Sequence[Service], running: list[Running], ready: Step) -> None:
    for service in services:
        running.append(Running(service))
        await running[-1].start()
    for service in services:
        await service.settle()
    _settle_in()
    await ready()


def _settle_in() -> None:
    """Leave what was loaded out of garbage collection, and look at what comes later less often than Python does.

    A service holds many small values for long (alerts, samples): a look at all of them finds nothing and costs a pause.
    """
    gc.freeze()
    gc.enable()
    gc.set_threshold(10_000, 20, 50)


async def _until(stop: asyncio.Event, step: Coroutine[None, None, None]) -> bool:
    """Run `step`, and cut it short at `stop`: nobody waits for a database that does not answer; True if it ended."""
    stopped, begun = asyncio.create_task(_wait(stop)), asyncio.create_task(step)
    try:
        await asyncio.wait([stopped, begun], return_when=asyncio.FIRST_COMPLETED)
        if begun.done():
            begun.result()
            return True
        return False
    finally:
        await _end([stopped, begun])


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _first_failure(running: Sequence[Running], stop: asyncio.Event) -> asyncio.Task[None] | None:
    stopped = asyncio.create_task(_wait(stop))
    tasks = [task for item in running for task in item.tasks]
    done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    return next((task for task in tasks if task in done), None)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _shut_down(running: Sequence[Running], grace: float) -> bool:
    """Stop everything, last started first; return whether all of it was done in time."""
    log = telemetry.logger("tocsin.run")
    clean = True
    deadline = asyncio.get_running_loop().time() + grace
    for item in reversed(running):
        for step in (item.stop, item.service.close):
            try:
                async with asyncio.timeout_at(deadline):
                    await step()
            except TimeoutError:
                log.warning("did not stop in time", part=item.service.name, grace_seconds=grace)
                clean = False
            except Exception:
                log.exception("failed while stopping", part=item.service.name)
                clean = False
    return clean


@contextlib.asynccontextmanager
async def _signals(stop: asyncio.Event, reload: Step | None) -> AsyncIterator[set[asyncio.Task[None]]]:
    """Handle signals inside the block; gives the reloads under way."""
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    def on_reload() -> None:
        if reload is not None and not stop.is_set():
            task = asyncio.create_task(_reload(reload))
            reloads.add(task)
            task.add_done_callback(reloads.discard)

    handlers = {signal.SIGTERM: stop.set, signal.SIGINT: stop.set, signal.SIGHUP: on_reload}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield reloads
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


async def _reload(reload: Step) -> None:
    try:
        await reload()
    except Exception as error:
        telemetry.logger("tocsin.run").error("reload refused, the old configuration stays", reason=str(error))
