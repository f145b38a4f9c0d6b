"""openflan: instruction-tune a language model on task clusters, and measure what it gained on clusters it never saw.

Names load on first use, so that `import openflan` costs nothing. The main path is `openflan.run` in `studies/run.py`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openflan.catalog.holdout import HeldOutSplit, hold_out
    from openflan.catalog.load import Catalog, load_catalog
    from openflan.catalog.task import Task, Template
    from openflan.encoding.encode import encode
    from openflan.encoding.pack import pack
    from openflan.errors import OpenflanError
    from openflan.evaluation.evaluate import Result, evaluate
    from openflan.mixture.mixture import Mixture
    from openflan.models.load import load_model
    from openflan.rendering.example import Example
    from openflan.rendering.render import render
    from openflan.scoring.rank import score
    from openflan.studies.recipe import Recipe, load_recipe
    from openflan.studies.run import run
    from openflan.tuning.tune import tune

_HOMES = {
    "Catalog": "catalog.load",
    "Example": "rendering.example",
    "HeldOutSplit": "catalog.holdout",
    "Mixture": "mixture.mixture",
    "OpenflanError": "errors",
    "Recipe": "studies.recipe",
    "Result": "evaluation.evaluate",
    "Task": "catalog.task",
    "Template": "catalog.task",
    "encode": "encoding.encode",
    "evaluate": "evaluation.evaluate",
    "hold_out": "catalog.holdout",
    "load_catalog": "catalog.load",
    "load_model": "models.load",
    "load_recipe": "studies.recipe",
    "pack": "encoding.pack",
    "render": "rendering.render",
    "run": "studies.run",
    "score": "scoring.rank",
    "tune": "tuning.tune",
}

__all__ = [
    "Catalog",
    "Example",
    "HeldOutSplit",
    "Mixture",
    "OpenflanError",
    "Recipe",
    "Result",
    "Task",
    "Template",
    "encode",
    "evaluate",
    "hold_out",
    "load_catalog",
    "load_model",
    "load_recipe",
    "pack",
    "render",
    "run",
    "score",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'openflan' has no attribute {name!r}")
    value = getattr(import_module(f"openflan.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
