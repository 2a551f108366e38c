"""Benchmarks: `python -m benchmarks.NAME` prints a table for people and, last, one JSON line."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; before torch
