"""The front door of a checkout: ``python cli.py ...`` is ``vqseg ...``."""

from vqseg.cli import main

main()
