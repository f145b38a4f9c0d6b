"""Fixtures every test may use."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:  # pyright: ignore[reportUnusedFunction] -- pytest calls it
    """Rows are kept in a folder of this test session, not in the user's cache."""
    os.environ["OPENFLAN_CACHE"] = str(tmp_path_factory.getbasetemp() / "openflan-cache")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real rows and a real small model for development, beside the checkout; absent on most machines."""
    if not SHARED.is_dir():
        pytest.skip(f"needs development data in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def stories(shared: Path) -> str:
    """A real pretrained Llama-format model of 260k parameters."""
    return str(shared / "data" / "models" / "stories260K")


@pytest.fixture(scope="session")
def real_rows(shared: Path) -> Path:
    """A data root with real rows of many datasets in hub layout."""
    return shared / "data" / "real"


class Serving:
    """A process of `tests/endpoint.py`: an OpenAI-compatible server on loopback."""

    def __init__(self, *models: str) -> None:
        root = Path(__file__).resolve().parents[1]
        command = [sys.executable, "-m", "tests.endpoint", *models]
        self.process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def set(self, **faults: Any) -> None:
        """Forgets what was asked, and behaves so from now on."""
        httpx.post(f"http://127.0.0.1:{self.port}/control", json=faults).raise_for_status()

    def asked(self) -> list[dict[str, Any]]:
        return httpx.get(f"http://127.0.0.1:{self.port}/control").json()["asked"]

    def most_under_way(self) -> int:
        return httpx.get(f"http://127.0.0.1:{self.port}/control").json()["most_under_way"]

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def _toy() -> Iterator[Serving]:
    serving = Serving("toy")
    yield serving
    serving.stop()


@pytest.fixture
def toy(_toy: Serving) -> Serving:
    """A server around a language model over word pairs, without faults so far."""
    _toy.set()
    return _toy
