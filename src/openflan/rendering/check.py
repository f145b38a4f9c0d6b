"""The lints of `openflan catalog check`: every template over real rows, every fault reported with file and line.

`check_task` finds what shows in the file alone, `check_rows` what shows on rows (an empty side, an answer that stands
in the prompt); a fault of a template is told once, with the first row it shows on. `check_catalog` does both for all.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError

from openflan.catalog.lines import TaskLines, at
from openflan.catalog.load import Catalog
from openflan.catalog.task import OF_TWO_OPTIONS, SPLITS, Task, Template
from openflan.errors import CatalogError, Problem, SourceError, nearest
from openflan.ledger import Ledger
from openflan.rendering.diversity import Diversity, diversity
from openflan.rendering.environment import compile_expression, compile_text, variables
from openflan.rendering.example import Example
from openflan.rendering.render import ReadRow, read_columns, render
from openflan.sources.prepare import STEPS
from openflan.sources.read import STAGE, Row, SourceSettings, could_not_prepare, read_rows
from openflan.sources.specimens import read_specimens

MAX_TARGET_WORDS = 250
"""About the paper's 256 target tokens; a template whose targets are mostly longer teaches nothing."""
MAX_SIMILARITY = 0.75
"""Two direct templates that share more of their words (Jaccard) are one question asked twice."""
LEAK_ROWS = 5
"""Rows that must show different answers before a column that always equals the answer is called one."""
RENDERED_TWICE = 3
"""Rows on which each template is rendered again, to see that it reads the same."""

_GLUED = re.compile(r"[a-z][.?!][A-Z][a-z]{2}")
_GLUED_FIELD = re.compile(r"[^\W_]\{\{|\}\}[^\W_]{2}|\}\}\{\{")
_DOUBLED = re.compile(r"\?\s*\?|(?<!\.)\.\.(?!\.)|,,|;;|(?<!:)::(?!:)|[,;:]\.")
_ESCAPES = re.compile(r"\\[nt\"']")
_FIELD = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_SPACED_FIELD = re.compile(r"\{\{[^{}]*(?:\\n|[\"'] | [\"'])[^{}]*\}\}")
"""A field that brings its own space or line break: `{{ history ~ "\\n" if history }}`."""
_BUILT_IN = {"answer", "options", "options_"}


@dataclass(frozen=True, slots=True)
class TaskCheck:
    """What was found out about one task."""

    task: str
    problems: tuple[Problem, ...]
    rows: int
    """Rows that every template was rendered on."""
    read_from: str
    """"rows" for real ones, "specimens" for the ones beside the task file, "" where neither could be read."""
    not_read: str
    """Why real rows could not be read."""
    dropped: tuple[str, ...]
    """What the task drops of its specimens, which may be there to show it; of real rows each is a problem."""
    diversity: Diversity


def check_catalog(
    catalog: Catalog,
    settings: SourceSettings,
    *,
    limit: int,
    workers: int = 1,
    progress: Callable[[int, str], None] = lambda done, task: None,
) -> list[TaskCheck]:
    """Check every task on up to `limit` rows of each split, in `workers` processes; the results in task order.

    `progress` is given the number of tasks checked and the name of the last one.
    """
    jobs = [(task, catalog.files[name], settings, limit) for name, task in catalog.tasks.items()]
    done: dict[str, TaskCheck] = {}
    # A forked child of a process that has used threads can hang.
    pool = ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 and len(jobs) > 1 else None
    with pool or nullcontext():
        if pool is None:
            results: Iterator[TaskCheck] = (_check(*job) for job in jobs)
        else:
            results = (future.result() for future in as_completed([pool.submit(_check, *job) for job in jobs]))
        for result in results:
            done[result.task] = result
            progress(len(done), result.task)
    return [done[name] for name in catalog.tasks]


def _check(task: Task, file: Path, settings: SourceSettings, limit: int) -> TaskCheck:
    problems = list(check_task(task, file))
    rows: list[Row] = []
    dropped: list[Problem] = []
    read_from, not_read = "", ""
    if not problems:
        try:
            found: list[Problem] = []
            for split in SPLITS:
                ledger = Ledger()
                of_split = read_rows(task, split, settings, ledger, limit=limit)
                found += check_prepared(task, len(of_split), ledger, file, f"{split} row", needed=split == "test")
                rows += of_split
            problems += found
            read_from = "rows"
        except SourceError as error:
            not_read = str(error).splitlines()[0]
            ledger = Ledger()
            if rows := read_specimens(task, file, ledger):
                read_from = "specimens"
            problems += check_prepared(task, len(rows), ledger, file, "specimen")
        read, dropped = read_or_dropped(task, rows, file)
        if read_from != "specimens" or not read:
            problems += dropped
            dropped = []
        problems += check_rows(task, read, file)
    told = tuple(problem.what for problem in dropped)
    return TaskCheck(task.name, tuple(problems), len(rows), read_from, not_read, told, diversity(task))


def check_task(task: Task, file: Path) -> list[Problem]:
    """Faults that show without rows, each with its line in `file`."""
    lines = TaskLines.of(file)
    problems: list[Problem] = []
    expressions = {("columns", name): expression for name, expression in task.columns.items()}
    answer = {"gold": task.answer.gold, "text": task.answer.text, "grade": task.answer.grade}
    expressions |= {("answer", name): expression or "" for name, expression in answer.items()}
    if isinstance(task.answer.options, str):
        expressions["answer", "options"] = task.answer.options
    for path, expression in expressions.items():
        if expression:
            problems += _syntax(expression, f"{at(file, lines.key(path))}: {'.'.join(path)}", compile_expression)
    if task.group is not None and task.group not in task.columns:
        where = f"{at(file, lines.key(['group']))}: group"
        problems.append(Problem(where, f"no column {task.group!r}", nearest(task.group, task.columns)))
    for step in task.source.prepare:
        if step not in STEPS:
            where = f"{at(file, lines.key(['source', 'prepare']))}: source.prepare"
            problems.append(Problem(where, f"no step {step!r}", nearest(step, STEPS)))
    if isinstance(task.answer.options, tuple):
        where = f"{at(file, lines.key(['answer', 'options']))}: answer.options"
        problems += [Problem(where, fault) for fault in _option_faults(task.answer.options)]
    for template in task.templates:
        place = _place(file, lines, template)
        problems += (Problem(f"{place}{side}", fault, hint) for side, fault, hint in _template_faults(task, template))
    problems += _repeated(task, file, lines)
    return problems


def check_prepared(
    task: Task, left: int, ledger: Ledger, file: Path, rows: str, *, needed: bool = False
) -> list[Problem]:
    """What prepare steps cannot read, and that they leave no row; a row that they refuse is no fault by itself.

    needed: none is a fault where there was none to begin with, too.
    """
    where = at(file, TaskLines.of(file).key(["source", "prepare"] if task.source.prepare else ["source"]))
    dropped = {reason: count for (stage, _, reason), count in ledger.dropped.items() if stage == STAGE}
    problems = [
        Problem(where, f"{count} {rows}s: {reason}", f"e.g. row {ledger.examples[STAGE, task.name, reason][0]}")
        for reason, count in dropped.items()
        if could_not_prepare(task, reason)
    ]
    if not left and (dropped or needed):
        said = "; ".join(f"{count} {reason}" for reason, count in dropped.items())
        problems.append(Problem(where, f"no {rows} is left" if dropped else f"there is no {rows}", said))
    return problems


def read_or_dropped(task: Task, rows: Sequence[Row], file: Path) -> tuple[list[ReadRow], list[Problem]]:
    """The rows that the task can use, and each reason why others cannot be, with the first row it shows on."""
    ledger = Ledger()
    read = read_columns(task, rows, ledger)
    where = at(file, TaskLines.of(file).key(["answer"]))
    return read, [
        Problem(where, f"{count} of {len(rows)} rows: {key[2]}", f"e.g. row {ledger.examples[key][0]}")
        for key, count in ledger.dropped.items()
    ]


def check_rows(task: Task, read: Sequence[ReadRow], file: Path) -> list[Problem]:
    """Faults that show on rows: each once for the task or a template, naming the first row."""
    lines = TaskLines.of(file)
    problems: dict[tuple[str, str], Problem] = {}
    where = f"{at(file, lines.key(['metrics']))}: metrics"
    odd = next((row for row in read if len(row.options) != 2), None)
    if odd is not None and (of_two := sorted(OF_TWO_OPTIONS.intersection(task.metrics))):
        what = f"row {odd.id}: {', '.join(of_two)} need two options, it has {len(odd.options)}"
        problems["", "metrics"] = Problem(where, what)
    answers = [text for row in read for text in row.texts or (row.options[i] for i in row.gold)]
    if "rouge" in task.metrics and answers and not rouge_reads(answers):
        what = "rouge reads the letters a to z and digits alone, of which the answers have few or none"
        problems["", "rouge"] = Problem(where, what, "use chrf")
    given = _columns_that_are_the_answer(task, read)
    for template in task.templates:
        place = _place(file, lines, template)
        for fault in _faults_on_rows(task, template, read):
            problems.setdefault((template.id, fault[0]), Problem(place, f"row {fault[1]}: {fault[0]}"))
        if template.kind != "inverted":
            for name in sorted(given & variables(template.inputs)):
                problems[template.id, name] = Problem(
                    place, f"shows column {name}, which is the answer", "only an inverted template may"
                )
    return list(problems.values())


def rouge_reads(texts: Iterable[str]) -> bool:
    """Whether most letters and digits of the texts are ones that rouge-score keeps: a to z, of either case, 0 to 9.

    >>> rouge_reads(["Fünf Äpfel"]), rouge_reads(["Дождь, 2 мм"]), rouge_reads(["…"])
    (True, False, False)
    """
    letters = [letter for text in texts for letter in text if letter.isalnum()]
    return sum(letter.isascii() for letter in letters) > len(letters) / 2


def check_example(example: Example, template: Template, row: ReadRow) -> Iterator[str]:
    """What is wrong with one rendered example, in words."""
    for side, text in (("inputs", example.inputs), ("targets", example.targets)):
        if not text.strip():
            yield f"{side} is empty"
        elif text != text.strip():
            yield f"{side} begins or ends with white space"
    if _made_by_template(_DOUBLED, example, row):
        yield "punctuation is doubled where a column meets the template's words"
    if _made_by_template(_GLUED, example, row):
        yield "two sentences are glued together without a space"
    own = _strings(row)
    if any(mark in example.inputs and not any(mark in value for value in own) for mark in ("{{", "{%")):
        yield "a Jinja marker is left in the text"
    yield from _option_faults(example.options)


def _place(file: Path, lines: TaskLines, template: Template) -> str:
    return f"{at(file, lines.template(template.id))}: template {template.id}"


def _template_faults(task: Task, template: Template) -> Iterator[tuple[str, str, str]]:
    """(".inputs", what is wrong, hint) for what a template's text shows by itself."""
    known = task.columns.keys() | _BUILT_IN
    for side, text in ((".inputs", template.inputs), (".targets", template.targets)):
        if broken := list(_syntax(text, "", compile_text)):
            yield from ((side, problem.what, problem.hint) for problem in broken)
            continue
        for name in sorted(variables(text) - known):
            yield side, f"unknown name {name}", nearest(name, known)
        words = _FIELD.sub("", text)
        if _ESCAPES.search(words):
            yield side, "a literal escape", "write a real line break in a ''' string"
        if glued := _GLUED_FIELD.search(_SPACED_FIELD.sub(" ", text)):
            yield side, f"a field is glued to its neighbour at {glued[0]!r}", "put a space between"
        if text.count("trimmable") > 1:
            yield side, "marks more than one span as trimmable", "only one can be cut"
    if template.kind != "inverted" and "answer" in _names(template.inputs):
        yield ".inputs", "shows the answer", "only an inverted template may"
    by_options = (
        task.form == "multiple_choice"
    )  # a completion prompt may leave it to the options to say what it is about
    if template.kind != "inverted" and not by_options and not _names(template.inputs) & (known - {"answer"}):
        yield ".inputs", "shows nothing of the row", "every row would read the same"
    if isinstance(template.options, tuple):
        yield from ((".options", fault, "") for fault in _option_faults(template.options))


def _faults_on_rows(task: Task, template: Template, rows: Sequence[ReadRow]) -> Iterator[tuple[str, str]]:
    """(fault, id of the row it shows on)."""
    too_long = 0
    for number, row in enumerate(rows):
        try:
            example = render(task, row, template)
            if number < RENDERED_TWICE and render(task, row, template) != example:
                yield "renders differently each time", row.id
        except CatalogError as error:
            yield str(error), row.id
            return
        too_long += len(example.targets.split()) > MAX_TARGET_WORDS
        for fault in check_example(example, template, row):
            yield fault, row.id
    if too_long > 0.9 * len(rows):
        fault = f"targets of {too_long} of {len(rows)} rows are longer than {MAX_TARGET_WORDS} words: tuning drops them"
        yield fault, rows[0].id


def _columns_that_are_the_answer(task: Task, rows: Sequence[ReadRow]) -> set[str]:
    """Columns that hold the answer on every row; asked only where the rows have several different answers."""
    golds = [{str(i) for i in row.gold} | {row.options[i] for i in row.gold} | {*row.texts} for row in rows]
    if len({frozenset(gold) for gold in golds}) < min(LEAK_ROWS, max(2, len(task.answer.options or ()))):
        return set()
    return {
        name
        for name in task.columns
        if all(str(row.columns[name]).strip() in gold for row, gold in zip(rows, golds, strict=True))
    }


def _option_faults(options: Sequence[str]) -> Iterator[str]:
    if len(set(options)) < len(options):
        yield "two options read the same"
    for option in options:
        if not any(unicodedata.category(character)[0] not in "CZ" for character in option):
            yield f"option {option!r} has nothing to read, so no token to score"
        elif option != option.strip():
            yield f"option {option!r} begins or ends with white space"


def _syntax(text: str, where: str, compiled: Callable[[str, str], Any]) -> Iterator[Problem]:
    try:
        compiled(text, where)
    except CatalogError as error:
        yield from (Problem(where, problem.what, problem.hint) for problem in error.problems)


def _repeated(task: Task, file: Path, lines: TaskLines) -> Iterator[Problem]:
    seen: dict[tuple[str, str], str] = {}
    for template in task.templates:
        key = (" ".join(template.inputs.lower().split()), " ".join(template.targets.lower().split()))
        if key in seen:
            yield Problem(_place(file, lines, template), f"says the same as {seen[key]}")
        seen.setdefault(key, template.id)
    found = diversity(task)
    if found.closest is not None and found.closest_similarity > MAX_SIMILARITY and len(seen) == len(task.templates):
        first, second = found.closest
        template = next(one for one in task.templates if one.id == second)
        what = f"shares {found.closest_similarity:.0%} of its words with {first}"
        yield Problem(_place(file, lines, template), what, "ask in another way")


def _made_by_template(pattern: re.Pattern[str], example: Example, row: ReadRow) -> bool:
    """Whether the rendered inputs hold more matches than the columns bring along: then the template makes one."""
    count = len(pattern.findall(example.inputs))
    return count > 0 and count > sum(
        len(pattern.findall(value)) * example.inputs.count(value) for value in _strings(row) if value
    )


def _strings(row: ReadRow) -> set[str]:
    texts: list[str] = []
    for value in (*row.columns.values(), list(row.options), list(row.texts)):
        texts += [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
    return set(texts)


@cache
def _names(text: str) -> frozenset[str]:
    try:
        return variables(text)
    except TemplateSyntaxError:
        return frozenset()
