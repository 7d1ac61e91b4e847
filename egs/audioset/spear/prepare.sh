#!/usr/bin/env bash
# Prepares AudioSet with Dasheng-1.2B as the teacher: manifests -> statistics -> quantizer -> tokens.
#
#   ./prepare.sh --audioset-dir DIR                           # *_segments.csv, and clips in any folders below
#   ./prepare.sh --audioset-dir DIR --audio-teacher dasheng:FILE@-1            # weights on disk, no network
#   ./prepare.sh --audioset-dir DIR --nproc-per-node 8        # stages 3 and 5 on 8 GPUs
# Noise for mixing is what of AudioSet's labels names neither people nor music, and MUSAN's with --musan-dir DIR.
# Stages: 0 environment and data, 1 manifests, 2 fbank, 3 embeddings of a sample, 4 quantizers, 5 tokens. A second run
# skips what is done; an interrupted one goes on. Nobody has all clips: stage 1 reports how many of the listed are there.
# Teachers are NAME:FOLDER_OR_HUB_NAME@LAYER,option=value; NAME is dasheng, usad, mert, wavlm, whisper, spear, ...
# --executor local|dask|slurm and --num-jobs (0: one per core) apply to stages 1 and 2.
set -euo pipefail

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/corpora_options.sh"

audioset_dir=
musan_dir=
audio_teacher=dasheng:mispeech/dasheng-1.2B@-1
audio_codebooks=8
audio_normalise=false

. "$here/shared/parse_options.sh"
. "$here/shared/corpora.sh"

prepare "audioset" "audio" "musan"
