"""`python -m echoic`."""

import sys

from echoic.cli import main

if __name__ == "__main__":
    sys.exit(main())
