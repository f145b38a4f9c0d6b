"""Two processes tune as one does, go on where one stopped, and the other way round."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from openflan.errors import RunError
from openflan.models.load import load_model
from openflan.tuning import distributed
from openflan.tuning import tune as tune_module
from openflan.tuning.checkpoint import checkpoints
from openflan.tuning.dev import read_dev_losses
from openflan.tuning.tune import StepReport, tune
from tests.tuning import ranks

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 900
"""What waits longer waits for a process that is gone."""

MEASURED = {"example": [0, 2, 4, 6], "unpacked": [0, 3, 6]}
"""Steps with a dev loss."""


class CrashError(Exception):
    """Stands for a crash."""


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def torchrun(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *arguments]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()  # unlike a kill, this ends the processes that it started too
            stdout, stderr = process.communicate()
            pytest.fail(f"not through after {PATIENCE_SECONDS} seconds:\n{stderr}")
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def alone(root: Path, name: str, folder: Path, **options: Any) -> None:
    """A scenario in this one process."""
    base = load_model(str(root / "base"), device="cpu")
    tune(base, ranks.blocks, ranks.settings_of(name), folder, dev=ranks.DEV, **options)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every scenario of `ranks` run by two processes; `one_to_two` begins here, in one."""
    root = tmp_path_factory.mktemp("ranks")
    ranks.save_base(root / "base")

    def crash(done: StepReport) -> None:
        if done.step == ranks.STOPPED_AFTER:
            raise CrashError

    with pytest.raises(CrashError):
        alone(root, "one_to_two", root / "one_to_two", report=crash)
    assert [path.name for path in checkpoints(root / "one_to_two" / "checkpoints")] == ["step-000002"]
    subprocess.run([sys.executable, "-m", "tests.tuning.ranks", str(root)], env=environment(), check=True)
    return root


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "model").glob("*.safetensors")
    return load_file(file)


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "timing"} for line in lines]


def assert_same(ours: Path, theirs: Path, *, tolerance: float = 1e-6) -> None:
    one, two = weights(ours), weights(theirs)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(
            two[name], one[name], rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )
    for a, b in zip(logged(ours), logged(theirs), strict=True):
        assert b == pytest.approx(a, rel=max(tolerance, 1e-6) * 10)
    others = sorted(path.name for path in (ours / "model").iterdir() if path.suffix != ".safetensors")
    assert all((ours / "model" / name).read_bytes() == (theirs / "model" / name).read_bytes() for name in others)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scaled", "example", "lora", "soft_prompt", "unpacked", "one_to_two"])
def test_two_processes_tune_as_one(tuned: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert json.loads((tuned / "codes.json").read_text())[name] == [0, 0]
    if name == "unpacked":
        monkeypatch.setattr(tune_module, "packing_of", lambda model, longest, ways: ranks.UNPACKED)
    one = tuned / f"{name}_alone"  # beside it, since a soft prompt's folder says by what path its base is found
    alone(tuned, name, one)
    assert_same(one, tuned / name)
    assert not (tuned / name / "checkpoints").exists()
    ours, theirs = (read_dev_losses(folder / "dev.jsonl") for folder in (one, tuned / name))
    assert [a.step for a in ours] == [b.step for b in theirs] == MEASURED.get(name, [])
    assert [a.all.loss for a in ours] == pytest.approx([b.all.loss for b in theirs], rel=1e-5)
    if name not in ("lora", "soft_prompt"):  # it moved by far more than the tolerance
        base = load_file(tuned / "base" / "model.safetensors")
        assert all(float((value - base[key]).norm()) > 1e-3 for key, value in weights(tuned / name).items())


@pytest.mark.slow
def test_one_process_at_a_time_holds_the_whole_model(tuned: Path) -> None:
    assert (tuned / "turns.txt").read_text().splitlines() == ["0 begins", "0 ends", "1 begins", "1 ends"]


@pytest.mark.slow
def test_bfloat16_layers_on_float32_weights(tuned: Path, tmp_path: Path) -> None:
    alone(tuned, "bfloat16", tmp_path / "one")
    ours, theirs = logged(tmp_path / "one"), logged(tuned / "bfloat16")
    assert [step["loss"] for step in ours] == pytest.approx([step["loss"] for step in theirs], rel=1e-2)
    # Float32 to the last digit, though the dev loss was measured in bfloat16 just before they were put together.
    assert all(value.dtype == torch.float32 for value in weights(tuned / "bfloat16").values())
    assert all(bool((value != value.bfloat16()).any()) for value in weights(tuned / "bfloat16").values())
    assert logged(tuned / "bfloat16")[0]["loss"] != logged(tuned / "one_to_two")[0]["loss"]


@pytest.mark.slow
def test_asked_to_end_in_one_process_both_save_and_one_goes_on(tuned: Path, tmp_path: Path) -> None:
    assert json.loads((tuned / "codes.json").read_text())["two_to_one"] == [128 + 15, 128 + 15]
    last = checkpoints(tuned / "two_to_one" / "checkpoints")[-1]
    assert last.name == f"step-{ranks.STOPPED_AFTER:06d}"
    assert len(list(last.glob("*.distcp"))) == 2  # each wrote its shards
    alone(tuned, "two_to_one", tuned / "two_to_one")
    alone(tuned, "two_to_one", tmp_path / "one")
    assert_same(tmp_path / "one", tuned / "two_to_one")


RECIPE = """\
model = "world:small-early"
catalogs = ["world"]
hold_out = ["nli"]
train_clusters = ["sentiment"]
tuning = { steps = 2, tokens_per_step = 1024, row_length = 256 }
"""


@pytest.mark.slow
def test_torchrun_tunes_by_the_command_line(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    done = torchrun("-m", "openflan", "tune", str(recipe), "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "run" / "model")
    assert done.stderr.count("tune  2 of 2") == 1  # one process talks
    assert len(logged(tmp_path / "run")) == 2
    assert load_model(str(tmp_path / "run" / "model"), device="cpu").prompt_format is not None


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_torchrun_tunes_then_the_first_process_scores_alone(tmp_path: Path, workers: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"{RECIPE}arms = ['untuned', 'tuned', 'no_template']\n"
        "evaluation = { items = 2, dev_items = 2, resamples = 100 }\n"
    )
    run = tmp_path / "run"
    done = torchrun("-m", "openflan", "run", str(recipe), "--out", str(run), "--workers", workers)
    assert done.returncode == 0, done.stderr
    assert (run / "DONE").is_file()
    assert set(json.loads((run / "result.json").read_text())["arms"]) == {"untuned", "tuned", "no_template"}
    assert len(logged(run)) == len(logged(run / "arms" / "no_template")) == 2


@pytest.mark.slow
def test_a_process_that_fails_ends_all_with_its_error(tmp_path: Path) -> None:
    ranks.save_base(tmp_path / "base")
    done = torchrun(str(ROOT / "tests" / "tuning" / "ranks.py"), str(tmp_path), "failing")
    assert done.returncode != 0
    assert "SourceError: process 1 finds no rows" in done.stderr
    assert not (tmp_path / "failing" / "model").exists()


def test_alone_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.joined() as world:
        assert (world.rank, world.size, world.first) == (0, 1, True)
        assert world.gathered("mine") == ["mine"]
        assert world.summed([1.0, 2.0]) == [1.0, 2.0]
        with world.first_alone():
            world.wait()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: True, device_count=lambda: 2))
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RunError, match="2 GPUs"), distributed.joined():
        pass


@pytest.mark.gpu
@pytest.mark.slow
def test_two_gpus_tune_as_one_process_does(tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    ranks.save_base(tmp_path / "base")
    done = torchrun(str(ROOT / "tests" / "tuning" / "ranks.py"), str(tmp_path), "example")
    assert done.returncode == 0, done.stderr
    alone(tmp_path, "example", tmp_path / "one")
    assert_same(tmp_path / "one", tmp_path / "example", tolerance=1e-4)
