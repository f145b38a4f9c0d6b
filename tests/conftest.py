"""Fixtures every test may use."""

import os
from pathlib import Path

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
