"""The verbs with an endpoint in a model's place, as a user types them."""

import json
from pathlib import Path

import pytest

from tests.conftest import Serving

from .test_verbs import failing, invoke

QUESTIONS = (
    '{"id": 1, "inputs": "Is it so? Answer:", "options": [" yes", " no"]}\n'
    '{"id": "two", "inputs": "the word is posit", "options": ["ive", " of"]}\n'
)


def test_score_asks_an_endpoint(toy: Serving, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(QUESTIONS)
    model = f"remote:toy@{toy.url}?input_price=1"
    done = invoke("score", "--model", model, "--requests", str(file), "--store", str(tmp_path / "store"))
    first, second = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert first["id"] == 1 and first["tokens"] == [1, 1] and first["bytes"] == [4, 3]
    assert second["id"] == "two" and second["tokens"] == [1, 2]
    assert all(value < 0 for value in first["logprobs"])
    assert "in 1 requests a token spans the join" in done.stderr
    assert "4 requests" in done.stderr and "cost" in done.stderr
    toy.set()
    again = invoke("score", "--model", model, "--requests", str(file), "--store", str(tmp_path / "store"))
    assert again.stdout == done.stdout
    assert not any(one["prompt"].startswith("the word") for one in toy.asked())


def test_score_wants_log_probabilities(
    toy: Serving, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.set(prompt_logprobs="generated")
    file = tmp_path / "questions.jsonl"
    file.write_text(QUESTIONS)
    code, told = failing(
        capsys, monkeypatch, "score", "--model", f"remote:toy@{toy.url}", "--requests", str(file), "-q"
    )
    assert code == 1
    assert "cannot score: it gives no usable log-probabilities of a prompt" in told


def test_evaluate_asks_an_endpoint_and_names_what_it_did(
    toy: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toy.set(prompt_logprobs="generated")
    common = ("evaluate", "--tasks", "world_liked", "--catalog", "world", "--limit", "2")
    done = invoke(*common, "--model", f"remote:toy@{toy.url}", "--out", "ranked")
    assert "model, generated" in done.stdout
    result = json.loads((tmp_path / "ranked" / "result.json").read_text())
    assert set(result["arms"]) == {"model+generated"}


def test_an_endpoint_that_is_not_there_is_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(QUESTIONS)
    model = "remote:m@http://127.0.0.1:9/v1?retries=0"
    code, told = failing(capsys, monkeypatch, "score", "--model", model, "--requests", str(file))
    assert code == 1
    assert "http://127.0.0.1:9/v1: no answer after 1 try" in told and "Connection refused" in told


def test_score_answers_what_it_can_and_names_the_rest(toy: Serving, tmp_path: Path) -> None:
    toy.set(bos=False)
    file = tmp_path / "questions.jsonl"
    file.write_text(QUESTIONS + '{"id": "bare", "inputs": "", "options": ["yes"]}\n')
    common = ("score", "--model", f"remote:toy@{toy.url}", "--requests", str(file))
    done = invoke(*common)
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.exit_code == 1 and len(records) == 3
    assert "no token stands before the options" in records[-1]["error"]
    assert invoke(*common, "--skip").exit_code == 0


def test_settings_of_loaded_models_are_refused(
    toy: Serving, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(QUESTIONS)
    code, told = failing(
        capsys, monkeypatch, "score", "--model", f"remote:toy@{toy.url}", "--requests", str(file), "--memory", "5"
    )
    assert code == 2 and "for models loaded here" in told
