#!/usr/bin/env bash
# Prepares VoxCeleb for fine-tuning of speaker verification: VoxCeleb2 dev to train on, VoxCeleb1 to test.
#
#   ./prepare.sh --voxceleb2-dir DIR --voxceleb1-dir DIR      # folders with SPEAKER/VIDEO/UTTERANCE.wav (or .flac) below
#   ./prepare.sh ... --musan-dir DIR --rirs-dir DIR           # noise and rooms to hear them in
# Stages: 0 environment and data, 1 manifests. A second run skips what is done; an interrupted one goes on.
set -euo pipefail

stage=0
stop_stage=1
data_dir=
num_jobs=0
dry_run=false
voxceleb1_dir=
voxceleb2_dir=
musan_dir=
rirs_dir=

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/parse_options.sh"
. "$here/shared/stages.sh"
. "$here/shared/setup_environment.sh"
setup_environment

data_dir="${data_dir:-$here/data}"
stage_dir="$data_dir/.stages"

obtain_data() {
  local corpus place
  renew
  mkdir -p "$data_dir/raw"
  for corpus in voxceleb1 voxceleb2; do
    place="${corpus}_dir"
    [[ -d "${!place}" ]] || _absent "no directory ${!place}" "$corpus" "correct --$corpus-dir"
    ln -sfn "$(absolute_dir "${!place}")" "$data_dir/raw/$corpus"
  done
  echo "licence: CC BY 4.0 for the lists; the audio belongs to the videos' owners (nothing is copied)"
}

make_manifests() {
  local manifests="$data_dir/data/manifests"
  renew "$data_dir/data"
  # Utterances have the ids of the lists of trials: SPEAKER/VIDEO/UTTERANCE.wav.
  (cd "$data_dir" && find -L raw/voxceleb2 raw/voxceleb1 -name '*.wav' -o -name '*.flac') | LC_ALL=C sort |
    awk -F / 'BEGIN { print "id\tpath\tspeaker\tsplit" }
      NF > 4 { print $(NF - 2) "/" $(NF - 1) "/" $NF "\t" $0 "\t" $(NF - 2) "\t" ($2 == "voxceleb1" ? "test" : "train") }' \
      >"$data_dir/table.tsv"
  spear finetune --only-data --task verification --manifest "$data_dir/table.tsv" --dev-fraction 0 --max-seconds 20 \
    --exp-dir "$data_dir" --num-jobs "$num_jobs"
  : >"$manifests/noise_musan.jsonl"
  : >"$manifests/impulse_responses.jsonl"
  if [[ -n "$musan_dir" ]]; then
    spear manifests --raw "$musan_dir" --corpus musan --name musan --output "$manifests" --num-jobs "$num_jobs"
  fi
  if [[ -n "$rirs_dir" ]]; then
    spear manifests --raw "$rirs_dir" --kind event --name rirs --output "$manifests" --num-jobs "$num_jobs"
    cp "$manifests/cuts_rirs_train.jsonl" "$manifests/impulse_responses.jsonl"
  fi
}

run_stage 0 "environment and data" "links the corpora below $data_dir/raw; nothing is copied" \
  obtain_data "$voxceleb1_dir" "$voxceleb2_dir"
run_stage 1 "manifests" "decodes every recording; 1 kB a cut" make_manifests "$musan_dir" "$rirs_dir"
