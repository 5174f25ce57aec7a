"""Runs a shipper until it is ended: `run_shipper.py CONFIG DATA_FOLDER`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tocsin_service import run, telemetry
from tocsin_service.settings import Document
from tocsin_ship import config
from tocsin_ship.shipper import Shipper


async def main() -> int:
    settings = config.load(Document.open(Path(sys.argv[1])))
    shipper = Shipper(settings, data_folder=Path(sys.argv[2]))
    return await run.serve([shipper.service(None)])


if __name__ == "__main__":
    telemetry.configure("ship-test", level="warning")
    sys.exit(asyncio.run(main()))
