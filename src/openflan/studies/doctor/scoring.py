"""Whether scoring's fast ways give the log-probabilities of one text at a time, and batches the tokens of one prompt.

Read next: `adapters.py`.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from openflan.errors import ModelError
from openflan.scoring import forward, generate, padded, rank, tree
from openflan.studies.doctor.finding import Finding, Measure, judged, not_applicable
from openflan.studies.doctor.patient import Ids, Patient, alone, relative

NEW_TOKENS = 8


def trees(patient: Patient) -> Finding:
    """Options scored as `score` does it, as trees where it can, against prompt and option fed again for each option."""
    requests = _requests(patient)
    costs: list[rank.ScoringCost] = []
    found = rank.score(patient.lm, requests, report=costs.append)
    difference, number = _difference(patient, requests, found)
    engine = costs[-1].engine
    checked = judged(
        [Measure("log-probabilities (nats for a token)", difference, _tolerance(patient))],
        said=f"{number} log-probabilities as trees equal those of a row for each option",
        otherwise="accuracies of this model would be wrong; do not evaluate it",
    )
    check = tree.check_tree(patient.lm)
    if checked.outcome == "fail":
        return checked
    if engine.startswith("trees"):
        if check.window is None or check.window >= patient.lm.context:
            return checked
        said = f"{checked.said}; texts over {check.window:,} tokens (sliding window) are scored by padded texts, slower"
        return Finding("pass", said, checked.measures)
    if (fault := tree.check_tree(patient.control.lm).reason) is not None:
        return Finding(
            "fail", f"not even a plain Llama is scored right as trees, so the fault is not the model's: {fault}"
        )
    return Finding(
        "falls back",
        f"{engine}, which is exact",
        checked.measures,
        cost="options are ranked by padded texts, several times slower than as trees",
    )


def padding(patient: Patient) -> Finding:
    """Padded batches, filled on the right and on the left, against one text at a time."""
    requests = _requests(patient)
    with forward.inference(patient.model):
        model = forward.readout(patient.model, patient.lm.prefix_ids + requests[0].prompt_ids)
        given = [rank.ScoreRequest(one.id, patient.lm.prefix_ids + one.prompt_ids, one.option_ids) for one in requests]
        single, _ = padded.score_padded(model, given, 1)
        many, spent = padded.score_padded(model, given, 1 << 30)
    # Texts of other lengths than those of the batch stand beside each, so that a leak of padding shows.
    right, left = padding_differences(
        patient, [patient.lm.prefix_ids + ids for ids in patient.draw((5, 17, 1, 11), "pad")]
    )
    batched = float(np.abs(single - many).max())
    naive, number = _difference(patient, requests, _scores(requests, many))
    return judged(
        [
            Measure("log-probabilities by batch size (nats)", batched, _tolerance(patient)),
            Measure("log-probabilities by padded texts (nats)", naive, _tolerance(patient)),
            Measure("logits, padded on the right", right, patient.tolerances.logits),
            Measure("logits, padded on the left", left, patient.tolerances.logits),
        ],
        said=f"{number} log-probabilities in one batch ({spent.padding} tokens of padding) equal those one by one, and "
        "padding on either side changes no logits",
        otherwise="results depend on the batch; give this model batches of one (--batch-tokens 1), or do not use it",
    )


def generation(patient: Patient) -> Finding:
    """Prompts continued in one batch and each alone: every token must be the likeliest by the plain model."""
    room = patient.room - 1
    if room < 2:
        return not_applicable("the context leaves no room to write in")
    budget = min(NEW_TOKENS, max(1, room // 2))
    prompts = patient.draw((4, 19, 11, 1, 7), "generate", room=room - budget + 1)
    requests = [generate.GenerationRequest(str(at), ids) for at, ids in enumerate(prompts)]
    try:
        together = generate.generate(patient.lm, requests, max_new_tokens=budget, stops=())
        single = [generate.generate(patient.lm, [one], max_new_tokens=budget, stops=())[0] for one in requests]
    except ModelError as error:
        return not_applicable(f"generation is refused: {error}; options can be ranked all the same")
    short = [_shortfall(patient, ids, one) for ids, one in zip(prompts * 2, [*single, *together], strict=True)]
    differing = sum(a.token_ids != b.token_ids for a, b in zip(single, together, strict=True))
    ties = f"; {differing} prompts get other tokens in a batch, as likely within rounding" if differing else ""
    alone_nats, batch_nats = max(short[: len(prompts)]), max(short[len(prompts) :])
    return judged(
        [
            Measure("likeliest token and the one written alone (nats)", alone_nats, 2 * _tolerance(patient)),
            Measure("likeliest token and the one written in a batch (nats)", batch_nats, 2 * _tolerance(patient)),
        ],
        said=f"{sum(one.num_tokens for one in single)} tokens after {len(prompts)} prompts are the likeliest ones, "
        f"alone and in a batch padded on the left{ties}",
        otherwise="what this model writes depends on how it is batched; do not evaluate its generations",
    )


def padding_differences(patient: Patient, texts: Sequence[Ids]) -> tuple[float, float]:
    """The relative differences of logits in a batch padded on the right, and on the left, from each text alone."""
    longest = max(map(len, texts))
    found: list[float] = []
    with forward.inference(patient.model):
        expected = [alone(patient.model, ids) for ids in texts]
        logits_of = forward.whole_logits(patient.model)
        for on_left in (False, True):
            ids = torch.zeros(len(texts), longest, dtype=torch.long)
            mask = torch.zeros_like(ids)
            places = [slice(longest - len(t), None) if on_left else slice(len(t)) for t in texts]
            for row, (text, place) in enumerate(zip(texts, places, strict=True)):
                ids[row, place] = torch.tensor(text)
                mask[row, place] = 1
            logits = logits_of(ids.to(patient.lm.device), mask.to(patient.lm.device)).float()
            read = [logits[row, place] for row, place in enumerate(places)]
            found.append(max(relative(ours, theirs) for ours, theirs in zip(read, expected, strict=True)))
    return found[0], found[1]


def _tolerance(patient: Patient) -> float:
    """Nats for one token, as the scorer's own check has it."""
    return tree.TOLERANCE.get(patient.dtype, tree.TOLERANCE[torch.bfloat16])


def _requests(patient: Patient) -> list[rank.ScoreRequest]:
    """Prompts with beginnings in common; options of several lengths, one beginning another, one twice."""
    start, middle, end, more, single = patient.draw((10, 9, 7, 6, 1), "requests", room=max(1, patient.room // 5))
    options = ((*more,), more[:1], (*more[:1], *end[:2]), single, (*more,))
    prompts = (start, start + middle, start + middle + end, start + end, end)
    return [
        rank.ScoreRequest(str(at), prompt, options if at % 2 else options[at % 3 :])
        for at, prompt in enumerate(prompts)
    ]


def _difference(
    patient: Patient, requests: Sequence[rank.ScoreRequest], scores: Sequence[rank.OptionScores]
) -> tuple[float, int]:
    """The largest from a plain forward pass over prompt and option, float64 log-softmax; and how many were compared."""
    largest, number = 0.0, 0
    with forward.inference(patient.model):
        for request, found in zip(requests, scores, strict=True):
            for option, nats in zip(request.option_ids, found.logprobs, strict=True):
                ids = patient.lm.prefix_ids + request.prompt_ids + option
                logits = alone(patient.model, ids)[-len(option) - 1 : -1].double().log_softmax(-1)
                expected = logits[range(len(option)), list(option)].tolist()
                if len(nats) != len(expected):
                    return math.inf, number
                number += len(expected)
                largest = max(largest, *(_distance(a, b) for a, b in zip(nats, expected, strict=True)))
    return largest, number


def _distance(found: float, expected: float) -> float:
    distance = abs(found - expected)
    return distance if math.isfinite(distance) else math.inf


def _scores(requests: Sequence[rank.ScoreRequest], values: Any) -> list[rank.OptionScores]:
    """Values in the order of all option tokens, by request."""
    remaining = iter(values.tolist())
    return [
        rank.OptionScores(one.id, tuple(tuple(itertools.islice(remaining, len(o))) for o in one.option_ids))
        for one in requests
    ]


def _shortfall(patient: Patient, prompt_ids: Ids, written: generate.Generation) -> float:
    """By how many nats at most the likeliest token was likelier than the one written, by plain forward passes."""
    eos = cast("int", patient.lm.tokenizer.eos_token_id)
    tokens = [*written.token_ids, eos] if written.ended == "eos" else list(written.token_ids)
    prompt = patient.lm.prefix_ids + prompt_ids
    with forward.inference(patient.model):
        nats = alone(patient.model, (*prompt, *tokens[:-1])).log_softmax(-1)[-len(tokens) :]
    return float((nats.amax(-1) - nats[range(len(tokens)), tokens]).max())
