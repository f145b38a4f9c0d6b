"""Our side of the benchmarks at a tiny size, so that they cannot rot; what they measure is not asserted."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (FOLDER / "gpu", FOLDER):
        monkeypatch.syspath_prepend(str(folder))
    for name in [name for name, module in sys.modules.items() if str(FOLDER) in str(getattr(module, "__file__", ""))]:
        monkeypatch.delitem(sys.modules, name)


def tiny(**options: Any) -> argparse.Namespace:
    plain = {"tiny": True, "shape": "1B", "rounds": 1, "examples": 4, "shots": 0, "peak_teraflops": 1.0}
    return argparse.Namespace(**plain | {"result": None, "out": None} | options)


def test_an_epoch_is_every_target_once_and_its_gradient_that_of_single_examples() -> None:
    from common import random_model
    from tuning_engines import Setting, fitting, one_by_one, openflan_epoch, openflan_gradient
    from tuning_workload import examples

    encoded = examples(9, seed=1, vocabulary=1000)
    targets = sum(len(e.target_ids) for e in encoded)

    def model() -> Any:
        return random_model("tiny", torch.device("cpu"), torch.float32)

    for rows_per_step in (1, 2):
        setting = Setting(rows_per_step=rows_per_step)
        assert openflan_epoch(model(), encoded, setting).target_tokens == targets
    few = fitting(encoded, 4, Setting().row_length)
    loss, alone = one_by_one(model(), few)
    its_loss, its = openflan_gradient(model(), few, Setting())
    assert len(few) > 1 and its_loss == pytest.approx(loss, rel=1e-5)
    for name, gradient in alone.items():
        assert float((its[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()), name


def test_prepared_rows_hold_each_example_once() -> None:
    from common import random_model
    from scoring_workload import Words
    from tuning_workload import TEMPLATES, rows

    from tuning import openflan_preparation, our_segments

    lm = random_model("tiny", torch.device("cpu"), torch.float32)
    found = our_segments(openflan_preparation(lm, rows(Words(0), 3, seed=1)))
    assert found.total() == 3 * len(TEMPLATES)
    assert all(segment[-1] == (lm.tokenizer.eos_token_id, True) for segment in found)


def test_ways_of_packing_have_one_gradient() -> None:
    import packing_speed

    for engine in packing_speed.WAYS:
        assert packing_speed.measure(tiny(engine=engine))["gradient_differs_by"] < 1e-5


def test_a_padded_scorer_agrees_with_ours() -> None:
    import scoring_speed

    ours, padded = (scoring_speed.measure(tiny(engine=engine))["first_sums"] for engine in ("openflan", "padded"))
    assert ours == pytest.approx(padded, abs=1e-3)


def test_the_page_says_what_is_not_measured(tmp_path: Path) -> None:
    import table
    import tuning_speed

    found = {"openflan": {"name": "openflan"} | tuning_speed.measure(tiny(engine="openflan"))}
    found["bfd"] = {"name": "TRL", "failed": "exit status 1"}
    record = {"benchmark": "tuning", "shape": "tiny", "tiny": True, "setting": {"rounds": 1}, "engines": found}
    record |= {"date": "2026-01-01", "device": {"name": "some GPU"}, "versions": {"torch": "2"}}
    (tmp_path / "tuning.json").write_text(json.dumps(record), encoding="utf-8")
    assert Counter(table.page(tmp_path).split("\n"))[table.NOT_YET] == len(table.TITLES)
    (tmp_path / "tuning.json").write_text(json.dumps(record | {"tiny": False}), encoding="utf-8")
    page = table.page(tmp_path)
    assert Counter(page.split("\n"))[table.NOT_YET] == len(table.TITLES) - 1
    assert "some GPU" in page and "failed (exit status 1)" in page
