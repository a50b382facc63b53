"""``python -m sotune`` is the command line."""

from sotune.cli import main

main()
