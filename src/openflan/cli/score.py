"""`openflan score`"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openflan.cli import options
from openflan.cli.console import err, shown_progress
from openflan.errors import ConfigError, ModelError, Problem
from openflan.models.remote import is_remote
from openflan.studies.progress import ProgressEvent

if TYPE_CHECKING:
    from openflan.scoring.rank import OptionScores
    from openflan.scoring.requests import TextRequest

NAMED = 5
"""So many requests are named for each reason not to score them."""


def score(
    model: Annotated[str, typer.Option(help=options.ANY_MODEL)],
    requests: Annotated[Path, typer.Option(help='JSON lines {"id": …, "inputs": "…", "options": ["…"]}.')],
    out_: Annotated[Path | None, typer.Option("--out", help="Where answers go.", show_default="stdout")] = None,
    store: Annotated[Path | None, typer.Option(help="Folder of finished work: an interrupted scoring goes on.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Only torch's own matrix products, where oneDNN's would be faster.")
    ] = False,
    skip: Annotated[
        bool, typer.Option("--skip", help="Answer requests that cannot be scored with an error; else they are refused.")
    ] = False,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens that go through the model together.", show_default="by device")
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option(min=1, help="MiB for keys and values of shared beginnings.", show_default="256"),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    r"""Log-probabilities (nats) of options after inputs, joined as given: nothing is put between them.

    Answers: {"id": …, "logprobs": \[sum per option], "tokens": \[count per option], "bytes": \[count per option]};
    where there are none, {"id": …, "error": "…"}.

    Example: openflan score --model gpt2 --requests questions.jsonl --out answers.jsonl
    """
    from openflan.artifacts import check_writable
    from openflan.scoring.requests import answers, read_requests, write_answers

    if out_ is not None and out_.is_dir():
        raise ConfigError(Problem("--out", f"{out_} is a folder", "name a file"))
    if out_ is not None and out_.resolve() == requests.resolve():
        raise ConfigError(Problem("--out", f"{out_} holds the requests, which answers would take the place of"))
    if store is not None and store.exists() and not store.is_dir():
        raise ConfigError(Problem("--store", f"{store} is a file", "name a folder"))
    texts = read_requests(requests)
    if out_ is not None:
        check_writable(out_)
    if is_remote(model):
        if strict or batch_tokens is not None or memory is not None:
            raise ConfigError("--strict, --batch-tokens and --memory are for models loaded here, not for an endpoint")
        scores, said = _at_endpoint(model, texts, store, quiet=quiet)
    else:
        scores, said = _here(
            model, texts, store, strict=strict, skip=skip, batch_tokens=batch_tokens, memory=memory, quiet=quiet
        )
    records = answers(texts, scores)
    if out_ is None:
        for record in records:
            typer.echo(json.dumps(record, ensure_ascii=False))
    else:
        write_answers(out_, records)
    bad = Counter(one.problem for one in scores if one.problem)
    if not quiet:
        for line in said:
            err.print(line, markup=False, soft_wrap=True)
        for problem, number in bad.most_common():
            names = [one.id for one in scores if one.problem == problem]
            err.print(f"not scored: {number} ({problem}), such as {', '.join(names[:NAMED])}", markup=False)
        if out_ is not None:
            err.print(f"{out_}  {len(records):,} answers", markup=False)
    if bad and not skip:  # found while scoring: what was scored is written, but the caller is to know
        raise typer.Exit(1)


def _here(
    model: str,
    texts: "list[TextRequest]",
    store: Path | None,
    *,
    strict: bool,
    skip: bool,
    batch_tokens: int | None,
    memory: int | None,
    quiet: bool,
) -> "tuple[list[OptionScores], list[str]]":
    """The scores by a model that is loaded, and what there is to say of them."""
    from openflan.models.load import load_model
    from openflan.scoring.rank import ScoringCost, request_problems
    from openflan.scoring.rank import score as score_requests
    from openflan.scoring.requests import encode_requests

    lm = load_model(model)
    encoded, merged = encode_requests(lm, texts)
    problems = request_problems(encoded, lm)
    if problems and not skip:
        raise ModelError([replace(problem, hint="--skip answers the others") for problem in problems])
    cost = ScoringCost()
    with shown_progress(quiet=quiet) as progress:

        def report(now: ScoringCost) -> None:
            nonlocal cost
            cost = now
            progress(ProgressEvent("score", now.requests, len(encoded)))

        scores = score_requests(
            lm,
            encoded,
            store=store,
            strict=strict,
            skip=True,
            batch_tokens=batch_tokens,
            kept_bytes=None if memory is None else memory << 20,
            report=report,
        )
    said = [str(cost), *_merged(merged)]
    if repeated := sum(len(set(one.option_ids)) < len(one.option_ids) for one in encoded):
        said.append(f"in {repeated} requests an option has the tokens of another, and so the same score")
    return scores, said


def _at_endpoint(
    model: str, texts: "list[TextRequest]", store: Path | None, *, quiet: bool
) -> "tuple[list[OptionScores], list[str]]":
    """The scores by an endpoint, and what there is to say of them."""
    from openflan.scoring.requests import score_remotely

    with shown_progress(quiet=quiet) as progress:
        found = score_remotely(
            model, texts, store=store, report=lambda done: progress(ProgressEvent("score", done, len(texts)))
        )
    return found.scores, [found.spent, *_merged(found.merged)]


def _merged(number: int) -> list[str]:
    told = f"in {number} requests a token spans the join; they are scored from the last border all options share"
    return [told] if number else []
