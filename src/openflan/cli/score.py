"""`openflan score`"""

import json
from pathlib import Path
from typing import Annotated

import typer

from openflan.cli import options
from openflan.cli.console import err, shown_progress
from openflan.models.remote import is_remote
from openflan.studies.progress import ProgressEvent


def score(
    model: Annotated[str, typer.Option(help=options.ANY_MODEL)],
    requests: Annotated[Path, typer.Option(help='JSON lines {"id": …, "inputs": "…", "options": ["…"]}.')],
    out_: Annotated[Path | None, typer.Option("--out", help="Where answers go.", show_default="stdout")] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder of finished chunks: an interrupted scoring goes on.")
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Log-probabilities (nats) of options after inputs, joined as given: nothing is put between them.

    Answers: {"id": …, "logprobs": [sum per option], "tokens": [count per option], "bytes": [count per option]}.

    Example: openflan score --model gpt2 --requests questions.jsonl --out answers.jsonl
    """
    from openflan.scoring.requests import answers, read_requests, score_texts, score_texts_remotely, write_answers

    texts = read_requests(requests)
    score_all = score_texts_remotely if is_remote(model) else score_texts
    with shown_progress(quiet=quiet) as progress:
        scores, merged, spent = score_all(
            model, texts, store=store, report=lambda done: progress(ProgressEvent("score", done, len(texts)))
        )
    records = answers(texts, scores)
    if spent and not quiet:
        err.print(spent, markup=False)
    if merged and not quiet:
        err.print(
            f"in {merged} requests a token spans the join; they are scored from the last border all options share"
        )
    if out_ is None:
        for record in records:
            typer.echo(json.dumps(record, ensure_ascii=False))
    else:
        write_answers(out_, records)
        if not quiet:
            err.print(f"{out_}  {len(records):,} answers", markup=False)
