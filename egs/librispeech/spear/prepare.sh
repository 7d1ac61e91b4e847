#!/usr/bin/env bash
# Prepares LibriSpeech (960 h) with WavLM-Large as the teacher: manifests -> statistics -> quantizer -> tokens.
#
#   ./prepare.sh --librispeech-dir DIR                        # the folder with train-clean-100, ..., or the one above it
#   ./prepare.sh --librispeech-dir DIR --speech-teacher wavlm:FOLDER@21        # weights on disk, no network
#   ./prepare.sh --librispeech-dir DIR --musan-dir DIR        # with noise to mix in: MUSAN's folder
#   ./prepare.sh --download true --nproc-per-node 8           # download first; stages 3 and 5 on 8 GPUs
# Stages: 0 environment and data, 1 manifests, 2 fbank, 3 embeddings of a sample, 4 quantizers, 5 tokens. A second run
# skips what is done; an interrupted one goes on. A part of the corpus, or damaged files, are normal: stage 1 reports.
# Teachers are NAME:FOLDER_OR_HUB_NAME@LAYER,option=value; NAME is wavlm, hubert, wav2vec2, data2vec, whisper, dasheng,
# mert, usad or spear. --executor local|dask|slurm and --num-jobs (0: one per core) apply to stages 1 and 2.
set -euo pipefail

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/corpora_options.sh"

librispeech_dir=
musan_dir=
download=false
speech_teacher=wavlm:microsoft/wavlm-large@21
speech_codebooks=16
speech_normalise=true

. "$here/shared/parse_options.sh"
. "$here/shared/corpora.sh"

prepare "librispeech" "speech" "musan"
