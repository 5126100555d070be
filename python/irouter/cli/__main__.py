"""`python -m irouter.cli`: the command where its script is not on the path."""

from irouter.cli import main

main()
