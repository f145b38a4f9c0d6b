"""`python -m openflan` is the `openflan` command."""

from openflan.cli.app import main

main()
