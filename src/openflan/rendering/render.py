"""Rows to examples: columns, options and answer are read once per row, then any template can be rendered.

Takes a task and rows, gives `Example`s; rows that do not fit are dropped with file, row id and reason.
Read next: `mixture/mixture.py`.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast

from jinja2 import TemplateError, Undefined

from openflan.catalog.task import Task, Template
from openflan.errors import CatalogError, Problem, nearest
from openflan.ledger import Ledger
from openflan.rendering.environment import (
    TRIM_END,
    TRIM_START,
    compile_expression,
    compile_text,
    expression_names,
    variables,
)
from openflan.rendering.example import Example
from openflan.sources.read import Row
from openflan.sources.texts import texts_within

Wording = Literal["instructions", "no_options", "no_template", "no_template_options", "dataset_name"]
"""`instructions`: the task's templates. `no_template` and `dataset_name` are the ablations of paper section 4.3 (figure
8), which have no list of options either; `no_options` and `no_template_options` take away one of the two only."""
TEMPLATED: tuple[Wording, ...] = ("instructions", "no_options")
"""The wordings that differ by template."""

STAGE = "render"
_LINES_LEFT = re.compile(r"\n{3,}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_EVALUATION_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class ReadRow:
    """A row's columns, options and answer, checked and ready for any template."""

    id: str
    columns: Mapping[str, Any]
    raw: Mapping[str, Any]
    options: tuple[str, ...]
    gold: tuple[int, ...]
    texts: tuple[str, ...]
    group: str
    grade: float | None = None
    """The number gold was rounded from, where the task has one."""


class RowError(Exception):
    """Why one row cannot be used; becomes a reason in the ledger."""


def read_columns(task: Task, rows: Iterable[Row], ledger: Ledger) -> list[ReadRow]:
    """Evaluate the task's column and answer expressions; unusable rows are counted in `ledger` (stage "render")."""
    done: list[ReadRow] = []
    for row in rows:
        try:
            done.append(_read_row(task, row))
        except RowError as error:
            ledger.drop(STAGE, task.name, row.id, str(error))
        else:
            ledger.keep(STAGE, task.name)
    return done


def render(task: Task, row: ReadRow, template: Template, wording: Wording = "instructions") -> Example:
    """One example. For the wordings without templates it only decides which row of options is meant.

    Raises CatalogError if the template cannot be rendered on this row (a fault of the task file).
    """
    options = _options(task, row, template)
    golds = [options[i] for i in row.gold] if options else list(row.texts)
    block = options_block(options)
    listed = "" if wording == "no_options" else block
    values = {**row.columns, "answer": golds[0], "options": list(options), "options_": listed}
    templated = wording in TEMPLATED
    if templated:
        inputs, targets = _text(task, template, "inputs", values), _text(task, template, "targets", values)
        if listed != block:
            inputs = _LINES_LEFT.sub("\n\n", inputs).strip()
    else:
        inputs, targets = plain_inputs(task, row), golds[0]
        if wording == "no_template_options" and block:
            inputs = f"{inputs}\n\n{block}"
        if wording == "dataset_name":
            inputs = f"[{task.clusters[0].replace('_', ' ')}: {task.title}]\n{inputs}"
    inputs, trimmable = _take_out_marks(inputs)
    scored = template.kind != "inverted" or not templated
    return Example(
        task=task.name,
        row_id=row.id,
        template=template.id if templated else wording,
        kind=template.kind if templated else "direct",
        inputs=inputs,
        targets=_take_out_marks(targets)[0],
        options=options if scored else (),
        gold=row.gold if scored else (),
        grade=row.grade if scored else None,
        references=tuple(golds) if scored and not options else (),
        group=row.group,
        trimmable=trimmable,
    )


def plain_inputs(task: Task, row: ReadRow) -> str:
    """The row without any words of ours: what its first direct template shows, one column a line (section 4.3)."""
    used = variables(task.of_kind("direct")[0].inputs)
    return "\n".join(_plain(row.columns[name]) for name in task.columns if name in used)


def _plain(value: Any) -> str:
    return "\n".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)


def options_block(options: Sequence[str]) -> str:
    """The option list as FLAN writes it (paper section 2.3).

    >>> options_block(["yes", "no"])
    'OPTIONS:\\n- yes\\n- no'
    """
    return "\n".join(["OPTIONS:", *(f"- {option}" for option in options)]) if options else ""


def _read_row(task: Task, row: Row) -> ReadRow:
    # Not a number is how pandas writes what is missing.
    fields = {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in row.fields.items()}
    scope = {**fields, "row": dict(fields)}
    columns = _columns(task, scope, fields)
    scope = {**scope, **columns}
    if task.answer.text is not None:
        value = _evaluate(task.answer.text, scope, f"{task.name}: answer.text", "answer", fields)
        texts = tuple(text for text in _strings(_listed(value), "answer") if text.strip())
        if not texts:
            raise RowError("empty answer")
        options, gold, grade = (), (), None
    else:
        texts = ()
        grade = _grade(task, scope, fields)
        options = _option_texts(task, task.answer.options, scope, fields)
        gold = _gold(task, scope, len(options), fields)
    if any(not text.isascii() and _SURROGATE.search(text) for text in texts_within([columns, options, texts])):
        raise RowError("holds half of a surrogate pair, which is no character")
    group = columns.get(task.group) if task.group else None
    return ReadRow(row.id, columns, fields, options, gold, texts, row.id if group is None else str(group), grade)


def _strings(values: Iterable[Any], what: str) -> tuple[str, ...]:
    found = list(values)
    if any(value is None for value in found):
        raise RowError(f"{what} holds a null")
    return tuple(str(value) for value in found)


def _listed(value: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list | tuple) else [value]


def _columns(task: Task, scope: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: scope[e] for name, e in task.columns.items() if e in fields and fields[e] is not None}
    others = {name: e for name, e in task.columns.items() if name not in plain}
    try:  # one call for all columns costs what a call for one does
        together = compile_expression(_together(tuple(others.items())), task.name)(scope) if others else {}
        if not any(_is_missing(together[name], e, scope) for name, e in others.items()):
            return {name: plain[name] if name in plain else _taken(together[name]) for name in task.columns}
    except (CatalogError, *_EVALUATION_ERRORS):
        pass
    return {
        name: _evaluate(expression, scope, f"{task.name}: columns.{name}", f"column {name}", fields)
        for name, expression in task.columns.items()
    }


@cache
def _together(columns: tuple[tuple[str, str], ...]) -> str:
    return "{" + ", ".join(f"'{name}': ({expression})" for name, expression in columns) + "}"


def _is_missing(value: Any, expression: str, scope: Mapping[str, Any]) -> bool:
    # A filter turns null into the text "None", which would be read as a word.
    return (
        value is None
        or isinstance(value, Undefined)
        or (
            isinstance(value, list | tuple)
            and any(isinstance(part, Undefined) for part in cast("Sequence[Any]", value))
        )
        or ("None" in str(value) and any(scope.get(name, "") is None for name in expression_names(expression)))
    )


def _evaluate(expression: str, scope: dict[str, Any], where: str, what: str, fields: Mapping[str, Any]) -> Any:
    try:
        value = _taken(compile_expression(expression, where)(scope))
    except _EVALUATION_ERRORS as error:
        raise RowError(f"{what}: {error}; the row has {', '.join(sorted(map(str, fields)))}") from error
    if _is_missing(value, expression, scope):
        raise RowError(f"{what} is null")
    return value


def _taken(value: Any) -> Any:
    """The value itself; the items of one that gives them one by one, as Jinja's `map` and `select` do."""
    return list(cast("Iterator[Any]", value)) if isinstance(value, Iterator) else value


def _option_texts(
    task: Task, options: tuple[str, ...] | str | None, scope: dict[str, Any], fields: Mapping[str, Any]
) -> tuple[str, ...]:
    if isinstance(options, tuple):
        return options
    value = _evaluate(str(options), scope, f"{task.name}: options", "options", fields)
    if not isinstance(value, list | tuple) or not value:
        raise RowError("options is not a list of choices")
    texts = _strings(cast("Sequence[Any]", value), "options")
    if any(not text.strip() for text in texts):
        raise RowError("an option is empty")
    return texts


def _gold(task: Task, scope: dict[str, Any], num_options: int, fields: Mapping[str, Any]) -> tuple[int, ...]:
    value = _evaluate(str(task.answer.gold), scope, f"{task.name}: answer.gold", "gold", fields)
    given = _listed(value)
    if any(isinstance(index, float) and not index.is_integer() for index in given):
        raise RowError(f"gold {value!r} is not an index")
    try:
        gold = tuple(int(index) for index in given)
    except (TypeError, ValueError) as error:
        raise RowError(f"gold {value!r} is not an index") from error
    if not gold or any(not 0 <= index < num_options for index in gold):
        raise RowError(f"label {value!r} is outside 0..{num_options - 1}")
    return gold


def _grade(task: Task, scope: dict[str, Any], fields: Mapping[str, Any]) -> float | None:
    if task.answer.grade is None:
        return None
    value = _evaluate(task.answer.grade, scope, f"{task.name}: answer.grade", "grade", fields)
    try:
        grade = float(value)
    except (TypeError, ValueError) as error:
        raise RowError(f"grade {value!r} is not a number") from error
    if not math.isfinite(grade):
        raise RowError(f"grade {value!r} is not a number")
    return grade


def _options(task: Task, row: ReadRow, template: Template) -> tuple[str, ...]:
    if template.options is None or not row.options:
        return row.options
    where = f"{task.name}: template {template.id}.options"
    scope = {**row.raw, "row": dict(row.raw), **row.columns, "options": list(row.options)}
    try:
        own = _option_texts(task, template.options, scope, row.raw)
    except RowError as error:
        raise CatalogError(Problem(where, f"row {row.id}: {error}")) from error
    if len(own) != len(row.options):
        what = f"row {row.id}: {len(own)} options, the task has {len(row.options)} for it"
        raise CatalogError(Problem(where, what, "give other words for all of them, in the same order"))
    return own


def _text(task: Task, template: Template, side: Literal["inputs", "targets"], values: dict[str, Any]) -> str:
    where = f"{task.name}: template {template.id}.{side}"
    try:
        return compile_text(getattr(template, side), where).render(values)
    except _EVALUATION_ERRORS as error:
        missing = sorted(variables(getattr(template, side)) - values.keys())
        hint = nearest(missing[0], values) if missing else ""
        raise CatalogError(Problem(where, str(error), hint)) from error


def _take_out_marks(text: str) -> tuple[str, tuple[int, int] | None]:
    start, end = text.find(TRIM_START), text.find(TRIM_END)
    if start < 0 or end < start:
        return text, None
    clean = text.replace(TRIM_START, "").replace(TRIM_END, "")
    return clean, (start, end - 1)
