"""Randomness derived from names: there is no global generator, and adding a task never reshuffles another."""

import hashlib
import json

import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """A child seed in [0, 2**64) that depends only on (seed, names).

    >>> derive(0, "rows", "rte") == derive(0, "rows", "rte") != derive(0, "rows", "cb")
    True
    """
    key = json.dumps([seed, *names]).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator seeded by `derive(seed, *names)`."""
    return np.random.Generator(np.random.PCG64(derive(seed, *names)))
