"""`python -m privacy` is the command `privacy`."""

from privacy.cli import main

if __name__ == "__main__":
    main()
