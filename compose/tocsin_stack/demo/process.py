"""The shop and its customers in one process, until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tocsin_service import run, web
from tocsin_stack.demo.shop import create_app
from tocsin_stack.demo.traffic import RATE, Traffic

LOG_LIMIT: Final = 32 * 1024 * 1024
"""Bytes of log kept; then the file becomes `<name>.1` and a new one begins."""
_LOOK_EVERY = 30.0


def main(arguments: Sequence[str]) -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tocsin_stack.demo", description=__doc__)
    parser.add_argument("--listen", type=web.Address.parse, default=web.Address("127.0.0.1", 8000), metavar="HOST:PORT")
    parser.add_argument("--fd", type=int, help="an inherited socket that listens already, instead of --listen")
    parser.add_argument("--log-file", type=Path, help="where JSON log lines go; default: stdout")
    parser.add_argument("--rate", type=float, default=RATE, help="customers' requests a second; 0 for none")
    options = parser.parse_args(arguments)
    try:
        listener = web.bind(options.listen) if options.fd is None else socket.socket(fileno=options.fd)
    except (web.AddressError, OSError) as error:
        parser.error(str(error))
    return asyncio.run(_serve(listener, options.log_file, options.rate))


async def _serve(listener: socket.socket, log_file: Path | None, rate: float) -> int:
    # The customers live in this process; what they ask for is in the access log already.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    app = web.Hardened(create_app(log_file=log_file), body_limit=64 * 1024)
    loops = [Traffic(web.bound(listener).url, rate=rate).run] if rate else []
    if log_file is not None:
        loops.append(lambda: _rotate(log_file))
    return await run.serve([run.Service("demo", app, listener, loops=loops)], grace=1.5)


async def _rotate(log_file: Path) -> None:
    while True:
        await asyncio.sleep(_LOOK_EVERY)
        rotate(log_file, LOG_LIMIT)


def rotate(log_file: Path, limit: int) -> None:
    """Rename a file that has grown past `limit` bytes to `<name>.1`; whoever writes it begins a new one."""
    if log_file.exists() and log_file.stat().st_size > limit:
        log_file.replace(log_file.with_name(f"{log_file.name}.1"))
