"""Which tasks a model was tuned on, as its folder tells: the hold-out guard asks base models too.

    openflan.json    tuned_on {tasks, clusters}, those of a base model that was itself tuned included

Takes a model's name or folder, gives a `TunedOn`; torch is not needed. Read next: `load.py`, which writes it.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openflan.artifacts import read_json
from openflan.errors import ModelError
from openflan.models.adapters import BASE_FILE, CONFIG_FILE, base_name, is_adapter
from openflan.models.identity import FORMAT_FILE, is_hub_id, local_folder
from openflan.models.remote import is_remote

KEY = "tuned_on"


@dataclass(frozen=True, slots=True)
class TunedOn:
    """Tasks a model was tuned on, and all clusters these are in; sorted, so that equal ones are equal bytes."""

    tasks: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()
    """Beside the tasks, since another catalog may not know these. Empty where only an older run folder told."""

    def __or__(self, other: "TunedOn") -> "TunedOn":
        tasks, clusters = {*self.tasks, *other.tasks}, {*self.clusters, *other.clusters}
        return TunedOn(tuple(sorted(tasks)), tuple(sorted(clusters)))

    def __bool__(self) -> bool:
        return bool(self.tasks or self.clusters)

    def to_json(self) -> dict[str, Any]:
        return {"tasks": list(self.tasks), "clusters": list(self.clusters)}


UNTUNED = TunedOn()


def tuned_on(name: str) -> TunedOn:
    """What the model called `name` was tuned on, as far as its files tell; nothing of an endpoint's."""
    folder = None if is_remote(name) else local_folder(name) or (_of_hub(name) if is_hub_id(name) else None)
    return UNTUNED if folder is None else tuned_in(folder)


def tuned_in(folder: Path) -> TunedOn:
    """What the model in `folder` was tuned on. Raises ModelError where the folder's own word is damaged.

    A folder that does not tell, as those of earlier releases, is judged by the run it lies in, and an adapter by its
    base model as well.
    """
    try:
        told = json.loads((folder / FORMAT_FILE).read_text(encoding="utf-8")).get(KEY)
        if told is not None:
            return UNTUNED | TunedOn(tuple(told["tasks"]), tuple(told["clusters"]))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / FORMAT_FILE}: does not tell what the model was tuned on: {error}") from error
    return _by_place(folder) | (tuned_on(base_name(folder)) if is_adapter(folder) else UNTUNED)


def _by_place(folder: Path) -> TunedOn:
    """By the files of the run or study that a folder lies in: RUN/model, RUN/arms/ARM/model, OUT/models/KEY/model."""
    # A link may lead into a run, or out of one.
    for place in dict.fromkeys((folder.absolute(), folder.resolve())):
        above = list(place.parents)
        for parent in above[:3]:
            for file, key in (("mixture.lock", "tasks"), ("split.json", "train")):
                if (parent / file).is_file():
                    return TunedOn(tuple(sorted(read_json(parent / file).get(key, ()))))
        # RUN/arms/ARM/TASK/model: tuned on the task itself, which is on no tuning side.
        if len(above) > 3 and (lock := above[3] / "seen.lock").is_file() and above[0].name in read_json(lock)["tasks"]:
            return TunedOn((above[0].name,))
    return UNTUNED


@functools.lru_cache(maxsize=16)
def _of_hub(name: str) -> Path | None:
    """A folder with the few files of a hub model that tell; None where it cannot be had, as loading it will say."""
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(repo, revision=revision or None, allow_patterns=[FORMAT_FILE, CONFIG_FILE, BASE_FILE])
        )
    except Exception:  # whatever the hub's client, the network or a proxy says
        return None
