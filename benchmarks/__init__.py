"""Benchmarks: `python -m benchmarks.NAME` prints a table for people and, last, one JSON line."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does; before torch
