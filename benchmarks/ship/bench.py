"""CPU seconds for a million 300-byte events, by way of Logstash's TCP input: the shipper beside python-logstash.

Run: python benchmarks/ship/bench.py [--events 500000]

Both speak to the same sink, which runs in a process of its own and counts lines. The CPU time is that of the sending
process between its first event and the sink's last; starting Python does not count. Machines differ: compare the
ratio, not the seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import logstash
from prometheus_client import CollectorRegistry

from tocsin_service.settings import Document
from tocsin_ship import config
from tocsin_ship.shipper import Shipper

EVENT_BYTES = 300
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Cost:
    """What sending `events` took, in seconds."""

    events: int
    cpu: float
    wall: float

    @property
    def per_million(self) -> float:
        """CPU seconds for a million events."""
        return self.cpu / self.events * 1e6


def sink(report: Connection, expected: int) -> None:
    """Accept one connection, count newlines, and say so when all have come."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        report.send(listener.getsockname()[1])
        connection, _ = listener.accept()
        buffer = bytearray(1 << 20)
        count = 0
        with connection:
            while size := connection.recv_into(buffer):
                count += buffer.count(b"\n", 0, size)
                if count == expected:
                    report.send(count)


def event(number: int) -> bytes:
    """Return an event of `EVENT_BYTES`, newline included, as the library writes them."""
    fields = {
        "@timestamp": "2026-01-01T00:00:00.000Z",
        "log.level": "info",
        "message": "GET /items/{id} 200",
        "service.name": "shop",
        "trace.id": f"{number:032x}",
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "pad": "",
    }
    line = json.dumps(fields, separators=(",", ":")).encode()
    return line[:-2] + b"x" * (EVENT_BYTES - len(line) - 1) + line[-2:] + b"\n"


def ship(port: int, path: Path, events: int, done: Callable[[], None]) -> Cost:
    """Send the lines of a file with the shipper."""

    async def run() -> Cost:
        text = f'inputs: [{{path: "{path}"}}]\noutputs: [{{kind: logstash_tcp, host: "127.0.0.1:{port}"}}]\n'
        settings = config.load(Document.parse(text))
        shipper = Shipper(settings, data_folder=path.parent / "data", registry=CollectorRegistry())
        service = shipper.service(None)
        cpu, wall = time.process_time(), time.perf_counter()
        await service.start()
        await asyncio.to_thread(done)
        cost = Cost(events, time.process_time() - cpu, time.perf_counter() - wall)
        await service.drain()
        await service.close()
        return cost

    return asyncio.run(run())


def log(port: int, _: Path, events: int, done: Callable[[], None]) -> Cost:
    """Send as many events by logging through python-logstash's handler, as an application does."""
    handler = logstash.TCPLogstashHandler("127.0.0.1", port, version=1)
    logger = logging.getLogger("bench")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    cpu, wall = time.process_time(), time.perf_counter()
    for number in range(events):
        logger.info("GET /items/{id} 200", extra={"status": 200, "trace": f"{number:032x}"})
    done()
    cost = Cost(events, time.process_time() - cpu, time.perf_counter() - wall)
    handler.close()
    return cost


def _measured(result: Connection, sender: str, port: int, path: Path, events: int, arrived: Connection) -> None:
    senders = {"ship": ship, "log": log}
    result.send(senders[sender](port, path, events, lambda: arrived.recv() and None))


def measure(sender: str, path: Path, events: int) -> Cost:
    """Run sink and sender, each in a process of its own, and return the sender's cost."""
    arrived, report = _SPAWN.Pipe()
    result, answer = _SPAWN.Pipe()
    receiving = _SPAWN.Process(target=sink, args=(report, events))
    receiving.start()
    port = arrived.recv()
    sending = _SPAWN.Process(target=_measured, args=(answer, sender, port, path, events, arrived))
    sending.start()
    cost: Cost = result.recv()
    sending.join()
    receiving.join()
    return cost


def main() -> None:
    """Print one line a sender, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=500_000, help="events for the shipper (default: 500000)")
    events = parser.parse_args().events
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "app.log"
        with path.open("wb") as file:
            for number in range(events):
                file.write(event(number))
        ours = measure("ship", path, events)
        theirs = measure("log", path, max(1, events // 10))
    for name, cost in (("tocsin ship, file to tcp", ours), ("python-logstash, logging to tcp", theirs)):
        rate = cost.events / cost.wall
        print(f"{name:32} {cost.per_million:8.2f} CPU-s per million events {rate:10,.0f} events/s")
    print(f"ratio: {theirs.per_million / ours.per_million:.0f}")


if __name__ == "__main__":
    main()
