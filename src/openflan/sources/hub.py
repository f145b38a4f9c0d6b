"""Rows from the Hugging Face hub, through the `datasets` library (no loading scripts: it runs none)."""

import logging
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from openflan.errors import Problem, SourceError

CONNECT_SECONDS = 5

log = logging.getLogger(__name__)


@cache
def load_hub_split(hub: str, config: str | None, revision: str, split: str, task: str) -> Sequence[Mapping[str, Any]]:
    """One split of a hub dataset, memory-mapped; `hub` may also be a local folder laid out as the hub serves it.

    Raises SourceError saying what was asked for and why it could not be had, and naming the splits there are.
    """
    import datasets

    datasets.disable_progress_bars()
    if not Path(hub).is_dir():
        go_offline_if_unreachable()
    where = f"{task}: hub dataset {hub}" + (f" ({config})" if config else "")
    try:
        rows = datasets.load_dataset(hub, config, split=split, revision=revision)
    except Exception as error:  # the library raises many kinds: offline, missing, gated, script-based, unknown split
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = f"put train/validation/test files under DATA_ROOT/{task}/ and pass --data-root DATA_ROOT"
        raise SourceError(Problem(where, f"split {split!r} cannot be loaded: {reason}", hint)) from error
    return cast("Sequence[Mapping[str, Any]]", rows)


@cache
def go_offline_if_unreachable() -> None:
    """Without a network, read the libraries' caches at once; they would try each dataset for half a minute.

    Holds for this process and those it starts.
    """
    import huggingface_hub.constants as hub_constants
    from datasets import config as datasets_config

    if hub_constants.HF_HUB_OFFLINE or urllib.request.getproxies():
        return
    endpoint = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    address = (endpoint.hostname or "", endpoint.port or (80 if endpoint.scheme == "http" else 443))
    try:
        socket.create_connection(address, timeout=CONNECT_SECONDS).close()
    except OSError:
        log.warning("the hub at %s cannot be reached: only local and cached datasets are read", endpoint.netloc)
        os.environ["HF_HUB_OFFLINE"] = "1"
        hub_constants.HF_HUB_OFFLINE = True
        datasets_config.HF_HUB_OFFLINE = True
