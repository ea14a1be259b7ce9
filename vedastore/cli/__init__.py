"""The command line: parse, call one function, render. Results on stdout, everything else on stderr."""

from vedastore.cli.run import main

__all__ = ["main"]
