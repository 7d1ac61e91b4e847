#!/usr/bin/env bash
# Fine-tunes the student of egs/mini/spear in all kinds, beside the same from random weights, in equal steps.
#
#   egs/mini/finetune/run.sh                         # after egs/mini/spear/run.sh; 10 minutes on 2 idle cores, offline
#   egs/mini/finetune/run.sh --audio-dir DIR         # real recordings, the folder real-mini
#   egs/mini/finetune/run.sh --kinds "ctc tagging" --seeds "42 43 44" --init-from CHECKPOINT
# Stages: 0-1 prepare (see prepare.sh --help), 2 fine-tune and score, 3 the table in exp/RESULTS.md. Run it again to
# continue after an interruption. --finetune-options are words for spear finetune and the trainer.
set -euo pipefail

stage=0
stop_stage=3
audio_dir=
data_dir=
exp_dir=
init_from=
kinds="ctc transducer tagging classification verification"
seeds=
num_steps=60
batch_seconds=12
num_jobs=0
dry_run=false
corpus_options=
finetune_options=

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/parse_options.sh"
. "$here/shared/stages.sh"
. "$here/shared/setup_environment.sh"
setup_environment

suffix=""
if [[ -n "$audio_dir" ]]; then
  audio_dir="$(absolute_dir "$audio_dir")"
  suffix="_$(safe_name "$audio_dir")"
fi
data_dir="${data_dir:-$here/../spear/data$suffix}"
exp_dir="${exp_dir:-$here/exp$suffix}"
init_from="${init_from:-$here/../spear/exp/student}"
seeds="${seeds:-42}" # no default above, where a number would have to be one number

words_of() { # KIND: puts what it reads, and how it is divided, into `words`: by the tasks of stage 1, or by speakers
  local sounds=(--manifest "$data_dir/manifests/cuts_audio_train.jsonl") # what a task does not divide takes no part
  local speech=(--manifest "$data_dir/manifests/cuts_speech_train.jsonl")
  local held=(--manifest "$data_dir/manifests/cuts_heldout.jsonl")
  case "$1" in
    tagging) words=("${sounds[@]}" "${held[@]}" --target class --split sound_events --kind event) ;;
    classification)
      if [[ -n "$audio_dir" ]]; then
        words=("${sounds[@]}" "${held[@]}" --target class --split instruments --kind music)
      else
        words=("${speech[@]}" "${held[@]}" --target keyword --split keyword_spotting)
      fi
      ;;
    verification) words=("${speech[@]}" "${held[@]}" --target speaker --streams.verification.channels 64) ;;
    *)
      words=("${speech[@]}" "${held[@]}" --target text)
      if [[ -n "$audio_dir" ]]; then words+=(--group speaker); else words+=(--split speech_recognition); fi
      ;;
  esac
}

finetune_all() {
  local kind seed start more names numbers
  renew
  split_words names "$kinds"
  split_words numbers "$seeds"
  split_words more "$finetune_options"
  for kind in "${names[@]}"; do
    words_of "$kind"
    for seed in "${numbers[@]}"; do
      for start in "" random:; do
        spear finetune --task "$kind" --init-from "$start$init_from" --seed "$seed" --num-steps "$num_steps" \
          --batch-seconds "$batch_seconds" --max-seconds 8 --num-jobs "$num_jobs" \
          --exp-dir "$exp_dir/$kind-${start:+random-}$seed" "${words[@]}" "${more[@]}"
      done
    done
  done
}

make_table() {
  local kind seed names numbers folders=()
  split_words names "$kinds"
  split_words numbers "$seeds"
  for kind in "${names[@]}"; do
    for seed in "${numbers[@]}"; do folders+=("$exp_dir/$kind-$seed" "$exp_dir/$kind-random-$seed"); done
  done
  spear finetune report "${folders[@]}" --output "$exp_dir/RESULTS.md"
}

if ((stage <= 1)); then
  "$here/prepare.sh" --stage "$stage" --stop-stage "$stop_stage" --audio-dir "$audio_dir" --data-dir "$data_dir" \
    --num-jobs "$num_jobs" --dry-run "$dry_run" --corpus-options="$corpus_options"
fi
stage_dir="$exp_dir/.stages"
run_stage 2 "fine-tune" "five kinds, from $init_from and from random weights; about 10 minutes on 2 cores" \
  finetune_all "$kinds" "$seeds" "$num_steps" "$batch_seconds" "$init_from" "$finetune_options" "$(declare -f words_of)"
run_stage 3 "table" "$exp_dir/RESULTS.md" make_table
