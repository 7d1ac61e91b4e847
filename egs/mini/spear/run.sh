#!/usr/bin/env bash
# The mini recipe from audio to evaluated encoder: environment, prepare.sh (stages 0-5), training, decoding, report.
#
#   egs/mini/spear/run.sh                         # synthetic corpus, offline, 10 to 25 minutes on 2 cores
#   egs/mini/spear/run.sh --audio-dir DIR         # real recordings, three times the steps: 30 to 45 minutes
#   egs/mini/spear/run.sh --stage 6               # only training, decoding and the report
#
# Stages: 0-5 prepare (see prepare.sh --help), 6 train the student, 7 decode all tasks with the student, an untrained
# encoder of its shape, and fbank, 8 table and report.html. Run it again to continue after an interruption.
# --long true trains three times as many steps; it is the default with --audio-dir. --speed-perturb [0.9,1.1] trains on
# speech at these speeds, too.
# --teachers real takes pre-trained teachers instead of ones that are made here: Whisper tiny.en for speech and musicnn
# (real-aisfx: aiSFX) for the rest, which spear teachers installs. The student then starts from random weights.
# --nproc-per-node 2 trains with two processes. --teacher-options, --student-options, --corpus-options and
# --decode-options are words for train.py (of teachers, of the student), spear synthesize and spear evaluate.
set -euo pipefail

stage=0
stop_stage=8
audio_dir=
data_dir=
exp_dir=
on_the_fly=true
num_jobs=0
executor=local
seed=42
dry_run=false
nproc_per_node=1
kind=speech
tasks=
long=
speed_perturb=[]
corpus_options=
teacher_options=
student_options=
decode_options=
teachers=cold

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/parse_options.sh"
. "$here/shared/stages.sh"
. "$here/shared/setup_environment.sh"
. "$here/local/paths.sh"
setup_environment

train_student() {
  local domain sources="" present start more
  present="$(domains | paste -sd ' ' -)"
  set_aside "$exp_dir/student"
  renew
  local words=("${settings[@]}" --data-dir "$data_dir" --exp-dir "$exp_dir/student" --seed "$seed")
  for domain in speech audio; do
    if [[ " $present " == *" $domain "* ]]; then
      sources+="{name: $domain, cuts: manifests/cuts_${domain}_train.jsonl, domain: $domain}, "
      start="$domain"
    else
      words+=("--streams.$domain" null) # a corpus of one domain has one teacher
    fi
  done
  if [[ "$present" != *" "* ]]; then words+=(--sources "[$sources]"); fi
  # The student has its teachers' shape and starts from the weights of one, with the audio teacher's if there is one: it
  # finds its way to speech sooner than the speech teacher's would to sounds (TUNING.md).
  # Pre-trained ones have other shapes.
  if [[ "$teachers" == cold ]]; then words+=(--init-from "$exp_dir/teacher_$start"); fi
  split_words more "$student_options"
  launch_side_by_side "$here/train.py" "${words[@]}" "${more[@]}"
}

decode_all() {
  local words
  split_words words "$decode_options"
  spear evaluate --data-dir "$data_dir" --exp-dir "$exp_dir" --num-jobs "$num_jobs" --seed "$seed" \
    "${words[@]}"
}

write_report() {
  spear evaluate report --data-dir "$data_dir" --exp-dir "$exp_dir" --results "$exp_dir/RESULTS.md"
}

if ((stage <= 5)); then
  "$here/prepare.sh" --stage "$stage" --stop-stage "$((stop_stage < 5 ? stop_stage : 5))" --audio-dir "$audio_dir" \
    --data-dir "$data_dir" --exp-dir "$exp_dir" --on-the-fly "$on_the_fly" --num-jobs "$num_jobs" --kind "$kind" \
    --executor "$executor" --seed "$seed" --dry-run "$dry_run" --nproc-per-node "$nproc_per_node" --tasks "$tasks" \
    --long "$long" --speed-perturb "$speed_perturb" --corpus-options="$corpus_options" \
    --teacher-options="$teacher_options" --teachers "$teachers"
fi

tokens_key="$(head -n 1 "$stage_dir/stage-5.done" 2>/dev/null || true)"
stage_dir="$exp_dir/.stages"
settings_of student
run_stage 6 "train the student" "a checkpoint every 710 steps in $exp_dir/student; 5 to 12 minutes (long: 15 to 25)" \
  train_student "$tokens_key" "${settings[@]}" "$seed" "$student_options"
run_stage 7 "decode" "frozen encoders on every task; run files in $exp_dir; about 2 minutes on 2 cores" \
  decode_all "$tokens_key" "$tasks" "$decode_options"
run_stage 8 "report" "the table, $exp_dir/RESULTS.md and $exp_dir/report.html" \
  write_report

echo
echo "data     $data_dir"
if [[ -e "$exp_dir/student/final" ]]; then echo "encoder  $exp_dir/student/final     (spear.load_model reads it)"; fi
if [[ -e "$exp_dir/RESULTS.md" ]]; then echo "results  $exp_dir/RESULTS.md"; fi
if [[ -e "$exp_dir/report.html" ]]; then echo "report   $exp_dir/report.html"; fi
echo "total    $(stage_seconds $SECONDS)"
