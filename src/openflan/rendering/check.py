"""The lints of `openflan catalog check`: every template over real rows, every fault reported with its place.

Takes a task and some of its rows, gives `Problem`s. What cannot be seen without rows (an empty side, an answer that
stands in the prompt) is looked for on each row; a fault of a template is reported once, with the first row it shows on.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from jinja2 import TemplateSyntaxError

from openflan.catalog.task import Task, Template
from openflan.errors import CatalogError, Problem, nearest
from openflan.ledger import Ledger
from openflan.rendering.environment import compile_expression, compile_text, variables
from openflan.rendering.example import Example
from openflan.rendering.render import ReadRow, read_columns, render
from openflan.sources.prepare import STEPS
from openflan.sources.read import Row

MAX_TARGET_WORDS = 250
"""About the paper's 256 target tokens; a template whose targets are mostly longer teaches nothing."""

_GLUED = re.compile(r"[a-z][.?!][A-Z][a-z]{2}")
_DOUBLED = re.compile(r"\?\s*\?|(?<!\.)\.\.(?!\.)|,,|;;|(?<!:)::(?!:)")
_ESCAPES = re.compile(r"\\[nt\"']")
_BUILT_IN = {"answer", "options", "options_"}


def check_task(task: Task, where: str) -> Iterator[Problem]:
    """Faults that show without rows: syntax, unknown names and steps, templates that say the same."""
    for name, expression in {**task.columns, "answer.gold": task.answer.gold, "answer.text": task.answer.text}.items():
        if expression is not None:
            yield from _syntax(where, f"columns.{name}" if name in task.columns else name, expression, is_text=False)
    known = task.columns.keys() | _BUILT_IN
    for template in task.templates:
        place = f"template {template.id}"
        for side, text in (("inputs", template.inputs), ("targets", template.targets)):
            if bad := list(_syntax(where, f"{place}.{side}", text, is_text=True)):
                yield from bad
                continue
            for name in sorted(variables(text) - known):
                yield Problem(f"{where}: {place}.{side}", f"unknown name {name}", nearest(name, known))
        if template.kind != "inverted" and "answer" in _names(template.inputs):
            yield Problem(f"{where}: {place}.inputs", "shows the answer", "only an inverted template may")
    for step in task.source.prepare:
        if step not in STEPS:
            yield Problem(f"{where}: source.prepare", f"no step {step!r}", nearest(step, STEPS))
    yield from _repeated(task, where)


def check_rows(task: Task, rows: Sequence[Row], where: str) -> list[Problem]:
    """Faults that show on rows: each once per template, naming the first row."""
    ledger = Ledger()
    read = read_columns(task, rows, ledger)
    problems = {
        (task.name, reason): Problem(
            where, f"{count} of {len(rows)} rows: {reason}", f"e.g. row {ledger.examples[key][0]}"
        )
        for key, count in ledger.dropped.items()
        for reason in [key[2]]
    }
    too_long: Counter[str] = Counter()
    for row in read:
        for problem_key, problem in _row_problems(task, row, where, too_long):
            problems.setdefault(problem_key, problem)
    for template, count in too_long.items():
        if count > 0.9 * len(read):
            what = (
                f"targets of {count} of {len(read)} rows are longer than {MAX_TARGET_WORDS} words, so tuning drops them"
            )
            problems[template, "long"] = Problem(f"{where}: template {template}", what)
    return list(problems.values())


def check_example(example: Example, template: Template, row: ReadRow) -> Iterator[str]:
    """What is wrong with one rendered example, in words."""
    values = _strings(row)
    for side, text in (("inputs", example.inputs), ("targets", example.targets)):
        if not text.strip():
            yield f"{side} is empty"
        elif text != text.strip():
            yield f"{side} begins or ends with white space"
    literal = re.sub(r"\{\{.*?\}\}", "", template.inputs + template.targets)
    if _ESCAPES.search(literal):
        yield "a literal escape (write a real line break in a ''' string)"
    if _made_by_template(_DOUBLED, example, values):
        yield "punctuation is doubled where a column meets the template's words"
    if _made_by_template(_GLUED, example, values):
        yield "two sentences are glued together without a space"
    if any(marker in example.inputs for marker in ("{{", "{%")):
        yield "a Jinja marker is left in the text"
    if len(set(example.options)) < len(example.options):
        yield "two options read the same"


def _row_problems(
    task: Task, row: ReadRow, where: str, too_long: "Counter[str]"
) -> Iterator[tuple[tuple[str, str], Problem]]:
    for template in task.templates:
        place = f"{where}: template {template.id}"
        try:
            example = render(task, row, template)
            if render(task, row, template) != example:
                yield (template.id, "random"), Problem(place, f"row {row.id}: renders differently each time")
        except CatalogError as error:
            yield (template.id, "error"), Problem(place, f"row {row.id}: {error}")
            continue
        too_long[template.id] += len(example.targets.split()) > MAX_TARGET_WORDS
        for fault in check_example(example, template, row):
            yield (template.id, fault), Problem(place, f"row {row.id}: {fault}")


def _syntax(where: str, place: str, text: str, *, is_text: bool) -> Iterator[Problem]:
    try:
        (compile_text if is_text else compile_expression)(text, f"{where}: {place}")
    except CatalogError as error:
        yield from error.problems


def _repeated(task: Task, where: str) -> Iterator[Problem]:
    seen: dict[tuple[str, str], str] = {}
    for template in task.templates:
        key = (" ".join(template.inputs.lower().split()), " ".join(template.targets.lower().split()))
        if key in seen:
            yield Problem(f"{where}: template {template.id}", f"says the same as {seen[key]}")
        seen.setdefault(key, template.id)


def _made_by_template(pattern: re.Pattern[str], example: Example, values: Sequence[str]) -> bool:
    """Whether the rendered inputs hold more matches than the columns bring along: then the template makes one."""
    return len(pattern.findall(example.inputs)) > sum(
        len(pattern.findall(value)) * example.inputs.count(value) for value in set(values) if value
    )


def _strings(row: ReadRow) -> list[str]:
    texts: list[str] = []
    for value in (*row.columns.values(), list(row.options), list(row.texts)):
        texts += [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
    return texts


def _names(text: str) -> frozenset[str]:
    try:
        return variables(text)
    except TemplateSyntaxError:
        return frozenset()
