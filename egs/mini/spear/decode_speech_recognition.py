#!/usr/bin/env python3
"""Speech recognition: characters (or `--units sentencepiece:SIZE`) by CTC, greedy decoding, word error rate (SUPERB ASR
with a linear head).

Scores the frozen student, its untrained twin and the filterbank under one protocol: softmax-weighted sum of all hidden
states, linear head, learning rate selected on dev. `--help` lists the flags; `spear decode` does all tasks at once.
"""

import sys

from spear.bin.decode import recipe

if __name__ == "__main__":
    sys.exit(recipe("speech_recognition", __file__))
