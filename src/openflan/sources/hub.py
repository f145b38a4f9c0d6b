"""Rows from the Hugging Face hub, through the `datasets` library (no loading scripts: it runs none)."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

from openflan.errors import Problem, SourceError


@cache
def load_hub_split(hub: str, config: str | None, revision: str, split: str, task: str) -> Sequence[Mapping[str, Any]]:
    """One split of a hub dataset, memory-mapped; `hub` may also be a local folder laid out as the hub serves it.

    Raises SourceError saying what was asked for and why it could not be had, and naming the splits there are.
    """
    import datasets

    datasets.disable_progress_bars()
    where = f"{task}: hub dataset {hub}" + (f" ({config})" if config else "")
    try:
        rows = datasets.load_dataset(hub, config, split=split, revision=revision)
    except Exception as error:  # the library raises many kinds: offline, missing, gated, script-based, unknown split
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = f"put train/validation/test files under DATA_ROOT/{task}/ and pass --data-root DATA_ROOT"
        raise SourceError(Problem(where, f"split {split!r} cannot be loaded: {reason}", hint)) from error
    return cast("Sequence[Mapping[str, Any]]", rows)
