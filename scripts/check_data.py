"""`cosent check` under its former name."""

import sys

from cosent.cli.main import main

if __name__ == "__main__":
    main(["check", *sys.argv[1:]])
