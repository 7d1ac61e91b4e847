#!/usr/bin/env bash
# Prepares SUPERB SID and ASV on VoxCeleb1: stage 0 environment and data, 1 manifests.
#
#   DATA_ROOT=/corpora ./prepare.sh      # uses the corpus in $DATA_ROOT (wav/, iden_split.txt, veri_test2.txt)
#   ./prepare.sh --raw-dir DIR           # uses, or completes, the corpus in DIR
# Run it twice and the second run skips what is done; an interrupted download continues.
set -euo pipefail

stage=0
stop_stage=1
raw_dir=
data_dir=
seed=0
num_jobs=0
dry_run=false

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/parse_options.sh"
. "$here/shared/stages.sh"
. "$here/shared/setup_environment.sh"
setup_environment
data_dir="${data_dir:-$here/data}"
raw_dir="${raw_dir:-${DATA_ROOT:-$data_dir/raw}}"
stage_dir="$data_dir/.stages"

obtain_data() {
  renew
  mkdir -p "$data_dir"
  spear superb fetch voxceleb --raw "$raw_dir"
}

make_manifests() {
  renew "$data_dir/superb"
  spear superb prepare voxceleb --raw "$raw_dir" --data-dir "$data_dir" --seed "$seed" \
    --num-jobs "$num_jobs"
}

run_stage 0 "environment and data" "downloads nothing: VoxCeleb1 needs a form; expects wav/ and the lists in $raw_dir" obtain_data "$raw_dir"
run_stage 1 "manifests" "reads 350 h of recordings to find silence: half an hour of processor time" make_manifests "$raw_dir" "$seed"
