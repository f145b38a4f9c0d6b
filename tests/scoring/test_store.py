"""A killed scoring goes on where it stood, and ends with the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openflan.errors import RunError
from openflan.scoring.generate import GenerationRequest, generate
from openflan.scoring.rank import score
from openflan.scoring.store import in_chunks

from .conftest import tiny
from .test_rank import requests_like


def squares(chunk):
    return [{"square": item * item} for item in chunk]


def chunked(folder, items=tuple(range(10)), compute=squares, key="k"):
    return list(in_chunks(items, compute, key=key, content=lambda item: item, folder=folder, chunk_items=4))


def test_chunks_are_kept_and_read_back(tmp_path):
    first, second = chunked(tmp_path), chunked(tmp_path, compute=lambda _: pytest.fail("computed again"))
    assert [records for records, _ in first] == [records for records, _ in second]
    assert [stored for _, stored in first] == [False] * 3
    assert [stored for _, stored in second] == [True] * 3
    assert [records for records, _ in chunked(None)] == [records for records, _ in first]
    assert sorted(path.name[:11] for path in tmp_path.iterdir()) == ["chunk-00000", "chunk-00001", "chunk-00002"]


def test_only_missing_chunks_are_computed(tmp_path):
    chunked(tmp_path)
    next(tmp_path.glob("chunk-00001-*")).unlink()
    assert [stored for _, stored in chunked(tmp_path)] == [True, False, True]


def test_another_key_or_content_is_another_chunk(tmp_path):
    chunked(tmp_path)
    assert not any(stored for _, stored in chunked(tmp_path, key="other"))
    assert [stored for _, stored in chunked(tmp_path, items=(*range(9), 99))] == [True, True, False]


def test_a_damaged_chunk_is_named(tmp_path):
    chunked(tmp_path)
    path = next(tmp_path.glob("chunk-00002-*"))
    path.write_text(path.read_text().split("\n")[0] + "\n")
    with pytest.raises(RunError, match=r"chunk-00002.*holds 1 records, expected 2"):
        chunked(tmp_path)
    path.write_text('{"square": 6')
    with pytest.raises(RunError, match=r"chunk-00002.*damaged"):
        chunked(tmp_path)


def test_line_separators_inside_texts_do_not_split_records(tmp_path):
    records = [{"text": "a\u2028b\x85c\nd"}]
    for _ in range(2):
        ((found, _),) = in_chunks([0], lambda _: records, key="k", content=lambda item: item, folder=tmp_path)
        assert found == records


def test_a_continued_scoring_equals_one_that_was_never_stopped(tmp_path, llama):
    requests = requests_like(7, number=20)
    straight = score(llama, requests, store=tmp_path / "a", chunk_requests=4)
    assert straight == score(llama, requests, chunk_requests=4)
    score(llama, requests, store=tmp_path / "b", chunk_requests=4)
    for path in list((tmp_path / "b").glob("chunk-0000[13]-*")):
        path.unlink()
    costs = []
    assert score(llama, requests, store=tmp_path / "b", chunk_requests=4, report=costs.append) == straight
    assert (costs[-1].requests, costs[-1].stored) == (20, 12)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()
    }


def test_another_model_is_scored_anew(tmp_path):
    requests = requests_like(7, number=4)
    costs = []
    for architecture in ("llama", "gpt2"):
        score(tiny(architecture), requests, store=tmp_path, report=costs.append)
    assert [cost.stored for cost in costs] == [0, 0]


def test_generations_come_back_from_the_store(tmp_path, llama):
    requests = [GenerationRequest(str(index), (5 + index, 6)) for index in range(5)]
    straight = generate(llama, requests, max_new_tokens=6, store=tmp_path, chunk_requests=2)
    assert generate(llama, requests, max_new_tokens=6, store=tmp_path, chunk_requests=2) == straight
    assert len(list(tmp_path.iterdir())) == 3
    generate(llama, requests, max_new_tokens=7, store=tmp_path, chunk_requests=2)
    assert len(list(tmp_path.iterdir())) == 6


SCORING = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.scoring.conftest import tiny
from tests.scoring.test_rank import requests_like
from openflan.scoring.rank import score

requests = requests_like(8, number=240)
for one in score(tiny("llama"), requests, store=Path(sys.argv[2]), chunk_requests=8):
    print(one.id, *one.sums)
"""


@pytest.mark.slow
def test_kill_dash_nine(tmp_path):
    root = str(Path(__file__).parents[2])

    def start(folder: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCORING, root, str(tmp_path / folder)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    killed = start("killed")
    deadline = time.monotonic() + 300
    while len(list((tmp_path / "killed").glob("chunk-*.jsonl"))) < 3:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("chunk-*.jsonl")}
    continued, straight = start("killed").communicate()[0], start("straight").communicate()[0]
    assert continued == straight and continued.count("\n") == 240
    assert 3 <= len(before) < 30
    after = {path.name: path for path in (tmp_path / "killed").glob("chunk-*.jsonl")}
    assert {name: after[name].stat().st_mtime_ns for name in before} == before
    assert {name: path.read_bytes() for name, path in after.items()} == {
        path.name: path.read_bytes() for path in (tmp_path / "straight").iterdir()
    }
    assert all(json.loads(line) for path in after.values() for line in path.read_text().splitlines())
