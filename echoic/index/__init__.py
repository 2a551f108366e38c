"""An index of a folder of sounds: heard once, kept up to date, searched by words and by sounds.

What is there and what changed is found by scan.py, heard and kept by update.py in the files of
store.py (vectors.py, catalog.py, lists.py), and found again by search.py.
"""

from echoic.index.index import Index
from echoic.index.search import Hit, Moment, Where
from echoic.index.update import Report

__all__ = ["Hit", "Index", "Moment", "Report", "Where"]
