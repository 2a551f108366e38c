"""`python -m echoic`, and the command `echoic`: Ctrl-C is one line while it is loaded, too."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command that was typed; returns the exit code."""
    try:
        from echoic.cli import main as command

        return command()
    except KeyboardInterrupt:  # before the command line is there to meet it
        print("error: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
