"""`cosent compare` under its former name."""

import sys

from cosent.cli.main import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
