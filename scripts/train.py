"""`cosent train` under its former name."""

import sys

from cosent.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
