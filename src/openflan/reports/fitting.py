"""A table for a terminal of any width: nothing in it is ever cut."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


class Fitting:
    """A table where the terminal has room for all of it, otherwise lines that wrap."""

    def __init__(self, table: Table, lines: Sequence[Text]) -> None:
        self._table, self._lines = table, lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        natural = Measurement.get(console, options.update(width=10_000), self._table).maximum
        yield from [self._table] if natural <= options.max_width else self._lines
