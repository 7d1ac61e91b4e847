#!/usr/bin/env bash
# Prepares ESC-50 for fine-tuning of classifiers: five folds, each held out once.
#
#   ./prepare.sh --esc50-dir DIR        # the folder with meta/esc50.csv and audio/
# Stages: 0 environment and data, 1 manifests. A second run skips what is done; an interrupted one goes on.
set -euo pipefail

stage=0
stop_stage=1
data_dir=
num_jobs=0
dry_run=false
esc50_dir=

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/parse_options.sh"
. "$here/shared/stages.sh"
. "$here/shared/setup_environment.sh"
setup_environment

data_dir="${data_dir:-$here/data}"
stage_dir="$data_dir/.stages"

obtain_data() {
  renew
  mkdir -p "$data_dir"
  [[ -e "$esc50_dir/meta/esc50.csv" ]] ||
    _absent "no $esc50_dir/meta/esc50.csv" "ESC-50 as it is distributed" "correct --esc50-dir"
  ln -sfn "$(absolute_dir "$esc50_dir")" "$data_dir/raw"
  echo "licence: CC BY-NC 3.0 (nothing is copied, $data_dir/raw is a link)"
}

make_manifests() {
  local fold place
  for fold in 1 2 3 4 5; do
    place="$data_dir/fold-$fold"
    renew "$place"
    mkdir -p "$place"
    awk -F , -v fold="$fold" 'NR == 1 { print "id,path,class,split"; next }
      NF > 3 { print $1 ",../raw/audio/" $1 "," $4 "," ($2 == fold ? "test" : "train") }' \
      "$data_dir/raw/meta/esc50.csv" >"$place/table.csv"
    spear finetune --only-data --task classification --kind event --manifest "$place/table.csv" --dev-fraction 0 \
      --exp-dir "$place" --num-jobs "$num_jobs"
    cp "$place/data/manifests/test.jsonl" "$place/data/manifests/dev.jsonl"
  done
}

run_stage 0 "environment and data" "links $esc50_dir; nothing is copied" obtain_data "$esc50_dir"
run_stage 1 "manifests" "decodes 2,000 clips; five folds below $data_dir" make_manifests
