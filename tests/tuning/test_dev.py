"""The dev loss: of target tokens, the same however it is computed, and no part of tuning."""

import functools
import json
from pathlib import Path

import pytest
import torch

from openflan.encoding import Encoded
from openflan.models.load import LanguageModel
from openflan.models.packed_forward import Way
from openflan.tuning.dev import DEV_FILE, DevLog, Nats, dev_loss, read_dev_losses
from openflan.tuning.loss import target_nats
from openflan.tuning.settings import TuningSettings
from openflan.tuning.tune import StepReport, tune
from tests.models.tiny import examples, saved
from tests.tuning.test_tune import CrashError, blocks, stop_at, weights

SETTINGS = TuningSettings(
    steps=8, tokens_per_step=60, row_length=30, lr=1e-3, optimizer="adamw", checkpoint_every=3, dev_every=4
)
DEV = {"a": examples(9, seed=50, task="a"), "b": examples(4, seed=51, task="b"), "none": []}


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return saved(tmp_path_factory.mktemp("base"))


def ours(lm: LanguageModel, way: Way = "ragged") -> Nats:
    return functools.partial(target_nats, lm.model, way=way)


def nats(lm: LanguageModel, example: Encoded) -> float:
    """Transformers' own loss of one example, as a sum."""
    ids = torch.tensor([[*example.prompt_ids, *example.target_ids]])
    labels = ids.clone()
    labels[0, : len(example.prompt_ids)] = -100
    with torch.no_grad():
        return float(lm.model(input_ids=ids, labels=labels).loss) * len(example.target_ids)


@pytest.mark.reference
def test_it_is_transformers_loss_weighted_by_target_tokens(lm: LanguageModel) -> None:
    found = dev_loss(lm, {name: some for name, some in DEV.items() if some}, SETTINGS, ours(lm), step=3)
    both = [*DEV["a"], *DEV["b"]]
    count = sum(len(e.target_ids) for e in both)
    assert (found.step, found.all.target_tokens, found.all.examples) == (3, count, 13)
    assert found.all.loss == pytest.approx(sum(nats(lm, e) for e in both) / count, rel=1e-5)
    of_b = sum(nats(lm, e) for e in DEV["b"]) / sum(len(e.target_ids) for e in DEV["b"])
    assert found.tasks["b"].loss == pytest.approx(of_b, rel=1e-5)
    # A mean of the tasks' means, or of the examples', is another number.
    assert abs(found.all.loss - (found.tasks["a"].loss + found.tasks["b"].loss) / 2) > 1e-3


@pytest.mark.parametrize("changed", [{"row_length": 12}, {"row_length": 60}, {"forward_tokens": 1}, {}])
def test_neither_packing_nor_the_size_of_a_pass_moves_it(lm: LanguageModel, changed: dict[str, int]) -> None:
    whole = dev_loss(lm, {"a": DEV["a"]}, SETTINGS, ours(lm), step=0)
    other = dev_loss(
        lm, {"a": DEV["a"]}, SETTINGS.model_copy(update=changed), ours(lm, "ragged" if changed else "alone"), step=0
    )
    assert other.all.loss == pytest.approx(whole.all.loss, rel=1e-5)


def test_measuring_leaves_the_weights_as_tuning_makes_them_and_follows_the_steps(
    lm: LanguageModel, tmp_path: Path
) -> None:
    told: list[StepReport] = []
    tune(lm, blocks, SETTINGS.model_copy(update={"dev_every": None}), tmp_path / "without", dev=DEV)
    tune(lm, blocks, SETTINGS, tmp_path / "with", dev=DEV, report=told.append)
    assert weights(tmp_path / "without") == weights(tmp_path / "with")
    assert not (tmp_path / "without" / DEV_FILE).exists()
    found = read_dev_losses(tmp_path / "with" / DEV_FILE)
    assert [record.step for record in found] == [0, 4, 8]
    assert len({record.all.loss for record in found}) == 3
    assert set(found[0].tasks) == {"a", "b"}
    assert [step.dev.step for step in told if step.dev] == [0, 0, 0, 4, 4, 4, 4, 8]


@pytest.mark.parametrize("stopped", [4, 5])
def test_a_stopped_run_ends_with_the_same_records(lm: LanguageModel, tmp_path: Path, stopped: int) -> None:
    tune(lm, blocks, SETTINGS, tmp_path / "straight", dev=DEV)
    with pytest.raises(CrashError):
        tune(lm, blocks, SETTINGS, tmp_path / "stopped", dev=DEV, report=stop_at(stopped))
    tune(lm, blocks, SETTINGS, tmp_path / "stopped", dev=DEV)
    assert (tmp_path / "straight" / DEV_FILE).read_bytes() == (tmp_path / "stopped" / DEV_FILE).read_bytes()


def test_records_of_steps_that_come_again_are_taken_back(lm: LanguageModel, tmp_path: Path) -> None:
    log = DevLog(DEV, lm, SETTINGS, ours(lm), tmp_path)
    for step in (0, 3, 4, 8):
        log.measure(step)
    assert [r.step for r in read_dev_losses(tmp_path / DEV_FILE)] == [0, 4, 8]
    again = DevLog(DEV, lm, SETTINGS, ours(lm), tmp_path)
    assert again.last is not None and again.last.step == 8
    again.measure(6)
    assert [r.step for r in read_dev_losses(tmp_path / DEV_FILE)] == [0, 4]
    assert again.last is not None and again.last.step == 4


def test_a_loss_that_is_not_finite_is_written_as_null(tmp_path: Path) -> None:
    broken = saved(tmp_path / "base")
    with torch.no_grad():
        broken.model.model.norm.weight[0] = float("nan")
    DevLog(DEV, broken, SETTINGS, ours(broken), tmp_path).measure(0)
    assert json.loads((tmp_path / DEV_FILE).read_text())["loss"] is None
    (record,) = read_dev_losses(tmp_path / DEV_FILE)
    assert record.all.loss != record.all.loss
