"""`openflan catalog new`: a first task file from a table of rows, and the rows split for a data root.

Takes a CSV, JSON-lines or Parquet file, gives the text of a task file that passes `catalog check`. It guesses which
column is the answer and says so; the wordings are there to be replaced.
"""

import json
import keyword
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openflan.artifacts import write_text
from openflan.catalog.load import BUILT_IN, CLUSTERS_FILE, cluster_names, load_catalog
from openflan.catalog.task import NAME, RESERVED
from openflan.errors import ConfigError, Problem, SourceError, nearest
from openflan.rendering.check import rouge_reads
from openflan.seeding import generator
from openflan.sources.local import FILES, read_file

ANSWER_NAMES = ("label", "answer", "gold", "target", "class", "category", "sentiment", "summary", "output", "response")
"""Names an answer column often has, most telling first."""
OPTIONS_NAMES = ("choices", "options", "candidates", "endings")
MOST_LABELS = 20
"""A column with more different values is text to be written, not a label."""
LONG = 8
"""Letters of a writing without case, such as Chinese or Thai, that make a text where no space stands between words."""
TEST_SHARE = 0.2

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Draft:
    """What was guessed, and what was written."""

    toml: str
    form: str
    answer: str
    """The column taken for the answer."""
    texts: tuple[str, ...]
    """The columns taken for the inputs."""
    labels: tuple[str, ...]
    """The different values of a label column, in the order of the options."""


def new_task(
    name: str, file: Path, folder: Path, *, cluster: str, answer: str | None, data_root: Path | None
) -> tuple[Draft, list[Path]]:
    """Draft FOLDER/NAME.toml from the rows of a file and, with `data_root`, lay the rows out there, split by seed.

    Returns the draft and the files written. A cluster the paper does not have is entered in FOLDER/clusters.toml.

    Raises ConfigError if the task file or its rows are there already, or a name is not good, SourceError if the file's
    rows cannot be read or show no answer, and CatalogError if FOLDER/clusters.toml is not TOML.
    """
    task_file = folder / f"{name}.toml"
    rows_folder = None if data_root is None else data_root / name
    problems = [
        Problem(str(path), "is there already", "choose another name, or remove it")
        for path in (task_file, rows_folder)
        if path is not None and path.exists()
    ]
    problems += [
        Problem(what, "is not a name", "use lower-case letters, digits and _")
        for what in (name, cluster)
        if not re.match(NAME, what)
    ]
    if str(folder) in BUILT_IN:
        problems.append(Problem(f"--catalog {folder}", "is a catalog of openflan's own", "name a folder of yours"))
    if name in load_catalog(*BUILT_IN).tasks:
        problems.append(Problem(name, "is a task of openflan's own already", "choose another name"))
    if not any(file.name.endswith(f".{ending}") for ending in FILES):
        problems.append(Problem(str(file), "unknown kind of file", f"expected .{', .'.join(FILES)}"))
    if problems:
        raise ConfigError(problems)
    rows = read_file(file)
    draft = draft_task(name, rows, cluster=cluster, answer=answer, where=str(file))
    is_new_cluster = cluster not in cluster_names(folder)
    written = [task_file]
    write_text(task_file, draft.toml)
    if is_new_cluster:
        clusters = folder / CLUSTERS_FILE
        before = clusters.read_text(encoding="utf-8") + "\n" if clusters.exists() else ""
        write_text(clusters, f'{before}[{cluster}]\ntitle = "{cluster.replace("_", " ").capitalize()}"\n')
        written.append(clusters)
    if rows_folder is not None:
        written += _lay_out(name, rows, rows_folder)
    return draft, written


def draft_task(name: str, rows: Rows, *, cluster: str, answer: str | None, where: str) -> Draft:
    """The text of a task file for these rows. `answer` names the answer column where the guess would be wrong."""
    if len(rows) < 2:
        raise SourceError(Problem(where, f"holds {len(rows)} rows", "at least two are needed"))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if answer is not None and answer not in columns:
        raise ConfigError(Problem(f"--answer {answer}", "no such column", nearest(answer, columns)))
    options = next((column for column in columns if column.lower() in OPTIONS_NAMES and _all(rows, column, list)), None)
    chosen = answer or _answer_column(rows, columns, where)
    texts = tuple(c for c in columns if c not in (chosen, options) and _is_text(rows, c))
    if not texts:
        raise SourceError(Problem(where, f"no text column beside {chosen}", f"columns: {', '.join(columns)}"))
    values = [row.get(chosen) for row in rows]
    labels: tuple[str, ...] = ()
    metric = "accuracy"
    if options is not None:
        form, answer_lines = "multiple_choice", _choice_answer(rows, chosen, options)
    elif (labels := _labels(values)) or (answer is not None and len(set(map(str, values))) <= MOST_LABELS):
        labels = labels or tuple(sorted(set(map(str, values))))
        form, answer_lines = "classification", _label_answer(chosen, values, labels)
    else:
        form, answer_lines = "generation", [f"text = {_quoted(_expression(chosen))}"]
        metric = "rouge" if rouge_reads(str(value) for value in values if value) else "chrf"
    toml = _task_toml(name, cluster, form, metric, _column_names(texts, columns), answer_lines, labels)
    return Draft(toml, form, chosen, texts, labels)


def _answer_column(rows: Rows, columns: Sequence[str], where: str) -> str:
    by_name = {column.lower(): column for column in columns}
    for name in ANSWER_NAMES:
        if name in by_name:
            return by_name[name]
    if few := [column for column in columns if _labels([row.get(column) for row in rows])]:
        return few[-1]
    hint = f"name it with --answer; columns: {', '.join(columns)}"
    raise SourceError(Problem(where, "no column looks like the answer", hint))


def _labels(values: Sequence[Any]) -> tuple[str, ...]:
    """The sorted different values of a column that holds labels, else nothing."""
    # Not a number, which equals nothing, is how pandas writes what is missing.
    given = [value for value in values if value not in (None, "") and value == value]
    different = sorted({str(value).strip() for value in given})
    few = 2 <= len(different) <= min(MOST_LABELS, max(2, len(values) // 3))
    return tuple(different) if few and all(len(value.split()) <= 6 for value in different) else ()


def _is_text(rows: Rows, column: str) -> bool:
    texts = [text for row in rows if isinstance(text := row.get(column), str)]
    return len(texts) > len(rows) / 2 and any(map(_has_words, texts))


def _has_words(text: str) -> bool:
    return len(text.split()) > 1 or sum(unicodedata.category(letter) == "Lo" for letter in text) >= LONG


def _all(rows: Rows, column: str, kind: type) -> bool:
    return all(isinstance(row.get(column), kind) for row in rows)


def _quoted(value: Any) -> str:
    """Texts as TOML and Jinja both read them; JSON leaves one character, delete, that TOML refuses."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _expression(column: str) -> str:
    return f"{_reference(column)} | trim"


def _reference(column: str) -> str:
    return column if _is_name(column) and column not in ("row", "self") else f"row[{_quoted(column)}]"


def _label_answer(column: str, values: Sequence[Any], labels: Sequence[str]) -> list[str]:
    numbers = all(str(value).strip() == str(index) for index, value in enumerate(labels)) and all(
        str(value).strip().isdigit() for value in values
    )
    if numbers:  # already indices; the words are the user's to choose
        gold, words = f"{_reference(column)} | int", [f"label {label}" for label in labels]
    else:
        gold, words = (
            f"{_quoted(list(labels))}.index({_reference(column)} | string | trim)",
            list(labels),
        )
    return [
        f"options = {_quoted(words)}   # the words the model chooses from, in label order",
        f"gold = {_quoted(gold)}",
    ]


def _choice_answer(rows: Rows, column: str, options: str) -> list[str]:
    indices = all(isinstance(row.get(column), int) or str(row.get(column)).isdigit() for row in rows)
    gold = f"{_reference(column)} | int" if indices else f"{_reference(options)}.index({_reference(column)})"
    return [
        f"options = {_quoted(_reference(options))}",
        f"gold = {_quoted(gold)}",
    ]


def _column_names(texts: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """What each column of text is called in the task file: no two alike, and none as another column of the rows."""
    names: dict[str, str] = {}
    for index, column in enumerate(texts):
        name = _column_name(column, index)
        while name != column and name in (*columns, *names.values()):
            name = f"{name}_{index}"
        names[column] = name
    return names


def _column_name(column: str, index: int) -> str:
    if column in RESERVED:
        return f"{column.rstrip('_')}_text"
    return column if _is_name(column) else f"column_{index}"


def _is_name(column: str) -> bool:
    """Whether Jinja reads the column's name as a name, and not as a word of its own ("not", "none")."""
    return column.isidentifier() and not any(map(keyword.iskeyword, (column, column.capitalize())))


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _quoted(name)


def _task_toml(
    name: str,
    cluster: str,
    form: str,
    metric: str,
    names: Mapping[str, str],
    answer: Sequence[str],
    labels: Sequence[str],
) -> str:
    columns = [f"{_key(own)} = {_quoted(_expression(column))}" for column, own in names.items()]
    main, *others = names.values()
    fields = "\n".join([*(f"{other}: {{{{ {other} }}}}" for other in others), f"{main}: {{{{ {main} | trimmable }}}}"])
    shown = "\n\n".join(["{{ " + main + " | trimmable }}", *("{{ " + other + " }}" for other in others)])
    block = "" if form == "generation" else "\n\n{{ options_ }}"
    ask = {"classification": "Which of these fits?", "multiple_choice": "Which one is right?", "generation": "Answer."}
    inverted = [
        "",
        "[[template]]",
        'id = "turned_around"',
        'kind = "inverted"                    # the answer is given, the text asked for: tuning only, never scored',
        f"inputs = '''Write {main} for which the answer would be \"{{{{ answer }}}}\".'''",
        f"targets = '''{{{{ {main} }}}}'''",
    ]
    return "\n".join([
        f'name = "{name}"',
        f'title = "{name.replace("_", " ").capitalize()}"',
        f'clusters = ["{cluster}"]',
        "version = 1                          # raise it when rendered text changes",
        'licence = "not stated"               # as its publisher states it',
        'cite = ""',
        "derived_from = []                    # every corpus this text was made from: the hold-out guard reads it",
        f'form = "{form}"',
        f'metrics = ["{metric}"]',
        "",
        "[source]",
        f'obtain = "rows are local: DATA_ROOT/{name}/train.jsonl and test.jsonl"',
        'splits = { train = "train", dev = "train", test = "test" }',
        "",
        "[columns]                            # Jinja2 expressions over the row",
        *columns,
        "",
        "[answer]",
        *answer,
        "",
        "# Write ten templates and more, as ten different people would ask; these only show the form.",
        "[[template]]",
        'id = "fields"',
        f"inputs = '''{fields}{block}'''",
        "",
        "[[template]]",
        'id = "question_last"',
        f"inputs = '''{shown}\n\n{ask[form]}{block}'''",
        "",
        "[[template]]",
        'id = "question_first"',
        f"inputs = '''Read the following, then reply.\n\n{shown}{block}'''",
        *(inverted if form == "classification" and labels else []),
        "",
        "[[template]]",
        'id = "plain"',
        'kind = "completion"                  # how an untuned model is asked',
        f"inputs = '''{shown}\nAnswer:'''",
        "",
    ])  # fmt: skip


def _lay_out(name: str, rows: Rows, folder: Path) -> list[Path]:
    """Write the rows as train.jsonl and test.jsonl; which row goes where depends on the task's name alone."""
    order = generator(0, "new task", name).permutation(len(rows))
    test = {int(index) for index in order[: max(1, round(TEST_SHARE * len(rows)))]}
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for index, row in enumerate(rows):
        line = json.dumps(dict(row), ensure_ascii=False, default=str)
        lines["test" if index in test else "train"].append(line)
    for split, written in lines.items():
        write_text(folder / f"{split}.jsonl", "\n".join([*written, ""]))
    return [folder / f"{split}.jsonl" for split in lines]
