"""A small catalog on disk, for tests that need one."""

from pathlib import Path

TASK = """\
name = "{name}"
title = "A toy"
clusters = ["{cluster}"]
licence = "none"
cite = "nobody"
derived_from = {derived}
form = "classification"
metrics = ["accuracy"]

[source]
hub = "toy/{name}"

[columns]
premise = "premise"
hypothesis = "hypothesis | trim"

[answer]
options = ["yes", "no"]
gold = "label"

[[template]]
id = "follows"
inputs = '''{{{{ premise }}}}
Does it follow that {{{{ hypothesis }}}}
{{{{ options_ }}}}'''

[[template]]
id = "turned"
kind = "inverted"
inputs = '''Write a claim for which the answer is {{{{ answer }}}}: {{{{ premise }}}}'''
targets = '''{{{{ hypothesis }}}}'''

[[template]]
id = "plain"
kind = "completion"
options = ["True", "False"]
inputs = '''{{{{ premise }}}} {{{{ hypothesis }}}} True or false?'''
"""


def task_toml(name: str, cluster: str = "nli", derived: tuple[str, ...] = ()) -> str:
    """The text of one task file."""
    return TASK.format(name=name, cluster=cluster, derived=list(derived))


def write_catalog(folder: Path, *tasks: tuple[str, str] | tuple[str, str, tuple[str, ...]]) -> Path:
    """A folder with one file for each (name, cluster[, derived_from])."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, cluster, *derived in tasks:
        (folder / f"{name}.toml").write_text(task_toml(name, cluster, *derived), encoding="utf-8")
    return folder
