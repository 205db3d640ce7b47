"""Tables, in a terminal and in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table; the first `left` columns are words, the others numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # In a pipe there is no width to fit: never break a line.
    width = None if sys.stdout.isatty() else 10_000
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False)
    table = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, padding=(0, 1, 0, 1))
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
