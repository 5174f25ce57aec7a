"""`python -m tocsin_stack`: the `tocsin` command where it is not on PATH."""

from tocsin_stack.cli import main

if __name__ == "__main__":
    main()
