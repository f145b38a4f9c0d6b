"""The files of `openflan score`: any harness can write the questions and read the answers.

Takes JSON lines {"id", "inputs", "options": [...]}, gives JSON lines {"id", "logprobs", "tokens", "bytes"},
or {"id", "error"}.
Read next: `rank.py`.
"""

import codecs
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openflan.artifacts import write_text
from openflan.encoding.boundary import WHITESPACE, split_many
from openflan.errors import ModelError, Problem, SourceError
from openflan.models.remote import Endpoint, remote_settings
from openflan.scoring import remote
from openflan.scoring.rank import OptionScores, ScoreRequest

if TYPE_CHECKING:
    from openflan.models.load import LanguageModel


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    id: str | int
    inputs: str
    options: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One question as text: inputs and each option are joined as given."""

    id: str | int
    """As the asker wrote it, and as the answer repeats it."""
    inputs: str
    options: tuple[str, ...]


def read_requests(path: Path) -> list[TextRequest]:
    """All requests of a file, in order; empty lines are skipped, and so is a byte order mark.

    Ids may be strings or whole numbers. Raises SourceError naming every malformed line, by its number.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    found: list[TextRequest] = []
    problems: list[Problem] = []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if not line.strip():
            continue
        read = _request(line)
        if isinstance(read, str):
            problems.append(Problem(f"{path}:{number}", read))
        elif (first := lines_of.setdefault(str(read.id), number)) != number:
            problems.append(Problem(f"{path}:{number}", f"id {read.id!r} was used in line {first}"))
        else:
            found.append(read)
    if not found and not problems:
        problems.append(Problem(str(path), "no request in this file"))
    if problems:
        raise SourceError(problems)
    return found


def _request(line: bytes) -> TextRequest | str:
    """The request a line holds, or what is wrong with it."""
    try:
        read = _Line.model_validate_json(line)
    except ValidationError as error:
        wrong = [(".".join(map(str, one["loc"])), one["msg"].lower()) for one in error.errors(include_url=False)]
        return "; ".join(f"{where}: {what}" if where else what for where, what in wrong)
    return TextRequest(read.id, read.inputs, tuple(read.options))


def encode_requests(lm: "LanguageModel", requests: Sequence[TextRequest]) -> tuple[list[ScoreRequest], int]:
    """The requests in tokens, and for how many of them a token spans the join of inputs and options.

    White space that ends the inputs goes to the options, as in lm-eval; where a token spans the join, all options of
    that request are scored from the last token border they share.
    """
    items = [(request.inputs, request.options) for request in requests]
    tokenizer: Any = lm.tokenizer
    bos = lm.prompt_format.bos if lm.prompt_format else "auto"
    boundaries = split_many(tokenizer, items, bos=bos, moved=WHITESPACE)
    encoded = [
        ScoreRequest(str(request.id), boundary.prompt_ids, boundary.continuation_ids)
        for request, boundary in zip(requests, boundaries, strict=True)
    ]
    return encoded, sum(boundary.merged for boundary in boundaries)


class RemoteTextScores(NamedTuple):
    """Scores in the order of the requests, for how many a token spans the join, and what the endpoint was used for."""

    scores: list[OptionScores]
    merged: int
    spent: str


def score_remotely(
    model: str, texts: Sequence[TextRequest], *, store: Path | None, report: Callable[[int], None]
) -> RemoteTextScores:
    """The scores by the endpoint `remote:MODEL@URL`, joined and split as `encode_requests` does it.

    A request it gives no usable answer to gets an `OptionScores` that says why. `report` gets the number answered.
    Raises ModelError where the endpoint gives no log-probabilities of prompts, or fails for good.
    """
    settings = remote_settings(model)
    asked = [remote.RemoteRequest(str(text.id), (text.inputs,), text.options) for text in texts]
    with Endpoint(settings) as endpoint:
        connected = remote.connect(endpoint, ranks=True)
        if connected.way is None:
            raise ModelError(Problem(model, f"cannot score: {connected.why}", "it can be asked by `evaluate`"))
        found = remote.score(connected, asked, moved=WHITESPACE, store=store, report=report)
    scores = {one.id: OptionScores(one.id, one.logprobs) for one in found.answers}
    scores |= {one.id: OptionScores(one.id, (), one.reason) for one in found.skipped}
    merged = sum(one.merged for one in found.answers)
    return RemoteTextScores([scores[request.id] for request in asked], merged, found.usage.words(settings))


def answers(requests: Sequence[TextRequest], scores: Iterable[OptionScores]) -> list[dict[str, Any]]:
    """A plain record for each request: summed log-probability (nats), scored tokens and UTF-8 bytes of each option.

    Where there are no scores the record says why under "error".
    """
    return [
        {"id": request.id, "error": one.problem}
        if one.problem
        else {
            "id": request.id,
            "logprobs": list(one.sums),
            "tokens": list(one.tokens),
            "bytes": [len(option.encode()) for option in request.options],
        }
        for request, one in zip(requests, scores, strict=True)
    ]


def write_answers(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, the file whole or not at all."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records))
