#!/usr/bin/env bash
# Prepares SUPERB PR and ASR on LibriSpeech: stage 0 environment and data, 1 manifests.
#
#   DATA_ROOT=/corpora ./prepare.sh      # uses the corpus in $DATA_ROOT (which holds LibriSpeech/)
#   ./prepare.sh --raw-dir DIR           # uses, or completes, the corpus in DIR
# Run it twice and the second run skips what is done; an interrupted download continues.
set -euo pipefail

stage=0
stop_stage=1
raw_dir=
data_dir=
seed=0
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
  spear superb fetch librispeech --raw "$raw_dir"
}

make_manifests() {
  renew "$data_dir/superb"
  spear superb prepare librispeech --raw "$raw_dir" --data-dir "$data_dir"
}

run_stage 0 "environment and data" "downloads what $raw_dir lacks: 7 GB, 21 GB while unpacking" obtain_data "$raw_dir"
run_stage 1 "manifests" "reads the headers of 34,000 files; about 2 minutes" make_manifests "$raw_dir" "$seed"
