#!/usr/bin/env python3
"""Intent classification: an utterance is right when all its slots are (SUPERB IC).

Scores the frozen student, its untrained twin and the filterbank under one protocol: softmax-weighted sum of all hidden
states, linear head, learning rate selected on dev. `--help` lists the flags; `spear evaluate` does all tasks at once.
"""

import sys

from spear.bin.evaluate import recipe

if __name__ == "__main__":
    sys.exit(recipe("intent_classification", __file__))
