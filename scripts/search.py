"""`cosent search` as a script beside the others."""

import sys

from cosent.cli.main import main

if __name__ == "__main__":
    main(["search", *sys.argv[1:]])
