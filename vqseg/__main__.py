"""``python -m vqseg`` is ``vqseg``."""

from vqseg.cli import main

main()
