"""`openflan tune` with each method, on real rows and a real model: folders that plain peft and transformers load."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from openflan.cli.app import app
from openflan.errors import ConfigError
from openflan.models.load import LanguageModel, load_model

IDS = torch.tensor([[1, 320, 417, 263, 325]])

RECIPE = """\
model = "unset"
hold_out = ["nli"]
train_clusters = ["coreference"]
threads = 1
mixture = { block_size = 32, shots = { 0 = 0.5, 1 = 0.5 } }
tuning = { steps = 2, tokens_per_step = 1024, optimizer = "adamw", lr = 0.01 }
"""


def tuned(out: Path, stories: str, real_rows: Path, *flags: str) -> Path:
    out.mkdir()
    (out / "recipe.toml").write_text(RECIPE)
    command = ["tune", str(out / "recipe.toml"), "--model", stories, "--data-root", str(real_rows), *flags]
    result = CliRunner().invoke(app, [*command, "--out", str(out / "run"), "--quiet"])
    assert result.exit_code == 0, result.exception
    assert result.stdout.strip().endswith(str(out / "run" / "model"))
    return out / "run"


def ours(lm: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        prefix = torch.tensor([lm.prefix_ids], dtype=torch.long)
        return lm.model(torch.cat([prefix, IDS], 1)).logits[:, len(lm.prefix_ids) :]


def plain(base: str, adapter: Path | None = None) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    with torch.no_grad():
        return model(input_ids=IDS).logits[:, -IDS.shape[1] :]


@pytest.mark.slow
@pytest.mark.reference
def test_lora_on_real_rows_gives_one_model_merged_and_beside_its_base(
    tmp_path: Path, stories: str, real_rows: Path
) -> None:
    run = tuned(tmp_path / "lora", stories, real_rows, "--method", "lora")
    logits = ours(load_model(str(run / "model"), device="cpu"))
    torch.testing.assert_close(plain(str(run / "model")), logits)
    torch.testing.assert_close(plain(stories, run / "adapter"), logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours(load_model(str(run / "adapter"), device="cpu")), logits)
    assert not torch.allclose(plain(stories), logits, atol=1e-2)
    counted = json.loads(next((run / "encoded").glob("*.json")).read_text())
    assert set(counted["stages"]) >= {"encode", "exemplars"}


@pytest.mark.slow
@pytest.mark.reference
def test_a_soft_prompt_on_real_rows_is_an_adapter_of_peft(tmp_path: Path, stories: str, real_rows: Path) -> None:
    run = tuned(tmp_path / "soft", stories, real_rows, "--method", "soft_prompt", "--lr", "0.3")
    logits = ours(load_model(str(run / "model"), device="cpu"))
    torch.testing.assert_close(plain(stories, run / "model"), logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain(stories), logits, atol=1e-2)


def test_bits_without_lora_are_refused() -> None:
    result = CliRunner().invoke(app, ["tune", "--model", "m", "--hold-out", "nli", "--quantize", "nf4"])
    assert isinstance(result.exception, ConfigError) and "--method lora" in str(result.exception)
