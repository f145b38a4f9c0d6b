import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openflan import artifacts
from openflan.artifacts import alone_in, is_taken, stage
from openflan.errors import nearest
from openflan.ledger import Ledger
from openflan.seeding import derive, generator


def test_derived_seeds_depend_on_every_name_and_nothing_else() -> None:
    assert derive(1, "rows", "rte") == derive(1, "rows", "rte")
    assert len({derive(s, *n) for s in (0, 1) for n in [("a", "b"), ("ab",), ("a", 1), ("a", "1"), ("b", "a")]}) == 10
    assert generator(0, "x").integers(1 << 62) == generator(0, "x").integers(1 << 62)


def test_a_stage_is_built_once_and_a_crash_leaves_nothing_final(tmp_path: Path) -> None:
    calls: list[int] = []

    def build(folder: Path) -> None:
        calls.append(1)
        (folder / "part").write_text("x")
        if len(calls) == 1:
            raise RuntimeError("power cut")

    final = tmp_path / "thing"
    with pytest.raises(RuntimeError):
        artifacts.stage(final, build)
    assert not final.exists()
    assert artifacts.stage(final, build) == artifacts.stage(final, build) == final
    assert len(calls) == 2 and artifacts.is_done(final)


def test_atomic_files_are_whole_or_absent(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    artifacts.write_json(file, {"b": 1, "a": [2.5]})
    with pytest.raises(ValueError), artifacts.atomic_path(file) as part:
        part.write_text("half")
        raise ValueError
    assert artifacts.read_json(file) == {"a": [2.5], "b": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert artifacts.fingerprint({"a": 1, "b": 2}) == artifacts.fingerprint({"b": 2, "a": 1})


def test_a_ledger_comes_back_from_json_and_merges() -> None:
    ledger = Ledger()
    ledger.keep("encode", "rte", 3)
    ledger.drop("encode", "rte", "train/1", "too long")
    ledger.shorten("encode", "cb", "train/2", "passage cut")
    ledger.note("a note")
    again = Ledger.from_json(ledger.to_json())
    assert again.to_json() == ledger.to_json()
    again.merge([ledger])
    assert again.kept["encode", "rte"] == 6
    assert "3 kept · 1 dropped (1 too long) · 1 shortened (1 passage cut)" in ledger.summary("encode")


def test_nearest_names() -> None:
    assert nearest("comonsense", ["commonsense", "nli"]) == "did you mean commonsense?"
    assert nearest("zzz", ["a", "b"]) == "known: a, b"


def _stage_all(root: Path, start: float) -> None:
    while time.monotonic() < start:
        pass
    for number in range(40):
        stage(root / str(number), lambda work: (work / "file").write_text("whole") and None)


def test_processes_that_build_the_same_folder_at_once_all_get_it(tmp_path: Path) -> None:
    start = time.monotonic() + 1
    context = multiprocessing.get_context("fork")
    several = [context.Process(target=_stage_all, args=(tmp_path, start)) for _ in range(4)]
    for one in several:
        one.start()
    for one in several:
        one.join()
    assert [one.exitcode for one in several] == [0] * 4
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == list(range(40))
    assert all((path / "file").read_text() == "whole" for path in tmp_path.iterdir())


def test_one_process_at_a_time_is_in_a_folder(tmp_path: Path) -> None:
    with alone_in(tmp_path / "folder"), alone_in(tmp_path / "folder"):
        blocked = subprocess.Popen([sys.executable, "-c", f"""
from pathlib import Path
from openflan.artifacts import alone_in
with alone_in(Path({str(tmp_path / "folder")!r}), waiting="it waits"):
    print("in", flush=True)
"""], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
        with pytest.raises(subprocess.TimeoutExpired):
            blocked.wait(2)
        assert is_taken(tmp_path / "folder") and not is_taken(tmp_path / "nowhere")
    said, warned = blocked.communicate(timeout=30)
    assert said == "in\n"
    assert "another process works there; it waits" in warned
    assert not is_taken(tmp_path / "folder") and not list((tmp_path / "folder").iterdir())
