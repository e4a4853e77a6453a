"""`python -m planc.cli`."""

from . import main

main()
