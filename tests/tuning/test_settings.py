"""The paper's values, and what a setting may be."""

import math
import subprocess
import sys

import pytest
from pydantic import ValidationError

from openflan.tuning.settings import TuningSettings


def test_defaults_are_the_papers() -> None:
    s = TuningSettings()
    assert (s.steps, s.tokens_per_step, s.optimizer, s.lr) == (30_000, 8_192, "adafactor", 3e-5)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    linear = TuningSettings(steps=10, warmup_steps=2, lr=1.0, schedule="linear")
    assert [linear.lr_at(step) for step in (0, 1, 2, 6, 9)] == [0.5, 1.0, 1.0, 0.5, 0.125]
    constant = TuningSettings(steps=10, warmup_steps=4, lr=1.0)
    assert [constant.lr_at(step) for step in (0, 3, 4, 9)] == [0.25, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0},
        {"lr": math.inf},
        {"weight_decay": math.inf},
        {"betas": [1.5, 2.0]},
        {"betas": [0.9, 1.0]},
        {"lora": {"alpha": math.inf}},
        {"steps": 0},
        {"optimiser": "adamw"},
        {"method": "qlora"},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TuningSettings.model_validate(wrong)


def test_where_checkpoints_go_does_not_decide_the_weights() -> None:
    assert TuningSettings(checkpoint_every=7, log_every=3).content() == TuningSettings().content()
    assert TuningSettings(seed=1).content() != TuningSettings().content()


@pytest.mark.slow
def test_reading_settings_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, openflan.tuning.settings; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_auto_precision_is_one_of_the_two() -> None:
    import torch

    from openflan.tuning.tune import computes_bfloat16

    assert computes_bfloat16(torch.device("cpu")) in (True, False)
    assert not computes_bfloat16(torch.device("meta"))
    assert TuningSettings(precision="auto").content() != TuningSettings(precision="float32").content()
