"""`python -m catdog` is the command line."""

from catdog.cli import main

main()
