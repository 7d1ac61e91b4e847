#!/usr/bin/env bash
# Prepares all ten SUPERB tasks on a small corpus: stage 0 environment and data, 1 manifests. Offline.
#
#   ./prepare.sh                     # the synthetic corpus of egs/mini/spear (made there first when it is absent)
#   ./prepare.sh --audio-dir DIR     # real recordings: the folder real-mini, or one with the same sources
# Dialogues of two talkers (SD) and manners of speaking (ER) of the synthetic corpus are made here, below data/superb.
set -euo pipefail

stage=0
stop_stage=1
audio_dir=
data_dir=
raw_dir=
num_jobs=0
seed=42
dry_run=false
corpus_options=

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/parse_options.sh"
. "$here/shared/stages.sh"
. "$here/shared/setup_environment.sh"
setup_environment

base="$here/../spear" # the data are shared with that recipe, where it is there
if [[ ! -d "$base" ]]; then base="$here"; fi
corpus=synthetic
if [[ -n "$audio_dir" ]]; then
  audio_dir="$(absolute_dir "$audio_dir")"
  corpus=real_mini
  data_dir="${data_dir:-$base/data_$(safe_name "$audio_dir")}"
fi
data_dir="${data_dir:-$base/data}"
raw_dir="${audio_dir:-${raw_dir:-$base/data/raw}}"
stage_dir="$data_dir/.stages-superb"

obtain_data() {
  local words
  renew
  mkdir -p "$data_dir"
  if [[ "$corpus" == real_mini ]]; then
    echo "licence: that of the recordings; see $raw_dir/README.md (nothing is copied)"
  elif [[ -e "$raw_dir/corpus.json" ]]; then
    echo "licence: everything is synthetic; the corpus in $raw_dir is used"
  else
    echo "licence: everything is synthetic and made here; the speech comes from the program espeak-ng (GPL-3.0)"
    split_words words "$corpus_options"
    spear synthesize --output "$raw_dir" --seed "$seed" --num-jobs "$num_jobs" "${words[@]}"
  fi
}

make_manifests() {
  renew "$data_dir/superb"
  if [[ "$corpus" == real_mini ]]; then
    spear evaluate prepare real_mini --raw "$raw_dir" --data-dir "$data_dir"
  else
    spear evaluate prepare synthetic --raw "$raw_dir" --data-dir "$data_dir" --seed "$seed" --num-jobs "$num_jobs"
  fi
}

run_stage 0 "environment and data" "uses $raw_dir, or makes it in 30 s; 1 GB of disk should be free" \
  obtain_data "$corpus" "$raw_dir" "$seed" "$corpus_options"
run_stage 1 "manifests" "writes $data_dir/superb; under a minute, 50 MB" make_manifests "$corpus" "$raw_dir" "$seed"
