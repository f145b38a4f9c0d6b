"""Scoring on one GPU beside lm-evaluation-harness and a plain padded scorer: prompts a second, peak memory.

    python benchmarks/gpu/scoring_speed.py --shape 1B [--shots 5]

The requests are those of benchmarks/scoring.py, bfloat16, from texts to log-probabilities. lm-eval's batch size is the
fastest of several. The padded scorer sorts rows of prompt and option by length and runs the head at the options only:
what remains between it and openflan is that shared tokens are computed once.
"""

import argparse
import itertools
from typing import Any

import torch
from common import (
    SEED,
    arguments,
    clock,
    command,
    device_of,
    forget_peak,
    peak_mebibytes,
    random_model,
    rounds_of,
)
from scoring_workload import Item, Words, workload

from openflan.models.load import LanguageModel
from openflan.scoring.requests import encode_requests
from scoring import harness, ours, requests

BATCHES = (16, 64, 128, 256)
"""Of lm-eval, the fastest of which counts."""
PADDED_TOKENS = 65_536
"""Of a batch of the padded scorer."""


def padded(lm: LanguageModel, items: list[Item]) -> list[list[float]]:
    """Sums of log-probabilities: a row for each option, sorted by length, batches of as many tokens."""
    encoded, _ = encode_requests(lm, requests(items))
    rows = [(r.prompt_ids, option, i, j) for i, r in enumerate(encoded) for j, option in enumerate(r.option_ids)]
    rows.sort(key=lambda row: -len(row[0]) - len(row[1]))
    found = [[0.0] * len(r.option_ids) for r in encoded]
    model: Any = lm.model
    while rows:
        size = max(1, PADDED_TOKENS // (len(rows[0][0]) + len(rows[0][1])))
        batch, rows = rows[:size], rows[size:]
        longest = len(batch[0][0]) + len(batch[0][1]) - 1
        texts = [[*prompt, *option[:-1]] for prompt, option, _, _ in batch]
        ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts], device=lm.device)
        mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts], device=lm.device)
        at = [(k, len(prompt) - 1 + t) for k, (prompt, option, _, _) in enumerate(batch) for t in range(len(option))]
        labels = torch.tensor(list(itertools.chain(*(option for _, option, _, _ in batch))), device=lm.device)
        with torch.inference_mode():
            hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            places = torch.tensor(at, device=lm.device)
            logits = model.get_output_embeddings()(hidden[places[:, 0], places[:, 1]]).float()
            values = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
        parts = values.split([len(option) for _, option, _, _ in batch])
        for part, (_, _, i, j) in zip(parts, batch, strict=True):
            found[i][j] = float(part.sum())
    return found


def measure(given: argparse.Namespace) -> dict[str, Any]:
    device = device_of(given)
    lm = random_model("tiny" if given.tiny else given.shape, device, torch.float32 if given.tiny else torch.bfloat16)
    lm.model.eval()
    number = 2 if given.tiny else given.examples
    items = workload(Words(SEED), number, shots=given.shots, seed=1)
    sums: list[list[float]] = []
    engine, _, batch = given.engine.partition(":")

    def run() -> float:
        started = clock()
        if engine == "openflan":
            sums[:] = ours(lm, items, [])
        elif engine == "padded":
            sums[:] = padded(lm, items)
        else:
            sums[:] = harness(lm, items, int(batch))
        return clock() - started

    forget_peak()
    seconds = rounds_of(run, given.rounds)
    return {
        "seconds": seconds,
        "prompts": len(items),
        "options": sum(len(item.options) for item in items),
        "prompts_per_second": [len(items) / s for s in seconds],
        "peak_mebibytes": peak_mebibytes(),
        "first_sums": [value for row in sums for value in row][:200],
    }


def main() -> None:
    parser = arguments(str(__doc__))
    parser.add_argument("--examples", type=int, default=400, help="under five templates each")
    parser.add_argument("--shots", type=int, default=0, help="exemplars before each prompt")
    given = parser.parse_known_args()[0]
    command("scoring-few-shot" if given.shots else "scoring", parser, engines, measure)


def engines(given: argparse.Namespace) -> dict[str, str]:
    sizes = (2,) if given.tiny else BATCHES
    found = {f"lm-eval:{batch}": f"lm-eval HFLM, batch {batch}" for batch in sizes}
    return found | {"padded": "padded, head at options", "openflan": "openflan"}


if __name__ == "__main__":
    main()
