"""`python -m lab` is `cgilab`."""

from lab.cli import main

main()
