"""The texts within a value of any depth, as rows and records hold them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast


def texts_within(value: Any) -> Iterator[str]:
    """Every text within a value that is not empty, in order: of lists their items, of mappings their values."""
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, Mapping):
        yield from texts_within(list(cast("Mapping[str, Any]", value).values()))
    elif isinstance(value, list | tuple):
        for item in cast("Sequence[Any]", value):
            yield from texts_within(item)
