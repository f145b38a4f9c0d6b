"""Laws of the code base: data flows one way, and importing costs nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_layer_imports_only_from_those_above_it() -> None:
    done = run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert done.returncode == 0, done.stdout


def test_importing_openflan_loads_no_model_stack() -> None:
    heavy = ("torch", "transformers", "polars", "pydantic", "numpy")
    code = f"import sys, openflan; print([m for m in {heavy} if m in sys.modules])"
    assert run(sys.executable, "-c", code).stdout.strip() == "[]"


def test_every_public_name_resolves_and_the_list_is_sorted() -> None:
    import openflan

    assert openflan.__all__ == sorted(openflan.__all__, key=lambda name: (name[0].islower(), name))
    for name in openflan.__all__:
        assert getattr(openflan, name).__module__.startswith("openflan.")


@pytest.mark.parametrize("command", [("check", "."), ("format", "--check", ".")])
def test_the_code_is_formatted_and_linted(command: tuple[str, ...]) -> None:
    done = run(str(Path(sys.executable).with_name("ruff")), *command)
    assert done.returncode == 0, done.stdout[-3000:]


def test_no_file_speaks_of_a_machine() -> None:
    files = run("git", "ls-files").stdout.split("\n")
    word = re.compile(r"/(?:work|root)/|/tmp/w/")
    named = [
        name
        for name in files
        if name.endswith((".py", ".toml", ".md", ".j2", "Makefile"))
        and (ROOT / name).is_file()
        and name != "tests/laws/test_layers.py"
        and word.search((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert named == []
