"""Slow work of ours inside an event loop, whichever that is: in a thread under asyncio, at once under another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def beside_the_loop(work: Callable[[], Result]) -> Result:
    """Do something that takes a while, so that nobody else of the loop waits for it if that can be had.

    A server that runs trio has no asyncio loop to ask for a thread, and is not worth a dependency: there it waits.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    return await asyncio.to_thread(work)
