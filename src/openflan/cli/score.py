"""`openflan score`"""

import json
from pathlib import Path
from typing import Annotated

import typer

from openflan.cli import options
from openflan.cli.console import err, shown_progress
from openflan.studies.progress import ProgressEvent


def score(
    model: Annotated[str, typer.Option(help="Hub id, folder, or world:small|base|base-1|base-2.")],
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
    from openflan.models.load import load_model
    from openflan.scoring.rank import score as score_requests
    from openflan.scoring.requests import answers, encode_requests, read_requests, write_answers

    texts = read_requests(requests)
    lm = load_model(model)
    encoded, merged = encode_requests(lm, texts)
    with shown_progress(quiet=quiet) as progress:
        scores = score_requests(
            lm, encoded, store=store, report=lambda cost: progress(ProgressEvent("score", cost.requests, len(encoded)))
        )
    records = answers(texts, scores)
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
