"""A caption as the words that its metrics count: lower case, no punctuation.

After the Penn Treebank's conventions (Marcus et al. 1993), which caption evaluation takes from
Stanford's PTBTokenizer with a list of punctuation to drop: clitics are words of their own ("do
n't", "dog 's"), words joined by a hyphen are one, numbers keep what parts them. Ours needs no Java.
"""

from __future__ import annotations

import re

# curly quotes are apostrophes too
_STRAIGHT = str.maketrans({"‘": "'", "’": "'", "´": "'", "`": "'"})

_WORD = r"[^\W_]+"
_TOKEN = re.compile(
    rf"""
      (?:[^\W\d_]\.){{2,}}                            # p.a., u.s.
    | \.?\d+(?:[.,:]\d+)+ | \.\d+                    # 3.5, 10:30, .50
    | \b[^\W\d_]&[^\W\d_]\b                         # r&b
    | {_WORD}(?:[-'/]{_WORD})*                       # rain, hip-hop, movie/tv, dog's
    | '(?:s|m|d|re|ve|ll|em|til|tis|twas|n)\b        # alone, as in a text that is split already
    | [&/%$#@*+=°]                                   # signs that are said
    """,
    re.VERBOSE,
)
_CLITIC = re.compile(r"(.+?)(n't|'(?:s|m|d|re|ve|ll))")
_JOINED = {"cannot": ["can", "not"]}


def tokenize(caption: str) -> list[str]:
    """Its words in order: "A dog's bark, 2 times." -> a dog 's bark 2 times."""
    found = _TOKEN.findall(caption.lower().translate(_STRAIGHT))
    return [part for word in found for part in _parts(word)]


def _parts(word: str) -> list[str]:
    clitic = _CLITIC.fullmatch(word)
    return list(clitic.groups()) if clitic else _JOINED.get(word, [word])
