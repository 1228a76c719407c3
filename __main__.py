"""`python -m palate` is the `palate` command."""

from .cli import main

if __name__ == "__main__":
    main()
