#!/usr/bin/env bash
# Targets of conf/objectives, from what prepare.sh left: k-means labels of both teachers, and frames of two layers of each
# for every training cut. Run it from the recipe's directory; what is there already is kept.
#
#   local/objectives.sh [DATA_DIR [EXP_DIR]]      # data and exp by default
set -euo pipefail

data_dir="${1:-data}"
exp_dir="${2:-exp}"
cuts=("$data_dir/manifests/cuts_speech_train.jsonl" "$data_dir/manifests/cuts_audio_train.jsonl")

frames() { # NAME TEACHER: of every training cut; the cap is out of reach
  spear embed --teacher "$2" --cuts "${cuts[@]}" --max-frames 100000000 --max-seconds 40 --output "$data_dir/tokens/usad_$1"
}

for domain in speech audio; do
  teacher="spear:$exp_dir/teacher_$domain"
  spear kmeans-labels --embeddings "$data_dir/embeddings/$domain" --teacher "$teacher@-1" --num-classes 500 \
    --cuts "${cuts[@]}" --max-seconds 40 --output "$data_dir/tokens/kmeans_$domain"
  frames "$domain" "$teacher@-1"
done
frames speech3 "spear:$exp_dir/teacher_speech@3"
frames audio3 "spear:$exp_dir/teacher_audio@3,frame_rate_hz=25"
