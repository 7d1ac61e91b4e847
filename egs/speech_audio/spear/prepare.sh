#!/usr/bin/env bash
# Prepares the dual-domain mix: speech and audio corpora, WavLM-Large and Dasheng-1.2B tokens in one pass.
#
#   ./prepare.sh --librispeech-dir DIR --audioset-dir DIR     # the smallest mix; conf/student.yaml trains on it
#   ./prepare.sh --libriheavy-dir DIR --gigaspeech-dir DIR --voxpopuli-dir DIR --audioset-dir DIR ... --decode false
# A corpus takes part when its directory is given (or linked as data/raw/NAME). Speech: librispeech, libriheavy,
# gigaspeech, voxpopuli, yodas-granary. Audio: audioset, freesound, bbc, vggsound, mtg-jamendo, music4all, fsd50k.
# Noise for mixing: musan (--musan-dir DIR), and what of AudioSet's labels names neither people nor music.
# Freesound, BBC and MTG-Jamendo are cut into windows of 10 s (data prepared before: --freesound-window-seconds 30 ...).
# Audio gets both token streams, speech only WavLM's. Corpora may be added later: their cuts and tokens come beside those
# that are there. Copies may be partial or damaged: stage 1 reports. --decode false reads headers only in stage 1.
# Stages: 0 environment and data, 1 manifests, 2 fbank, 3 embeddings of samples, 4 quantizers, 5 tokens. A second run
# skips what is done. Teachers are NAME:FOLDER_OR_HUB_NAME@LAYER,option=value. --nproc-per-node applies to stages 3 and 5.
set -euo pipefail

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/corpora_options.sh"

librispeech_dir=
libriheavy_dir=
gigaspeech_dir=
voxpopuli_dir=
yodas_granary_dir=
audioset_dir=
freesound_dir=
bbc_dir=
vggsound_dir=
mtg_jamendo_dir=
music4all_dir=
fsd50k_dir=
musan_dir=
freesound_window_seconds=10
bbc_window_seconds=10
mtg_jamendo_window_seconds=10
speech_teacher=wavlm:microsoft/wavlm-large@21
speech_codebooks=16
speech_normalise=true
audio_teacher=dasheng:mispeech/dasheng-1.2B@-1
audio_codebooks=8
audio_normalise=false

. "$here/shared/parse_options.sh"
. "$here/shared/corpora.sh"

speech_sample=librispeech
audio_sample=audioset
audio_domains=audio

corpora="$(present librispeech libriheavy gigaspeech voxpopuli yodas_granary \
  audioset freesound bbc vggsound mtg_jamendo music4all fsd50k)"
prepare "$corpora" "speech audio" "musan"
