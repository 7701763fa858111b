"""`python -m cosent` runs the program `cosent`."""

from cosent.cli.main import main

if __name__ == "__main__":
    main()
