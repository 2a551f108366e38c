"""`python -m echoic.cli`."""

from __future__ import annotations

import sys

from echoic.cli import main

if __name__ == "__main__":
    sys.exit(main())
