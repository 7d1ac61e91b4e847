#!/usr/bin/env python3
"""Speech recognition: sentencepiece tokens (or `--units characters`) by CTC, greedy, word error rate (SUPERB ASR).

Scores the frozen student, its untrained twin and the filterbank under one protocol: softmax-weighted sum of all hidden
states, linear head, learning rate selected on dev. `--help` lists the flags; `spear evaluate` does all tasks at once.
"""

import sys

from spear.bin.evaluate import recipe

if __name__ == "__main__":
    sys.exit(recipe("speech_recognition", __file__))
