#!/usr/bin/env bash
# Prepares fine-tuning on a small corpus: stage 0 environment and data, 1 manifests; those of egs/mini/spear. Offline.
#
#   ./prepare.sh                     # the synthetic corpus of egs/mini/spear (made there when it is absent)
#   ./prepare.sh --audio-dir DIR     # real recordings: a folder with manifest.tsv
set -euo pipefail

stage=0
stop_stage=1
audio_dir=
data_dir=
num_jobs=0
dry_run=false
corpus_options=

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/parse_options.sh"

"$here/../spear/prepare.sh" --stage "$stage" --stop-stage "$((stop_stage < 1 ? stop_stage : 1))" \
  --audio-dir "$audio_dir" --data-dir "$data_dir" --num-jobs "$num_jobs" --dry-run "$dry_run" \
  --corpus-options="$corpus_options"
