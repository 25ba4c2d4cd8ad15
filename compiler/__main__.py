"""`python -m mlc` is the command `mlc`."""

from mlc.cli import main

main()
