"""``python -m duetto VERB``: the same as the ``duetto`` command."""

from duetto.cli import main

main()
