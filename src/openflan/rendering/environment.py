"""Jinja2's immutable sandbox, set up once: templates and column expressions can read rows and do nothing else."""

from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, Undefined, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from openflan.errors import CatalogError, Problem

TRIM_START, TRIM_END = "\ue000", "\ue001"
"""Private-use characters that carry the bounds of a trimmable span through Jinja; rendering takes them out again."""


def _trimmable(text: object) -> str:
    return f"{TRIM_START}{text}{TRIM_END}"


@cache
def environment() -> ImmutableSandboxedEnvironment:
    """The one environment; the filter `trimmable` marks a passage whose middle may be cut."""
    env = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    env.filters["trimmable"] = _trimmable  # pyright: ignore[reportArgumentType] -- jinja types filters too narrowly
    return env


@cache
def compile_text(text: str, where: str) -> Template:
    """A compiled template; raises CatalogError naming `where` and the line on a syntax error."""
    try:
        return environment().from_string(text)
    except TemplateSyntaxError as error:
        what = f"template syntax: {error.message}" + (f" (its line {error.lineno})" if error.lineno > 1 else "")
        raise CatalogError(Problem(where, what)) from error


@cache
def compile_expression(expression: str, where: str) -> Callable[..., Any]:
    """A compiled expression over a row; calling it raises KeyError-like CatalogError for an unknown column."""
    try:
        compiled = environment().compile_expression(expression, undefined_to_none=False)
    except TemplateSyntaxError as error:
        raise CatalogError(Problem(where, f"expression {expression!r}: {error.message}")) from error

    def evaluate(fields: dict[str, Any]) -> Any:
        value = compiled(fields)
        if isinstance(value, Undefined):
            raise TemplateError(f"nothing at {expression!r}")
        return value

    return evaluate


@cache
def variables(text: str) -> frozenset[str]:
    """Names a template takes from outside."""
    return frozenset(meta.find_undeclared_variables(environment().parse(text)))


@cache
def expression_names(expression: str) -> frozenset[str]:
    """Columns an expression reads."""
    return variables("{{ " + expression + " }}")
