#!/usr/bin/env python3
"""Pitch of single notes: one of the notes for each recording (HEAR's NSynth pitch task in small).

Scores the frozen student, its untrained twin and the filterbank under one protocol: softmax-weighted sum of all hidden
states, linear head, learning rate selected on dev. `--help` lists the flags; `spear evaluate` does all tasks at once.
"""

import sys

from spear.bin.evaluate import recipe

if __name__ == "__main__":
    sys.exit(recipe("pitch", __file__))
