"""`python -m evalsuite` is the command line."""

from evalsuite.cli import main

main()
