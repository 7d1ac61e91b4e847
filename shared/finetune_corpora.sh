# Stages of recipes that fine-tune on a corpus: those of corpora.sh up to the manifests, then train.jsonl, dev.jsonl and
# the test sets, which the settings in conf/finetune name. Source it after parse_options.sh, define make_parts (it fills
# $data_dir/manifests, with `part`), and call prepare_finetuning. Stages: 0 environment and data, 1 manifests, 2 parts.

. "$here/shared/corpora.sh"

prepare_finetuning() { # CORPUS NOISES SETTING...
  local last="$stop_stage"
  stop_stage="$((last < 1 ? last : 1))"
  prepare "$1" "" "$2"
  stop_stage="$last"
  run_stage 2 "parts" "train.jsonl, dev.jsonl and the test sets in $data_dir/manifests; seconds" make_parts "${@:3}"
}

part() { # NAME CUTS WORDS...: the cuts whose line holds one of the words
  local name="$1" cuts="$2" word words=()
  for word in "${@:3}"; do words+=(-e "$word"); done
  grep -F "${words[@]}" "$data_dir/manifests/$cuts.jsonl" >"$data_dir/manifests/$name.jsonl" ||
    _absent "no cut of ${*:3} in $data_dir/manifests/$cuts.jsonl" "that part of the corpus" "get it, or choose another"
  echo "$name: $(wc -l <"$data_dir/manifests/$name.jsonl") cuts"
}
