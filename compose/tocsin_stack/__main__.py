"""The `tocsin` command, also as `python -m tocsin_stack`."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command; where only the library is installed, say what is missing."""
    gc.disable()  # what is loaded stays: `run.serve` switches collection on again once everything is up
    try:
        from tocsin_stack import cli
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("tocsin"):
            raise
        sys.stderr.write(f"the tocsin command needs {error.name}; install it with: pip install 'tocsin[all]'\n")
        sys.exit(2)
    cli.main()


if __name__ == "__main__":
    main()
