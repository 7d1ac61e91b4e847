#!/usr/bin/env bash
# Prepares AudioSet for fine-tuning of taggers: the balanced 20,000 clips, or all two million; eval is scored.
#
#   ./prepare.sh --audioset-dir DIR                           # *_segments.csv, and clips in any folders below
#   ./prepare.sh --audioset-dir DIR --set full --data-dir data_full
# Stages: 0 environment and data, 1 manifests, 2 parts. A second run skips what is done; an interrupted one goes on.
# Nobody has all clips: stage 1 reports how many of the listed are there, and scores name their number.
set -euo pipefail

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/corpora_options.sh"

stop_stage=2
audioset_dir=
set=balanced

. "$here/shared/parse_options.sh"
. "$here/shared/finetune_corpora.sh"

make_parts() {
  local table
  table="$(find -L "$data_dir/raw/audioset" -name balanced_train_segments.csv -print -quit)"
  if [[ "$set" == full ]]; then
    part train cuts_audioset_train '"id"'
  else
    [[ -n "$table" ]] || _absent "no balanced_train_segments.csv" "AudioSet's own tables" "put them beside the clips"
    grep -v '^#' "$table" | cut -d , -f 1 | sed 's/.*/"as-&"/' >"$data_dir/balanced_ids"
    grep -F -f "$data_dir/balanced_ids" "$data_dir/manifests/cuts_audioset_train.jsonl" >"$data_dir/manifests/train.jsonl" ||
      _absent "no clip of the balanced set" "its clips" "get them, or choose --set full"
    echo "train: $(wc -l <"$data_dir/manifests/train.jsonl") cuts"
  fi
  part dev cuts_audioset_heldout '"id"'
}

[[ "$set" == balanced || "$set" == full ]] || _absent "--set $set" "balanced or full" "correct it"
prepare_finetuning "audioset" "" "$set"
