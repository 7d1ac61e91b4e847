#!/usr/bin/env bash
# Prepares the mini recipe: audio -> manifests -> fbank -> teachers -> quantizers -> tokens. Run it twice and the second
# run skips what is done; interrupt it and the next run continues.
#
#   ./prepare.sh                          # the synthetic corpus, made offline; --stage 3 --stop-stage 4: a part
#   ./prepare.sh --audio-dir DIR          # real recordings: a folder with manifest.tsv, or any folder of audio files
# Stages: 0 environment and data, 1 manifests, 2 fbank, 3 teachers and their embeddings, 4 quantizers, 5 tokens.
# Data goes to data/, teachers to exp/ (other audio or seeds: data_NAME, exp_NAME). --on-the-fly false stores features;
# --structure even: other codebooks; --executor, --num-jobs: of stages 1, 2; --nproc-per-node: of 3, 5. See run.sh.
set -euo pipefail

stage=0
stop_stage=5
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
speech_layer=-1
speech_codebooks=16
audio_layer=-1
audio_codebooks=16
structure=residual
max_frames=20000
long=
speed_perturb=[]
corpus_options=
teacher_options=
teachers=cold

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/parse_options.sh"
. "$here/shared/stages.sh"
. "$here/shared/setup_environment.sh"
. "$here/local/paths.sh"
setup_environment

obtain_data() {
  renew "$data_dir/raw"
  mkdir -p "$data_dir"
  spear doctor --brief --directory "$data_dir"
  if [[ -n "$audio_dir" ]]; then
    echo "licence: that of the recordings; see $audio_dir (nothing is copied, data/raw is a link)"
    ln -sfn "$audio_dir" "$data_dir/raw"
  else
    echo "licence: everything is synthetic and made here; the speech comes from the program espeak-ng (GPL-3.0)"
    split_words words "$corpus_options"
    spear synthesize --output "$data_dir/raw" --seed "$seed" --num-jobs "$num_jobs" "${words[@]}"
  fi
}

make_manifests() {
  renew "$data_dir/manifests"
  # Windows as long as the smallest batch that they have to fit in (plan.max_seconds of conf/student.yaml).
  spear manifests --raw "$data_dir/raw" --output "$data_dir/manifests" --tasks "$tasks" --kind "$kind" \
    --max-seconds 6 --speed-perturb "$speed_perturb" --executor "$executor" --num-jobs "$num_jobs"
}

make_fbank() {
  renew "$data_dir/fbank"
  spear fbank --manifests "$data_dir/manifests" --output "$data_dir/fbank" --on-the-fly "$on_the_fly" \
    --executor "$executor" --num-jobs "$num_jobs"
}

make_teacher() { # DOMAIN
  obtain_teacher "$1"
  launch -m spear.bin.main embed --teacher "$(teacher_of "$1")" --seed "$seed" \
    --cuts "$(cuts_of "$1")" --max-frames "$max_frames" --max-seconds 40 --output "$data_dir/embeddings/$1"
}

make_teachers() {
  set_aside "$exp_dir/teacher_speech" "$exp_dir/teacher_audio"
  renew "$data_dir/embeddings"
  each_domain make_teacher
}

train_quantizer() { # DOMAIN
  local codebooks="$1_codebooks"
  spear train-quantizer --embeddings "$data_dir/embeddings/$1" --num-codebooks "${!codebooks}" \
    --train.rounds 2 --train.start-frames 20000 --structure "$structure" --output "$data_dir/quantizer/$1" --seed "$seed"
}

train_quantizers() {
  renew "$data_dir/quantizer"
  each_domain train_quantizer
}

extract_tokens() {
  local domain cuts=() streams=()
  renew "$data_dir/tokens" "$data_dir/READY"
  for domain in $(domains); do
    cuts+=("$(cuts_of "$domain")")
    streams+=(--stream "$domain=$(teacher_of "$domain")" --quantizer "$domain=$data_dir/quantizer/$domain")
  done
  # Without refinement a code follows from the embedding by one linear map, which a student learns within minutes. Refined
  # codes (the paper's) describe the embedding better, but the later ones change from frame to frame like noise.
  launch_side_by_side -m spear.bin.main extract-tokens --cuts "${cuts[@]}" "${streams[@]}" --output "$data_dir/tokens" \
    --max-seconds 40 --unit-seconds 600 --refine-passes 0
  spear verify-tokens --tokens "$data_dir/tokens" --cuts "${cuts[@]}"
}

run_stage 0 "environment and data" "makes or links $data_dir/raw; 30 s; 2 GB of disk should be free" \
  obtain_data "$(fingerprint "$audio_dir")" "$seed" "$corpus_options"
run_stage 1 "manifests" "reads data/raw once; writes data/manifests with quarantine.jsonl; about 15 s, 5 MB" \
  make_manifests "$tasks" "$kind" "$speed_perturb" "noise.jsonl"
run_stage 2 "fbank" "statistics; with --on-the-fly false features to data/fbank, 0.2 GB an hour of audio" \
  make_fbank "$on_the_fly"
run_stage 3 "teachers" "trains (or installs) one a domain, embeds $max_frames frames; 3 to 7 minutes (long: 10), 50 MB" \
  make_teachers "${teacher_settings[@]}" "$seed" "$max_frames" "$speech_layer" "$audio_layer" "$teacher_options" \
  "$teachers" "$(declare -f make_teacher obtain_teacher train_teacher)"
run_stage 4 "quantizers" "16 codebooks for each teacher to data/quantizer; under a minute, 10 MB" \
  train_quantizers "$speech_codebooks" "$audio_codebooks" "$structure" "$seed" "$(declare -f train_quantizer)"
run_stage 5 "tokens" "one pass audio -> teachers -> data/tokens (under 5 MB an hour), verified; 30 to 70 s" \
  extract_tokens "$(declare -f extract_tokens)"
