"""``python -m sotune`` is the command line."""

from sotune.cli import main

if __name__ == "__main__":
    main()
