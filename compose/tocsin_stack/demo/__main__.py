"""`python -m tocsin_stack.demo`: the shop and its customers in one process, until SIGTERM."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Load the shop with garbage collection off, which a third of that time would go into, and run it."""
    gc.disable()  # `run.serve` switches it on again
    from tocsin_stack.demo import process

    return process.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
