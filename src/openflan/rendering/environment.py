"""Jinja2's immutable sandbox, set up once: templates and column expressions can read rows and do nothing else."""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, Undefined, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from openflan.errors import CatalogError, Problem

TRIM_START, TRIM_END = "\ue000", "\ue001"
"""Private-use characters that carry the bounds of a trimmable span through Jinja; rendering takes them out again."""


def _trimmable(text: object) -> str:
    return f"{TRIM_START}{text}{TRIM_END}"


_SENTENCE_END = re.compile(r"[.!?][\"')\]]?(?=\s)")


def opening_sentences(text: str, most: int) -> str:
    """The whole sentences at the beginning of a text that take at most `most` characters; whole words where none does.

    >>> opening_sentences("It rained. It poured all day long.", 20)
    'It rained.'
    """
    text = text.strip()
    if len(text) <= most:
        return text
    ends = [found.end() for found in _SENTENCE_END.finditer(text, 0, most + 1)]
    return text[: ends[-1]] if ends else text[:most].rsplit(None, 1)[0] + " …"


@cache
def environment() -> ImmutableSandboxedEnvironment:
    """The one environment. Two filters are ours: `trimmable` marks a passage whose middle may be cut, and
    `opening_sentences(700)` takes the beginning of a long text."""
    env = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    env.filters["trimmable"] = _trimmable  # pyright: ignore[reportArgumentType] -- jinja types filters too narrowly
    env.filters["opening_sentences"] = opening_sentences  # pyright: ignore[reportArgumentType] -- likewise
    env.globals.clear()  # "dict", "range" and such would stand in for a column that a row lacks
    return env


_CONSTANTS = {"true", "false", "none", "True", "False", "None"}


@cache
def compile_text(text: str, where: str) -> Template:
    """A compiled template; raises CatalogError naming `where` and the line on a syntax error."""
    try:
        _refuse_self(text, where)
        template = environment().from_string(text)
        # Jinja walks these for every text it renders, and a chain of mappings, as it makes them, takes much longer.
        template.globals = dict(template.globals)
        return template
    except TemplateSyntaxError as error:
        what = f"template syntax: {error.message}" + (f" (its line {error.lineno})" if error.lineno > 1 else "")
        raise CatalogError(Problem(where, what)) from error


@cache
def compile_expression(expression: str, where: str) -> Callable[..., Any]:
    """A compiled expression over a row; calling it raises KeyError-like CatalogError for an unknown column."""
    if expression.isidentifier() and expression not in _CONSTANTS:  # Jinja takes 50 microseconds to look up a name

        def look_up(fields: dict[str, Any]) -> Any:
            if expression not in fields:
                raise TemplateError(f"'{expression}' is undefined")
            return fields[expression]

        return look_up
    try:
        _refuse_self("{{ " + expression + " }}", where)
        compiled = environment().compile_expression(expression, undefined_to_none=False)
    except TemplateSyntaxError as error:
        raise CatalogError(Problem(where, f"expression {expression!r}: {error.message}")) from error

    def evaluate(fields: dict[str, Any]) -> Any:
        value = compiled(fields)
        if isinstance(value, Undefined):
            raise TemplateError(f"nothing at {expression!r}")
        return value

    return evaluate


def _refuse_self(text: str, where: str) -> None:
    """To Jinja `self` is the template, whatever a row has by that name."""
    if any(name.name == "self" for name in environment().parse(text).find_all(nodes.Name)):
        raise CatalogError(Problem(where, "reads `self`, which is Jinja's own name", 'write row["self"] for a column'))


@cache
def variables(text: str) -> frozenset[str]:
    """Names a template takes from outside."""
    return frozenset(meta.find_undeclared_variables(environment().parse(text)))


@cache
def expression_names(expression: str) -> frozenset[str]:
    """Columns an expression reads."""
    return variables("{{ " + expression + " }}")
