"""The command line: each command parses its flags, calls the public API and prints."""
