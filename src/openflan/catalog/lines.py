"""Where in a task file a key or a template stands, so that a problem can name its line."""

import re
from collections.abc import Sequence
from pathlib import Path

_HEADER = re.compile(r"\s*(\[{1,2})\s*([\w.]+)\s*\]{1,2}")
_KEY = re.compile(r"""\s*["']?([\w-]+)["']?\s*=""")


class TaskLines:
    """Line numbers, from 1, of the keys of one TOML file."""

    def __init__(self, text: str) -> None:
        self._lines: dict[tuple[str | int, ...], int] = {}
        self._templates: dict[str, int] = {}
        table: tuple[str | int, ...] = ()
        counts: dict[str, int] = {}
        quote = ""
        for number, line in enumerate(text.splitlines(), 1):
            if quote:
                quote = "" if line.count(quote) % 2 else quote
                continue
            if header := _HEADER.match(line):
                table = (header[2],)
                if header[1] == "[[":
                    table = (header[2], counts.get(header[2], 0))
                    counts[header[2]] = counts.get(header[2], 0) + 1
                self._lines.setdefault(table, number)
            elif key := _KEY.match(line):
                self._lines.setdefault((*table, key[1]), number)
                if key[1] == "id" and table[:1] == ("template",) and (name := re.search(r"""["']([^"']*)["']""", line)):
                    self._templates.setdefault(name[1], number)
            for mark in ("'''", '"""'):
                if line.count(mark) % 2:
                    quote = mark

    @classmethod
    def of(cls, file: Path) -> "TaskLines":
        """The lines of a file; none where it cannot be read as text."""
        try:
            return cls(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return cls("")

    def key(self, path: Sequence[str | int]) -> int | None:
        """The line of the nearest enclosing key of a dotted path, such as ("template", 2, "inputs")."""
        for length in range(len(path), 0, -1):
            if (line := self._lines.get(tuple(path[:length]))) is not None:
                return line
        return None

    def template(self, template_id: str) -> int | None:
        """The line of a template's id."""
        return self._templates.get(template_id)

    def mentioned(self, message: str) -> int:
        """The line of the template that a message about the whole file speaks of, else 1."""
        found = re.search(r"template (\w+)", message)
        return (self._templates.get(found[1]) if found else None) or 1


def at(file: Path | str, line: int | None) -> str:
    """`file:line`, or the file alone."""
    return str(file) if line is None else f"{file}:{line}"
