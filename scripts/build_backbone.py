"""`cosent build-backbone` under its former name."""

import sys

from cosent.cli.main import main

if __name__ == "__main__":
    main(["build-backbone", *sys.argv[1:]])
