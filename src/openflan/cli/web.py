"""`openflan web`"""

from pathlib import Path
from typing import Annotated

import typer

from openflan.cli import options


def web(
    runs: Annotated[Path | None, typer.Option(help="Folder of runs to offer.")] = None,
    catalog: options.Catalogs = None,
    data_root: options.DataRoot = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port.", show_default="the first free one")] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = True,
) -> None:
    """Catalog, runs and a playground in the browser (needs pip install 'openflan[web]').

    Example: openflan web --runs runs
    """
    from openflan.web.app import launch

    catalogs = options.listed(catalog) or ["flan", "world"]
    launch(host=host, port=port, catalogs=catalogs, data_root=data_root, runs=runs, open_browser=open_browser)
