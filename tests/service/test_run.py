import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tocsin_service import run, web


def _service(name: str, events: list[str], **steps: object) -> run.Service:
    async def note(what: str) -> None:
        events.append(f"{what} {name}")

    async def loop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            events.append(f"loop ended {name}")

    return run.Service(
        name,
        start=lambda: note("start"),
        loops=(loop,),
        drain=lambda: note("drain"),
        close=lambda: note("close"),
    )


async def test_services_start_in_order_and_stop_in_reverse() -> None:
    """Each one's loops end before it drains, and it drains before it closes."""
    events: list[str] = []
    stop = asyncio.Event()

    async def ready() -> None:
        events.append("ready")
        stop.set()

    assert await run.serve([_service("a", events), _service("b", events)], stop=stop, ready=ready) == 0
    assert events == [
        *["start a", "start b", "ready"],
        *["loop ended b", "drain b", "close b", "loop ended a", "drain a", "close a"],
    ]


async def test_a_failing_loop_ends_the_process_with_1() -> None:
    """A part that died must not be missing silently."""
    events: list[str] = []

    async def broken() -> None:
        raise ValueError("no")

    services = [_service("a", events), run.Service("b", loops=(broken,))]
    assert await run.serve(services) == 1
    assert events[-1] == "close a"


async def test_a_failing_start_closes_what_was_opened() -> None:
    """The one that failed is closed too."""
    events: list[str] = []

    async def broken() -> None:
        raise ValueError("no")

    async def close() -> None:
        events.append("close b")

    assert await run.serve([_service("a", events), run.Service("b", start=broken, close=close)]) == 1
    assert events == ["start a", "close b", "loop ended a", "drain a", "close a"]


async def test_a_stop_cuts_a_start_short() -> None:
    """SIGTERM does not wait for a database that does not answer; what was started is stopped, and 0 is the code."""
    events: list[str] = []
    stop = asyncio.Event()

    async def never() -> None:
        stop.set()
        await asyncio.Event().wait()

    async def ready() -> None:
        events.append("ready")

    services = [_service("a", events), run.Service("b", start=never), _service("c", events)]
    async with asyncio.timeout(5):
        assert await run.serve(services, stop=stop, ready=ready) == 0
    assert events == ["start a", "loop ended a", "drain a", "close a"]


async def test_however_it_ends_what_was_started_is_stopped() -> None:
    """Cancelled from outside, the services still stop in order."""
    events: list[str] = []
    up = asyncio.Event()

    async def ready() -> None:
        up.set()

    served = asyncio.create_task(run.serve([_service("a", events)], ready=ready))
    await up.wait()
    served.cancel()
    with pytest.raises(asyncio.CancelledError):
        await served
    assert events == ["start a", "loop ended a", "drain a", "close a"]


async def test_a_reload_does_not_outlive_the_stop() -> None:
    """One that is under way is given up before anything stops, or it would start parts again behind us."""
    events: list[str] = []
    stop = asyncio.Event()

    async def ready() -> None:
        os.kill(os.getpid(), signal.SIGHUP)

    async def reload() -> None:
        try:
            events.append("reload")
            stop.set()
            await asyncio.Event().wait()
        finally:
            events.append("given up")

    assert await run.serve([_service("a", events)], stop=stop, ready=ready, reload=reload) == 0
    assert events == ["start a", "reload", "given up", "loop ended a", "drain a", "close a"]


async def test_shutdown_is_bounded() -> None:
    """A part that never finishes draining does not keep the process; the exit code says so."""
    stop = asyncio.Event()
    stop.set()
    events: list[str] = []

    async def never() -> None:
        await asyncio.Event().wait()

    began = time.monotonic()
    assert await run.serve([_service("a", events), run.Service("b", drain=never)], stop=stop, grace=0.3) == 1
    assert time.monotonic() - began < 2


async def test_requests_in_flight_are_answered_before_the_end() -> None:
    """SIGTERM does not cut an answer off."""
    began, stop = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Response:
        began.set()
        await stop.wait()
        await asyncio.sleep(0.1)
        return PlainTextResponse("whole")

    listener = web.bind(web.Address("127.0.0.1", 0))
    url = web.bound(listener).url
    service = run.Service("a", app=Starlette(routes=[Route("/", slow)]), listener=listener)
    served = asyncio.create_task(run.serve([service], stop=stop))
    async with httpx.AsyncClient() as client:
        answer = asyncio.create_task(client.get(url))
        await began.wait()
        stop.set()
        assert (await answer).text == "whole"
    assert await served == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_real_process_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    """SIGTERM and Ctrl+C drain and give 0; SIGHUP reloads and does not end it."""
    script = tmp_path / "service.py"
    script.write_text(
        "import asyncio, sys\n"
        "from tocsin_service import run\n"
        "async def say(text): print(text, flush=True)\n"
        "service = run.Service('a', drain=lambda: say('drained'))\n"
        "sys.exit(asyncio.run(run.serve([service], ready=lambda: say('ready'), reload=lambda: say('reloaded'))))\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGHUP)
        assert process.stdout.readline() == "reloaded\n"
        os.kill(process.pid, number)
        assert process.stdout.read() == "drained\n"
    assert process.returncode == 0
