"""`openflan render`"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from rich.text import Text

from openflan.catalog.task import Split
from openflan.cli import options
from openflan.cli.console import emit_json, err, heading, out

if TYPE_CHECKING:
    from openflan.ledger import Ledger
    from openflan.rendering.example import Example


def render(
    task: Annotated[str, typer.Argument(help="Task name.")],
    template: Annotated[str | None, typer.Option(help="Only this template.")] = None,
    split: Annotated[Split, typer.Option(help="train, dev or test.")] = "train",
    limit: Annotated[int, typer.Option(min=1, help="Rows.")] = 1,
    shots: Annotated[int, typer.Option(min=0, help="Exemplars in front, from the task's train rows.")] = 0,
    seed: options.Seed = 0,
    wording: Annotated[
        str, typer.Option(help="instructions, no_options, no_template, no_template_options or dataset_name.")
    ] = "instructions",
    catalog: options.Catalogs = None,
    data_root: options.DataRoot = None,
    world_seed: options.WorldSeed = 0,
    specimens: Annotated[
        bool, typer.Option("--specimens", help="The hand-written rows that ship beside the task file; no download.")
    ] = False,
    tokens: Annotated[
        str | None, typer.Option("--tokens", metavar="MODEL", help="Show this model's tokens, targets marked.")
    ] = None,
    json_: options.Json = False,
) -> None:
    """What rows read like through a task's templates.

    Example: openflan render rte --data-root data --limit 1 --shots 2
    """
    from openflan.catalog.load import load_catalog
    from openflan.errors import CatalogError, ConfigError, Problem, nearest
    from openflan.ledger import Ledger
    from openflan.rendering.exemplars import MOST_ROWS, ExemplarSource
    from openflan.rendering.render import TEMPLATED, Wording, read_columns
    from openflan.rendering.render import render as render_row
    from openflan.sources.read import SourceSettings, read_rows
    from openflan.sources.specimens import read_specimens

    if wording not in get_args(Wording):
        raise ConfigError(Problem("--wording", wording, nearest(wording, get_args(Wording))))
    loaded = load_catalog(*(options.listed(catalog) or ["flan", "world"]))
    found = loaded.task(task)
    templates = [t for t in found.templates if template in (None, t.id)]
    if not templates:
        raise CatalogError(
            Problem(
                f"{task}: template {template!r}",
                "no such template",
                nearest(str(template), [t.id for t in found.templates]),
            )
        )
    ledger = Ledger()
    settings = SourceSettings(data_root=data_root, world_seed=world_seed)
    if specimens:
        source = read_specimens(found, loaded.files[task], ledger)[:limit]
    else:
        source = read_rows(found, split, settings, ledger, limit=limit)
    rows = read_columns(found, source, ledger)
    pairs = [(row, t) for row in rows for t in (templates if wording in TEMPLATED else templates[:1])]
    examples = [render_row(found, row, t, cast("Wording", wording)) for row, t in pairs]
    if shots:
        if wording != "instructions":
            raise ConfigError("--shots: exemplars are read through templates, so --wording must be instructions")
        pool = (
            read_specimens(found, loaded.files[task], ledger)
            if specimens
            else read_rows(found, "train", settings, ledger, limit=MOST_ROWS)
        )
        exemplars = ExemplarSource(found, read_columns(found, pool, ledger), seed=seed)
        shown = [exemplars.before(e, row, t, shots, ledger) for e, (row, t) in zip(examples, pairs, strict=True)]
        examples = [example for example in shown if example is not None]
    shown_tokens = _tokens(examples, tokens, ledger) if tokens else [None] * len(examples)
    if json_:
        emit_json(
            [
                _plain(example) | ({} if one is None else {"tokens": one})
                for example, one in zip(examples, shown_tokens, strict=True)
            ]
        )
    else:
        _show(examples, shown_tokens)
    for (_, name, reason), count in ledger.dropped.items():
        err.print(f"{name}: {count} rows left out: {reason}", markup=False)
    for (_, name, reason), count in ledger.shortened.items():
        err.print(f"{name}: {count} examples: {reason}", markup=False)


def _show(examples: "Sequence[Example]", shown_tokens: "Sequence[Mapping[str, Sequence[str]] | None]") -> None:
    for example, one in zip(examples, shown_tokens, strict=True):
        where = f" · {example.template} ({example.kind}) · row {example.row_id}"
        heading(Text.assemble((example.task, "bold"), where))
        if one is None:
            for (inputs, targets), row_id in zip(example.exemplars, example.exemplar_rows, strict=True):
                out.print(f"exemplar: row {row_id}", style="dim italic", markup=False, highlight=False)
                out.print(inputs, style="dim", markup=False, highlight=False)
                out.print(targets, style="green", markup=False, highlight=False)
                out.print()
            out.print(example.inputs, markup=False, highlight=False)
            out.print(example.targets, style="bold green", markup=False, highlight=False)
        else:
            _show_tokens(one)


def _plain(example: object) -> dict[str, object]:
    import dataclasses

    return dataclasses.asdict(example)  # pyright: ignore[reportArgumentType] -- an Example


def _tokens(examples: "Sequence[Example]", model: str, ledger: "Ledger") -> list[dict[str, list[str]]]:
    """Prompt and target tokens of each example in the model's own format; none of an example that does not fit."""
    from openflan.encoding.encode import encode
    from openflan.encoding.prompt_format import Lengths, PromptFormat
    from openflan.models.load import find_model, load_tokenizer, read_prompt_format

    tokenizer, form = load_tokenizer(model), read_prompt_format(find_model(model)) or PromptFormat()
    found: list[dict[str, list[str]]] = []
    for example in examples:
        encoded = encode([example], cast(Any, tokenizer), form, Lengths(), ledger)
        ids = [(one.prompt_ids, one.target_ids) for one in encoded] or [((), ())]
        prompt, target = (cast("list[str]", tokenizer.convert_ids_to_tokens(list(part))) for part in ids[0])
        found.append({"prompt": prompt, "target": target})
    return found


def _show_tokens(tokens: "Mapping[str, Sequence[str]]") -> None:
    line = Text()
    for part, style in (("prompt", "dim"), ("target", "bold green")):
        for token in tokens[part]:
            line.append(token.replace("\n", "↵"), style=style)
            line.append("·", style="blue")
    out.print(line)
    counts = f"{len(tokens['prompt'])} prompt tokens, {len(tokens['target'])} target tokens (with loss, EOS last)"
    err.print(counts if tokens["target"] else "does not fit, and would be left out")
