"""The Gradio app: catalog, runs, playground. gradio loads when the app is built.

Takes what `openflan web` was asked for, serves it on this machine. Read next: `views.py`.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openflan.catalog.load import Catalog, load_catalog
from openflan.catalog.task import SPLITS
from openflan.errors import ConfigError
from openflan.web import views

if TYPE_CHECKING:
    from openflan.models.load import LanguageModel

TITLE = "openflan"
CATALOGS = ("flan", "world")
MODEL = "world:base"
CSS = """
.of-facts { display: grid; grid-template-columns: 7rem 1fr; gap: .2rem 1rem; margin: .5rem 0 1rem; }
.of-facts dt { color: var(--body-text-color-subdued); } .of-facts dd { margin: 0; overflow-wrap: anywhere; }
.of-note { color: var(--body-text-color-subdued); font-size: .875rem; margin: 1rem 0 .3rem; }
.of-error { white-space: pre-wrap; border-left: 3px solid #b4530a; padding: .2rem .8rem; }
.of-target { border-left: 3px solid #b4530a; margin-top: 2px; }
pre:is(.of-target, .of-note + pre), .of-note + pre {
  white-space: pre-wrap; overflow-wrap: anywhere; padding: .7rem .9rem; background: var(--background-fill-secondary);
}
.of-options { width: 100%; font-variant-numeric: tabular-nums; }
.of-options th, .of-options td { text-align: left; padding: .35rem .75rem .35rem 0; }
.of-bar { display: block; height: 4px; min-width: 1px; background: #b4530a; border-radius: 2px; }
.of-report { width: 100%; height: 80vh; border: 1px solid var(--border-color-primary); border-radius: 4px; }
"""


def build_app(*, catalogs: Sequence[str] = CATALOGS, data_root: Path | None = None, runs: Path | None = None) -> Any:
    """The app as a `gradio.Blocks`, not yet served.

    Raises ConfigError where the extra `web` is not installed, CatalogError where a catalog cannot be read.
    """
    gradio = _gradio()
    catalog = load_catalog(*catalogs)
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as app:
        gradio.Markdown(f"# {TITLE}\nInstructions, what models make of them, and what was measured.")
        with gradio.Tab("Catalog"):
            _catalog_tab(gradio, catalog, data_root)
        with gradio.Tab("Runs"):
            _runs_tab(gradio, runs)
        with gradio.Tab("Playground"):
            _playground_tab(gradio)
    return app


def launch(
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    catalogs: Sequence[str] = CATALOGS,
    data_root: Path | None = None,
    runs: Path | None = None,
    open_browser: bool = True,
) -> None:
    """Serve the app until interrupted.

    It reads any folder and any model that it is asked for, so by default only this machine can reach it.
    """
    gradio = _gradio()
    app = build_app(catalogs=catalogs, data_root=data_root, runs=runs)
    app.launch(server_name=host, server_port=port, inbrowser=open_browser, share=False, css=CSS, theme=_theme(gradio))


def _catalog_tab(gradio: Any, catalog: Catalog, data_root: Path | None) -> None:
    names = list(catalog.tasks)
    with gradio.Row():
        task = gradio.Dropdown(names, value=names[0], label="Task")
        template = gradio.Dropdown(_template_ids(catalog, names[0]), value=views.ALL, label="Template")
        split = gradio.Dropdown(list(SPLITS), value="train", label="Split")
        rows = gradio.Slider(1, 10, value=1, step=1, label="Rows")
    with gradio.Accordion("Where rows come from", open=False):
        root = gradio.Textbox(
            str(data_root or ""), label="Data root", info="A folder of local copies; empty for the hub"
        )
        seed = gradio.Number(0, precision=0, label="Seed of the micro-world's rows")
    show = gradio.Button("Show", variant="primary")
    output = gradio.HTML()

    def templates_of(name: str) -> Any:
        return gradio.Dropdown(choices=_template_ids(catalog, name), value=views.ALL)

    task.change(templates_of, task, template)
    show.click(views.shown(partial(views.rendered, catalog)), [task, template, split, rows, root, seed], output)


def _runs_tab(gradio: Any, runs: Path | None) -> None:
    folder = gradio.Textbox(str(runs or ""), label="Run folder", info="A run, or a folder of runs")
    show = gradio.Button("Open", variant="primary")
    output = gradio.HTML()
    gradio.on([show.click, folder.submit], views.shown(views.run_page), folder, output)


def _playground_tab(gradio: Any) -> None:
    with gradio.Row():
        with gradio.Column():
            model = gradio.Textbox(MODEL, label="Model", info="Hub id, folder or world:NAME")
            instruction = gradio.Textbox(label="Instruction", lines=8)
            options = gradio.Textbox(label="Options, one a line", lines=3, info="Leave empty to let the model write")
            ask = gradio.Button("Ask", variant="primary")
        output = gradio.HTML()

    def answer(name: str, asked: str, choices: str) -> str:
        return views.answered(_model(name.strip()), asked, choices)

    ask.click(views.shown(answer), [model, instruction, options], output, concurrency_limit=1)


@lru_cache(maxsize=1)
def _model(name: str) -> "LanguageModel":
    from openflan.models.load import load_model

    return load_model(name)


def _template_ids(catalog: Catalog, name: str) -> list[str]:
    return [views.ALL, *(template.id for template in catalog.task(name).templates)]


def _theme(gradio: Any) -> Any:
    # Named fonts would be fetched from elsewhere.
    return gradio.themes.Base(
        primary_hue="orange", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )


def _gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise ConfigError("the web app needs an extra: pip install 'openflan[web]'") from error
    return gradio
