#!/usr/bin/env bash
# All ten SUPERB tasks on a small corpus with three upstreams: the student of egs/mini/spear, its untrained twin, fbank.
#
#   egs/mini/superb/run.sh                                  # after egs/mini/spear/run.sh; 5 minutes on 2 idle cores
#   egs/mini/superb/run.sh --audio-dir DIR                  # real recordings
#   egs/mini/superb/run.sh --upstreams "fbank NAME=SPEC"    # other encoders; see spear evaluate --help
# Stages: 0-1 prepare (see prepare.sh --help), 2 scores, table, RESULTS and a page of plots. Scores and features lie in
# the exp folder of egs/mini/spear: what was computed there for the same recordings is not computed again.
set -euo pipefail

stage=0
stop_stage=2
audio_dir=
data_dir=
raw_dir=
exp_dir=
student_dir=
upstreams=
tasks=all
num_jobs=0
seed=42
dry_run=false
corpus_options=
decode_options=

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/parse_options.sh"
. "$here/shared/stages.sh"
. "$here/shared/setup_environment.sh"
setup_environment

suffix=""
if [[ -n "$audio_dir" ]]; then suffix="_$(safe_name "$audio_dir")"; fi
base="$here/../spear" # data, features and scores are shared with that recipe, where it is there
if [[ ! -d "$base" ]]; then base="$here"; fi
data_dir="${data_dir:-$base/data$suffix}"
exp_dir="${exp_dir:-$base/exp$suffix}"
student_dir="${student_dir:-$base/exp}"

score() {
  renew
  local words=(--student-dir "$student_dir") specs more spec
  split_words specs "$upstreams"
  split_words more "$decode_options"
  for spec in "${specs[@]}"; do words+=(--upstream "$spec"); done
  "$here/decode_superb.py" --data-dir "$data_dir" --exp-dir "$exp_dir" --tasks "$tasks" --num-jobs "$num_jobs" \
    --results "$exp_dir/RESULTS.md" --page "$exp_dir/report.html" "${words[@]}" "${more[@]}"
}

if ((stage <= 1)); then
  "$here/prepare.sh" --stage "$stage" --stop-stage "$((stop_stage < 1 ? stop_stage : 1))" --audio-dir "$audio_dir" \
    --data-dir "$data_dir" --raw-dir "$raw_dir" --num-jobs "$num_jobs" --seed "$seed" --dry-run "$dry_run" \
    --corpus-options="$corpus_options"
fi
stage_dir="$exp_dir/.stages-superb"
run_stage 2 "scores" "features once, heads side by side; run files in $exp_dir/evaluate; minutes on 2 cores" \
  score "$tasks" "$upstreams" "$decode_options" "$student_dir" "$data_dir"
