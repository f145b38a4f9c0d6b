"""What the app shows, as HTML, without a browser or a web framework in sight.

Takes names and texts as a user gives them, gives markup in which everything foreign is escaped. Read next: `app.py`.
"""

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from openflan.catalog.load import Catalog
from openflan.catalog.task import Split, Task
from openflan.encoding.encode import encode_options, encode_prompts
from openflan.encoding.prompt_format import Lengths, PromptFormat
from openflan.errors import ConfigError, ModelError, OpenflanError, Problem, system_words
from openflan.ledger import Ledger
from openflan.rendering.example import Example
from openflan.rendering.render import read_columns, render
from openflan.reports.numbers import nats, percent
from openflan.reports.page import render_page
from openflan.reports.reading import read_report
from openflan.sources.read import SourceSettings, read_rows

if TYPE_CHECKING:
    from openflan.models.load import LanguageModel

ALL = "all"
MAX_NEW_TOKENS = 64


def shown(view: Callable[..., str]) -> Callable[..., str]:
    """The view, with an error a user can cause shown as text in its place."""

    def safe(*arguments: Any) -> str:
        try:
            return view(*arguments)
        except (OpenflanError, OSError) as error:
            said = system_words(error) if isinstance(error, OSError) else str(error)
            return f'<p class="of-error">{escape(said)}</p>'

    return safe


def task_facts(task: Task) -> str:
    """What a task is, in a few lines."""
    source = task.source.hub or (f"the micro-world ({task.source.world})" if task.source.world else task.source.obtain)
    facts = {
        "Clusters": ", ".join(task.clusters),
        "Form": task.form.replace("_", " "),
        "Metrics": ", ".join(task.metrics),
        "Source": source,
        "Licence": task.licence,
        "Cite": task.cite,
        "Text from": ", ".join(task.derived_from) or "itself alone",
    }
    rows = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    return _inert(f'<h3>{escape(task.title)}</h3><dl class="of-facts">{rows}</dl>')


def rendered(
    catalog: Catalog, name: str, template: str, split: Split, rows: int | None, data_root: str, seed: int | None
) -> str:
    """Rows of a task as its templates put them. `data_root` may be empty; a number is None where its field is.

    Raises ConfigError, CatalogError, SourceError.
    """
    if missing := [what for what, value in (("rows", rows), ("seed", seed)) if value is None]:
        raise ConfigError([Problem(what, "is empty", "give a whole number") for what in missing])
    assert rows is not None and seed is not None, "just checked"
    task, ledger = catalog.task(name), Ledger()
    settings = SourceSettings(
        data_root=Path(data_root).expanduser() if data_root.strip() else None, world_seed=int(seed)
    )
    read = read_columns(task, read_rows(task, split, settings, ledger, limit=int(rows)), ledger)
    templates = [one for one in task.templates if template in (ALL, one.id)]
    blocks = [_example(render(task, row, one)) for row in read for one in templates]
    left = [f"{count} rows left out: {reason}" for (_, _, reason), count in ledger.dropped.items()]
    notes = "".join(f'<p class="of-note">{escape(text)}</p>' for text in (*left, *ledger.notes))
    return _inert(task_facts(task) + notes + ("".join(blocks) or '<p class="of-note">No rows in this split.</p>'))


def run_page(folder: str) -> str:
    """The report of a run folder or a folder of runs, as a page in a frame. Raises RunError."""
    if not folder.strip():
        raise ConfigError("name a run folder")
    page = render_page(read_report(Path(folder.strip()).expanduser()))
    # The frame may run nothing and reach nothing; its links only move within it.
    return _inert(f'<iframe class="of-report" sandbox="" title="Report" srcdoc="{escape(page)}"></iframe>')


def answered(lm: "LanguageModel", instruction: str, options: str) -> str:
    """The model's ranking of the options, one a line, or what it writes where there are none.

    Raises ConfigError without an instruction, ModelError where the text does not fit the model.
    """
    if not instruction.strip():
        raise ConfigError("write an instruction")
    choices = tuple(dict.fromkeys(line.strip() for line in options.splitlines() if line.strip()))
    prompt_format = lm.prompt_format or PromptFormat()
    example = Example(
        task="playground", row_id="own/0", template="own", inputs=instruction, targets="", options=choices, gold=()
    )
    body = _ranked(lm, example, prompt_format) if choices else _written(lm, example, prompt_format)
    return _inert(f'{body}<p class="of-note">What the model read:</p><pre>{escape(prompt_format.of(example))}</pre>')


def _ranked(lm: "LanguageModel", example: Example, prompt_format: PromptFormat) -> str:
    from openflan.scoring import rank

    ledger, tokenizer = Ledger(), cast(Any, lm.tokenizer)  # transformers' own annotations leave the ids out
    encoded = encode_options(
        [example], tokenizer, prompt_format, Lengths(inputs=lm.context), ledger, context=lm.context
    )
    if not encoded:
        raise ModelError(_dropped(ledger, lm))
    (found,) = rank.score(lm, rank.requests_of(encoded))
    top = max(found.sums)
    weights = [math.exp(value - top) for value in found.sums]
    rows = sorted(zip(example.options, found.sums, weights, found.tokens, strict=True), key=lambda row: -row[1])
    body = "".join(_option_row(option, value, weight / sum(weights), n) for option, value, weight, n in rows)
    heads = ("Option", "Share, %", "Log-probability, nats", "Tokens")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return f'<table class="of-options"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _option_row(option: str, logprob: float, share: float, tokens: int) -> str:
    bar = f'<span class="of-bar" style="width:{100 * share:.1f}%"></span>'
    cells = f"<td>{bar}{percent(share)}</td><td>{nats(logprob)}</td><td>{tokens}</td>"
    return f'<tr><th scope="row">{escape(option)}</th>{cells}</tr>'


def _written(lm: "LanguageModel", example: Example, prompt_format: PromptFormat) -> str:
    from openflan.scoring import generate

    ledger = Ledger()
    lengths = Lengths(inputs=lm.context, targets=min(MAX_NEW_TOKENS, max(1, lm.context // 2)))
    encoded = encode_prompts([example], cast(Any, lm.tokenizer), prompt_format, lengths, ledger, context=lm.context)
    if not encoded:
        raise ModelError(_dropped(ledger, lm))
    stops: Sequence[str] = [prompt_format.exemplar_separator]
    (found,) = generate.generate(lm, generate.requests_of(encoded), max_new_tokens=lengths.targets, stops=stops)
    ends = {"eos": "the model ended it", "stop": "a stop text ended it", "length": "cut at the length limit"}
    return f'<pre class="of-target">{escape(found.text)}</pre><p class="of-note">{ends[found.ended]}</p>'


def _dropped(ledger: Ledger, lm: "LanguageModel") -> str:
    reasons = ", ".join(reason for _, _, reason in ledger.dropped)
    return f"this does not fit {lm.name}, whose context is {lm.context:,} tokens ({reasons})"


def _example(example: Example) -> str:
    gold = ", ".join(example.options[index] for index in example.gold) or " | ".join(example.references)
    return (
        f'<p class="of-note">{escape(example.row_id)} · template {escape(example.template)} ({example.kind})</p>'
        f'<pre>{escape(example.inputs)}</pre><pre class="of-target">{escape(example.targets)}</pre>'
        + (f'<p class="of-note">Right: {escape(gold)}</p>' if gold and gold != example.targets else "")
    )


def _inert(markup: str) -> str:
    """Markup in which the framework finds nothing to fill in: it reads ${…} and {{…}} as templates."""
    return markup.replace("{", "&#123;").replace("$", "&#36;")
