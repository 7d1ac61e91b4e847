# Options and stages of the recipes that prepare one corpus of SUPERB. Source it before parse_options.sh, which then takes
# the options below, and call prepare_superb at the end.

_options_also="${BASH_SOURCE[0]}"

stage=0
stop_stage=1
raw_dir=
data_dir=
seed=0
num_jobs=0
dry_run=false

prepare_superb() { # CORPUS WHAT_STAGE_0_NEEDS WHAT_STAGE_1_DOES [OPTION_OF_PREPARE...]; RAW_DIR: the corpus's folder
  corpus="$1"
  prepare_options=("${@:4}")
  . "$here/shared/stages.sh"
  . "$here/shared/setup_environment.sh"
  setup_environment
  data_dir="${data_dir:-$here/data}"
  raw_dir="${raw_dir:-${DATA_ROOT:-$data_dir/raw}}"
  stage_dir="$data_dir/.stages"
  run_stage 0 "environment and data" "${2//RAW_DIR/$raw_dir}" obtain_data "$raw_dir"
  run_stage 1 "manifests" "$3" make_manifests "$raw_dir" "$seed" \
    ${prepare_options[@]+"${prepare_options[@]}"}
}

obtain_data() {
  renew
  mkdir -p "$data_dir"
  spear evaluate fetch "$corpus" --raw "$raw_dir"
}

make_manifests() {
  renew "$data_dir/superb"
  spear evaluate prepare "$corpus" --raw "$raw_dir" --data-dir "$data_dir" --seed "$seed" --num-jobs "$num_jobs" \
    ${prepare_options[@]+"${prepare_options[@]}"}
}
