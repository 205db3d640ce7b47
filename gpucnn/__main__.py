"""`python -m gpucnn` is the command `gpucnn`."""

from __future__ import annotations

from gpucnn.cli import main

if __name__ == "__main__":
    main(prog_name="python -m gpucnn")
