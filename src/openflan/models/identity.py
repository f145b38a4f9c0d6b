"""Where a model's files lie, and what names their content; torch is not needed to say so.

Takes a model's name or folder, gives a folder or a hash. Read next: `load.py`.
"""

import functools
import hashlib
from pathlib import Path

from openflan.artifacts import file_sha256

FORMAT_FILE = "openflan.json"
WORLD_PREFIX = "world:"
WORLD_FOLDER = Path(__file__).parents[1] / "world" / "checkpoints"
IDENTITY_SUFFIXES = (".safetensors", ".bin", ".json", ".model", ".txt", ".jinja")


def folder_identity(folder: Path) -> str:
    """SHA-256 over the names and bytes of a model's files; the prompt format is left out."""
    stamps: list[tuple[str, int, int]] = []
    for path in sorted(folder.iterdir()):
        if path.suffix in IDENTITY_SUFFIXES and path.name != FORMAT_FILE and path.is_file():
            stamp = path.stat()
            stamps.append((path.name, stamp.st_size, stamp.st_mtime_ns))
    return _hashed(folder.resolve(), tuple(stamps))


@functools.lru_cache(maxsize=16)
def _hashed(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Files of many gigabytes are read once, as long as size and time of change stay."""
    total = hashlib.sha256()
    for name, _, _ in stamps:
        total.update(f"{name}\0{file_sha256(folder / name)}\n".encode())
    return total.hexdigest()


def local_folder(name: str) -> Path | None:
    """The folder of a model that is here by its name; None for what the hub or an endpoint has."""
    folder = folder_named(name)
    return folder if folder.is_dir() else None


def is_hub_id(name: str) -> bool:
    """Whether `name` can only be a repository of the hub: no folder of that name is here."""
    if name.startswith((WORLD_PREFIX, ".", "/", "~")) or Path(name).exists():
        return False
    return 1 <= len(Path(name).parts) <= 2


def folder_named(name: str) -> Path:
    """Where a model of that name would lie, were it here."""
    return WORLD_FOLDER / name.removeprefix(WORLD_PREFIX) if name.startswith(WORLD_PREFIX) else Path(name).expanduser()
