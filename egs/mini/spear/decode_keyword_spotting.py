#!/usr/bin/env python3
"""Keyword spotting on unseen speakers: one label for each utterance (SUPERB KS).

Scores the frozen student, its untrained twin and the filterbank under one protocol: softmax-weighted sum of all hidden
states, linear head, learning rate selected on dev. `--help` lists the flags; `spear evaluate` does all tasks at once.
"""

import sys

from spear.bin.evaluate import recipe

if __name__ == "__main__":
    sys.exit(recipe("keyword_spotting", __file__))
