"""Tuning learns, leaves what it promises, and a killed run ends with the same bytes."""

import dataclasses
import errno
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from openflan.encoding import Encoded, Lengths, PromptFormat, encode
from openflan.errors import ModelError, RunError
from openflan.ledger import Ledger
from openflan.models.load import load_model
from openflan.models.packing import Packing
from openflan.models.provenance import TunedOn, tuned_on
from openflan.rendering.example import Example
from openflan.tuning import tune as tune_module
from openflan.tuning.checkpoint import checkpoints
from openflan.tuning.settings import TuningSettings
from openflan.tuning.tune import StepReport, last_block, tune
from tests.models.tiny import EOS, VOCABULARY, examples, saved
from tests.tuning import killable

QUICK = TuningSettings(steps=8, tokens_per_step=60, row_length=30, lr=1e-3, optimizer="adamw", checkpoint_every=3)


def blocks(block: int) -> list[Encoded]:
    return examples(20, seed=block, task=f"block{block}")


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def steps(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "timing"} for line in lines]


class CrashError(Exception):
    """Stands for a crash."""


def stop_at(step: int) -> Callable[[StepReport], None]:
    def report(done: StepReport) -> None:
        if done.step == step:
            raise CrashError

    return report


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("method", ["full", "lora", "soft_prompt"])
def test_a_stopped_run_continues_to_the_same_bytes(tmp_path: Path, method: str, optimizer: str) -> None:
    settings = QUICK.model_copy(update={"method": method, "optimizer": optimizer, "log_every": 1})
    lm = saved(tmp_path / "base", "llama")
    straight = tune(lm, blocks, settings, tmp_path / "straight")
    with pytest.raises(CrashError):
        tune(lm, blocks, settings, tmp_path / "stopped", report=stop_at(5))
    assert len(steps(tmp_path / "stopped")) == 5
    resumed = tune(lm, blocks, settings, tmp_path / "stopped")
    assert steps(tmp_path / "stopped") == steps(tmp_path / "straight")
    pairs = zip(straight.model.named_parameters(), resumed.model.named_parameters(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)
    assert not (tmp_path / "stopped" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("architecture", "rates"),
    [
        ("gpt2", {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}),
        ("falcon", {"hidden_dropout": 0.5, "attention_dropout": 0.5}),  # read off the configuration in every pass
    ],
)
def test_a_base_models_own_dropout_plays_no_part(tmp_path: Path, architecture: str, rates: dict[str, float]) -> None:
    lm = saved(tmp_path / "base", architecture)
    tune(lm, blocks, QUICK, tmp_path / "without")
    config = tmp_path / "base" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | rates))
    tune(load_model(str(tmp_path / "base")), blocks, QUICK, tmp_path / "with")
    assert weights(tmp_path / "with") == weights(tmp_path / "without")
    kept = json.loads((tmp_path / "with" / "model" / "config.json").read_text())
    assert rates.items() <= kept.items()


def test_tuning_learns_and_leaves_the_given_model_as_it_was(tmp_path: Path) -> None:
    lm = saved(tmp_path / "base")
    before = [p.clone() for p in lm.model.parameters()]
    answer = Encoded("t", "0", "x", (5, 6, 7), (8, 9, EOS))
    settings = QUICK.model_copy(update={"steps": 80, "lr": 3e-3})
    tuned = tune(
        lm, lambda block: [answer] * 5, settings, tmp_path / "run", prompt_format=PromptFormat(separator=" = ")
    )
    logged = steps(tmp_path / "run")
    assert logged[-1]["loss"] < 0.1 < logged[0]["loss"]
    assert all(torch.equal(a, b) for a, b in zip(before, lm.model.parameters(), strict=True))
    generated = tuned.model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=5, do_sample=False, pad_token_id=EOS)
    assert generated[0, 3:].tolist() == [8, 9, EOS]
    assert tuned.prompt_format == PromptFormat(separator=" = ")
    assert not tuned.model.training


def test_equal_runs_are_equal_bytes_and_a_finished_one_is_not_repeated(tmp_path: Path) -> None:
    lm = saved(tmp_path / "base")
    for name in ("one", "two"):
        tune(lm, blocks, QUICK, tmp_path / name)
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert steps(tmp_path / "one") == steps(tmp_path / "two")

    def never(block: int) -> list[Encoded]:
        raise AssertionError

    again = tune(lm, never, QUICK, tmp_path / "one")
    assert again.identity == load_model(str(tmp_path / "two" / "model")).identity


def test_what_a_step_reports(tmp_path: Path) -> None:
    seen: list[StepReport] = []
    tune(saved(tmp_path / "base"), blocks, QUICK, tmp_path / "run", report=seen.append)
    assert [done.step for done in seen] == list(range(1, 9))
    assert all(0 <= done.waited_seconds < done.seconds for done in seen)
    first, *_, last = steps(tmp_path / "run")
    assert last["block"] == last_block(tmp_path / "run") >= first["block"] == 0
    assert 1 <= first["target_tokens"] < first["tokens"] <= 60
    assert 0.8 < first["fill"] <= 1
    assert first["lr"] == QUICK.lr


def test_other_settings_in_the_same_folder_are_refused_by_key(tmp_path: Path) -> None:
    lm = saved(tmp_path / "base")
    tune(lm, blocks, QUICK, tmp_path / "run")
    with pytest.raises(RunError, match=r"lr = 0\.001, now 0\.002"):
        tune(lm, blocks, QUICK.model_copy(update={"lr": 2e-3}), tmp_path / "run")


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    lm = saved(tmp_path / "base")
    settings = QUICK.model_copy(update={"log_every": 1})
    straight = tune(lm, blocks, settings, tmp_path / "straight")
    with pytest.raises(CrashError):
        tune(lm, blocks, settings, tmp_path / "run", report=stop_at(7))
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-000003", "step-000006"]
    (last,) = (tmp_path / "run" / "checkpoints" / "step-000006").glob("*.distcp")
    last.write_bytes(last.read_bytes()[:-1] + b"x")
    # It is gone, and pushes out none that is written before its step comes again.
    with pytest.raises(CrashError):
        tune(lm, blocks, settings.model_copy(update={"keep_checkpoints": 1}), tmp_path / "run", report=stop_at(5))
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000003"]
    tune(lm, blocks, settings, tmp_path / "run")
    assert weights(tmp_path / "run") == weights(tmp_path / "straight")
    assert straight.identity


def test_ids_the_model_does_not_know_stop_it_before_the_first_step(tmp_path: Path) -> None:
    lm = saved(tmp_path / "base", "llama")
    unknown = Encoded("t", "row 7", "x", (5, 6), (VOCABULARY, EOS))
    told = rf"row 7: the tokenizer gives id {VOCABULARY}, the model knows {VOCABULARY} tokens"
    with pytest.raises(ModelError, match=told):
        tune(lm, lambda block: [unknown], QUICK, tmp_path / "run")
    with pytest.raises(ModelError, match=told):
        tune(lm, blocks, QUICK.model_copy(update={"dev_every": 4}), tmp_path / "dev", dev={"t": [unknown]})


def test_a_copy_beside_checkpoints_is_none_of_them(tmp_path: Path) -> None:
    for name in ("step-000010", "step-000009", "step-000009 (copy)"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000009", "step-000010"]


def test_a_loss_that_is_not_finite_stops_and_names_its_rows(tmp_path: Path) -> None:
    lm = saved(tmp_path / "base")
    with torch.no_grad():
        lm.model.model.norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match="step 1: loss nan"):
        tune(lm, blocks, QUICK, tmp_path / "run")
    found = json.loads((tmp_path / "run" / "not_finite.json").read_text())
    assert found["step"] == 1
    assert found["row_ids"][0].startswith("block0 train/")


def test_the_rows_of_the_forward_pass_that_failed_are_named_apart(tmp_path: Path) -> None:
    lm = saved(tmp_path / "base")
    bad = 299
    with torch.no_grad():
        lm.model.model.embed_tokens.weight[bad] = float("inf")
    good = Encoded("t", "good", "x", (5, 6, 7, 8, 9, 10), (8, 9, EOS))
    rows = [good, dataclasses.replace(good, row_id="bad", prompt_ids=(bad, *good.prompt_ids[1:]))]
    settings = QUICK.model_copy(update={"row_length": 9, "forward_tokens": 9})
    lm.model.lm_head.weight = torch.nn.Parameter(lm.model.lm_head.weight.nan_to_num(posinf=0.0))
    with pytest.raises(ModelError, match="1 of them in the forward passes it appeared in"):
        tune(lm, lambda block: rows, settings, tmp_path / "run")
    found = json.loads((tmp_path / "run" / "not_finite.json").read_text())
    assert found["forward_pass"] == ["t bad x"]
    assert {"t good x", "t bad x"} <= set(found["row_ids"])


def room_of(num_bytes: int, settings: TuningSettings, folder: Path) -> RunError:
    """What tuning raises where no file may grow larger than `num_bytes`."""
    lm = saved(folder / "base")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        with pytest.raises(RunError) as raised:
            tune(lm, blocks, settings, folder / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return raised.value


def test_a_checkpoint_without_room_leaves_the_one_before_and_says_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = saved(tmp_path / "base")
    straight = tune(lm, blocks, QUICK, tmp_path / "straight")
    fsync, calls = os.fsync, itertools.count()

    def full(descriptor: int) -> None:
        if (tmp_path / "run" / "checkpoints" / "step-000003").exists() and next(calls) == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"step-000006: the disk is full: it takes about 0\.\d MiB.*step-000003"):
        tune(lm, blocks, QUICK, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000003"]
    again = tune(lm, blocks, QUICK, tmp_path / "run")
    assert again.identity == straight.identity


@pytest.mark.parametrize("checkpoint_every, named", [(3, "step-000003"), (100, "model")])
def test_a_file_that_may_not_grow_is_an_error_that_says_so(tmp_path: Path, checkpoint_every: int, named: str) -> None:
    settings = QUICK.model_copy(update={"checkpoint_every": checkpoint_every})
    error = room_of(20_000, settings, tmp_path)
    assert f"/{named}: the file is larger than this system lets it become" in str(error)
    assert "make room and give the same command again" in str(error)
    left = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert left == {"tuning.json", "steps.jsonl"}
    tune(load_model(str(tmp_path / "base"), device="cpu"), blocks, settings, tmp_path / "run")


@pytest.mark.parametrize("method", ["full", "lora", "soft_prompt"])
def test_gradient_checkpointing_moves_no_weight(tmp_path: Path, method: str) -> None:
    lm = saved(tmp_path / "base")
    for name, on in (("kept", False), ("again", True)):
        settings = QUICK.model_copy(update={"steps": 3, "method": method, "gradient_checkpointing": on})
        tune(lm, blocks, settings, tmp_path / name)
    kept, again = (
        {p.name: p.read_bytes() for p in (tmp_path / name / "model").iterdir()} for name in ("kept", "again")
    )
    assert kept == again


def test_dropout_is_drawn_alike_after_a_stop(tmp_path: Path) -> None:
    lora = QUICK.lora.model_copy(update={"dropout": 0.3})
    settings = QUICK.model_copy(update={"method": "lora", "lora": lora, "log_every": 1})
    lm = saved(tmp_path / "base")
    tune(lm, blocks, settings, tmp_path / "straight")
    with pytest.raises(CrashError):
        tune(lm, blocks, settings, tmp_path / "stopped", report=stop_at(5))
    tune(lm, blocks, settings, tmp_path / "stopped")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "straight")


def test_an_architecture_that_cannot_pack_is_tuned_otherwise_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lm = saved(tmp_path / "base")
    tune(lm, blocks, QUICK, tmp_path / "packed")
    refused = Packing("padded", "Llama", {"ragged": "no reason"})
    monkeypatch.setattr(tune_module, "packing_of", lambda model, longest, ways: refused)
    tune(lm, blocks, QUICK, tmp_path / "unpacked")
    assert "Llama: not ragged: no reason; examples are not packed" in caplog.text
    ours, theirs = ([s["loss"] for s in steps(tmp_path / name)] for name in ("packed", "unpacked"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def test_lora_leaves_a_merged_model_and_the_adapter(tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"method": "lora"})
    tuned = tune(saved(tmp_path / "base"), blocks, settings, tmp_path / "run")
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()
    assert not any("lora" in name for name, _ in tuned.model.named_parameters())


def test_a_soft_prompt_comes_back_with_its_prefix(tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"method": "soft_prompt", "soft_prompt_tokens": 4})
    tuned = tune(saved(tmp_path / "base"), blocks, settings, tmp_path / "run")
    assert len(tuned.prefix_ids) == 4
    assert not (tmp_path / "run" / "model" / "model.safetensors").exists()
    for method in ("full", "lora"):  # of which only the vectors would be saved
        with pytest.raises(ModelError, match="is a soft prompt: tune the model that it stands before"):
            tune(tuned, blocks, QUICK.model_copy(update={"method": method}), tmp_path / method)


@pytest.mark.parametrize("method", ["full", "lora", "soft_prompt"])
def test_what_a_model_was_tuned_on_adds_up_over_its_bases(tmp_path: Path, method: str) -> None:
    quick = QUICK.model_copy(update={"steps": 1})
    first, second = TunedOn(("b",), ("nli",)), TunedOn(("a",), ("misc", "nli"))
    tuned = tune(saved(tmp_path / "base"), blocks, quick, tmp_path / "first", tuned_on=first)
    assert tuned.tuned_on == first
    settings = quick.model_copy(update={"method": method})
    again = tune(tuned, blocks, settings, tmp_path / "second", tuned_on=second)
    assert again.tuned_on == TunedOn(("a", "b"), ("misc", "nli"))
    folders = ["model", "adapter"] if method == "lora" else ["model"]
    for folder in (tmp_path / "second" / name for name in folders):
        assert tuned_on(str(folder)) == again.tuned_on
        (folder / "openflan.json").unlink()  # an adapter's base still tells
        assert tuned_on(str(folder)) == (first if (folder / "base.json").exists() else TunedOn())


def start(*arguments: str | Path) -> "subprocess.Popen[bytes]":
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "tests.tuning.killable", *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})


def wait_for_steps(run: "subprocess.Popen[bytes]", folder: Path, count: int) -> None:
    while run.poll() is None:
        log = folder / "steps.jsonl"
        if log.exists() and len(log.read_bytes().splitlines()) >= count:
            return
        time.sleep(0.005)


@pytest.mark.slow
def test_killed_25_times_it_ends_with_the_bytes_of_a_straight_run(tmp_path: Path) -> None:
    saved(tmp_path / "base")
    assert start(tmp_path / "base", tmp_path, "25").wait() == 0
    kills = json.loads((tmp_path / "kills.json").read_text())
    assert len(kills) == 25
    assert len(set(kills)) > 12  # spread over the run
    assert weights(tmp_path / "killed") == weights(tmp_path / "straight")
    assert steps(tmp_path / "killed") == steps(tmp_path / "straight")
    left = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert left == sorted(path.name for path in (tmp_path / "straight").iterdir())


@pytest.mark.slow
def test_asked_to_end_it_saves_and_leaves(tmp_path: Path) -> None:
    saved(tmp_path / "base")
    run = start(tmp_path / "base", tmp_path / "run")
    wait_for_steps(run, tmp_path / "run", 13)
    run.send_signal(signal.SIGTERM)
    assert run.wait() == 128 + signal.SIGTERM
    (checkpoint, *_) = sorted((tmp_path / "run" / "checkpoints").glob("step-*"), reverse=True)
    assert int(checkpoint.name.removeprefix("step-")) == len(steps(tmp_path / "run")) < killable.SETTINGS.steps


@pytest.mark.slow
def test_a_real_model_gets_better_at_what_it_is_tuned_on(stories: str, tmp_path: Path) -> None:
    lm = load_model(stories)
    asked = [
        Example(task="colour", row_id=str(i), template="t", inputs=f"The ball is {c}. What colour is it?", targets=c)
        for i, c in zip(range(40), itertools.cycle(("red", "blue", "green")), strict=False)
    ]
    form = PromptFormat()
    encoded = encode(asked, lm.tokenizer, form, Lengths(), Ledger(), context=lm.context)
    settings = TuningSettings(steps=30, tokens_per_step=512, lr=2e-3, optimizer="adamw", schedule="linear")
    tuned = tune(lm, lambda block: encoded, settings, tmp_path / "run", prompt_format=form)
    logged = steps(tmp_path / "run")
    assert logged[-1]["loss"] < 0.3 * logged[0]["loss"]
    assert tuned.prompt_format == form
