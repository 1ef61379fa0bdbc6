"""`python -m flowscout`."""

from flowscout.cli import main

main()
