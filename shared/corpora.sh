# The stages of a recipe on corpora with teachers from outside: raw audio -> manifests -> features -> embeddings ->
# quantizers -> tokens. A prepare.sh states its options, sources parse_options.sh and this file, and calls
#
#   prepare "librispeech audioset" "speech audio" "musan"      # corpora, streams, noise; all may be empty
#
# Corpora of noise are listed by stage 1 and mixed in by training, and take no part in the rest; one that is not there
# has an empty list.
# A corpus C is found in ${C}_dir (linked to data/raw/C) or in data/raw/C; its layout is ${C}_layout or C itself
# (`spear manifests` knows layouts), its domain ${C}_domain and its longest window ${C}_window_seconds, or what is usual
# for it. A stream S has ${S}_teacher (a spec such as wavlm:FOLDER@21), ${S}_codebooks, ${S}_normalise, ${S}_sample
# (corpora whose frames train its quantizer; those of its domain if none of them is there) and ${S}_domains (of cuts that
# get its tokens; all when empty).
# Nothing that took long is ever deleted here: corpora may be added, and what other settings have made is refused by its
# card unless $overwrite is true.
# Uses $here, $stage, $stop_stage, $dry_run, $data_dir, $num_jobs, $executor, $nproc_per_node, $on_the_fly, $decode,
# $max_frames, $max_seconds, $unit_seconds, $refine_passes, $max_bad_fraction,
# $overwrite and $seed.

. "$here/shared/stages.sh"
. "$here/shared/setup_environment.sh"

_value() { # NAME [DEFAULT]: the value of a variable, or the default when it is empty or unset
  local value="${!1:-}"
  printf '%s\n' "${value:-${2:-}}"
}

domain_of() { # CORPUS
  case "$1" in
    audioset | vggsound | fsd50k | freesound | bbc | mtg_jamendo | music4all | musan) _value "$1_domain" audio ;;
    *) _value "$1_domain" speech ;;
  esac
}

licence_of() { # CORPUS
  case "$1" in
    librispeech | libriheavy) echo "CC BY 4.0 (read from public-domain books)" ;;
    gigaspeech) echo "for research, after its owners' form is filled in" ;;
    voxpopuli) echo "CC0, with the European Parliament's terms for the audio" ;;
    yodas_granary) echo "CC BY 3.0, of the videos' owners" ;;
    audioset | vggsound) echo "lists CC BY 4.0; the audio belongs to the videos' owners and is not passed on" ;;
    fsd50k | freesound) echo "Creative Commons, clip by clip (some for non-commercial use only)" ;;
    bbc) echo "BBC RemArc: personal, educational and research use" ;;
    mtg_jamendo) echo "Creative Commons, track by track" ;;
    musan) echo "CC BY 4.0; its recordings are of the public domain or Creative Commons" ;;
    music4all) echo "for research, by agreement with its authors" ;;
    *) echo "that of the recordings" ;;
  esac
}

present() { # CORPUS...: those whose directory is given or linked
  local corpus found=()
  for corpus in "$@"; do
    if [[ -n "$(_value "${corpus}_dir")" || -e "${data_dir:-$here/data}/raw/$corpus" ]]; then found+=("$corpus"); fi
  done
  echo "${found[*]:-}"
}

window_seconds_of() { # CORPUS: longer recordings are cut into equal windows of at most this length
  case "$1" in
    freesound | bbc | mtg_jamendo) _value "$1_window_seconds" 10 ;; # as SPEAR was trained
    *) _value "$1_window_seconds" 30 ;;
  esac
}

cuts_of() { # CORPUS: its training cuts
  echo "$data_dir/manifests/cuts_$1_train.jsonl"
}

launch() { # -m MODULE ARGUMENTS, in one process or under torchrun in several
  local -x PYTHONSAFEPATH=1 # modules of the current directory are not imported in place of Python's own
  if ((nproc_per_node > 1)); then
    torchrun --standalone --nproc_per_node "$nproc_per_node" "$@"
  else
    python "$@"
  fi
}

_sample_cuts() { # STREAM: cuts files that train its quantizer, one a line
  local corpus domains found=()
  for corpus in $(_value "$1_sample"); do
    if [[ " $corpora " == *" $corpus "* ]]; then found+=("$(cuts_of "$corpus")"); fi
  done
  if ((${#found[@]} == 0)); then
    domains="$(_value "$1_domains" "speech audio")"
    for corpus in $corpora; do
      if [[ "$domains" == *"$(domain_of "$corpus")"* ]]; then found+=("$(cuts_of "$corpus")"); fi
    done
  fi
  if ((${#found[@]})); then printf '%s\n' "${found[@]}"; fi
}

_bad_fraction() { # of cuts, at extraction: what stage 1 has decoded should be readable
  if [[ "$decode" == true ]]; then echo 0.01; else echo "$max_bad_fraction"; fi
}

link_corpora() {
  local corpus place raw
  mkdir -p "$data_dir/raw"
  spear doctor --brief --directory "$data_dir"
  for corpus in $corpora $noises; do
    place="$(_value "${corpus}_dir")" raw="$data_dir/raw/$corpus"
    if [[ -n "$place" ]]; then
      [[ -d "$place" ]] || _absent "no directory $place" "the corpus $corpus" "correct --${corpus//_/-}-dir"
      [[ -L "$raw" || ! -e "$raw" ]] || _absent "$raw, which is no link" "a link to $place" "move it away first"
      ln -sfn "$(absolute_dir "$place")" "$raw"
    elif [[ "$corpus" == librispeech && "${download:-false}" == true && ! -e "$raw" ]]; then
      echo "downloading LibriSpeech (60 GB) to $raw"
      mkdir -p "$raw" && lhotse download librispeech --full "$raw"
    fi
    [[ -e "$raw" ]] || _absent "no $raw" "the corpus $corpus" "give --${corpus//_/-}-dir DIR"
    echo "$corpus: $(cd -P "$raw" && pwd); licence: $(licence_of "$corpus")"
  done
}

make_manifests() {
  local corpus
  for corpus in $corpora $noises; do
    spear manifests --raw "$data_dir/raw/$corpus" --corpus "$(_value "${corpus}_layout" "$corpus")" --name "$corpus" \
      --kind "$(_value "${corpus}_kind")" --output "$data_dir/manifests" --decode "$decode" \
      --max-seconds "$(window_seconds_of "$corpus")" --max-bad-fraction "$max_bad_fraction" \
      --executor "$executor" --num-jobs "$num_jobs"
  done
  for corpus in $absent_noises; do
    if [[ ! -e "$data_dir/manifests/noise_$corpus.jsonl" ]]; then
      echo "no $(tr "[:lower:]" "[:upper:]" <<<"$corpus") (--$corpus-dir DIR): manifests/noise_$corpus.jsonl is empty, and training mixes in none of its noise"
      : >"$data_dir/manifests/noise_$corpus.jsonl"
    fi
  done
}

make_fbank() {
  spear fbank --manifests "$data_dir/manifests" --output "$data_dir/fbank" --on-the-fly "$on_the_fly" \
    --executor "$executor" --num-jobs "$num_jobs"
}

_has_quantizer() { # STREAM: whether one is there that is to be kept, whatever corpora came since
  local card="$data_dir/quantizer/$1/card.json" wanted
  [[ -e "$card" && "$overwrite" != true ]] || return 1
  wanted="$(_value "${1}_codebooks")"
  grep -q "\"num_codebooks\": $wanted,\?$" "$card" ||
    _absent "$data_dir/quantizer/$1 with another number of codebooks" "$wanted" "--overwrite true replaces it"
  wanted=residual # also of cards that do not say
  if grep -q '"structure": "even"' "$card"; then wanted=even; fi
  [[ "$structure" == "$wanted" ]] ||
    _absent "$data_dir/quantizer/$1 with $wanted codebooks" "$structure" "--overwrite true replaces it"
  echo "$1: the quantizer is there and is kept (--overwrite true trains it anew)"
}

embed_samples() {
  local stream cuts
  for stream in $streams; do
    if _has_quantizer "$stream"; then continue; fi
    mapfile -t cuts < <(_sample_cuts "$stream")
    ((${#cuts[@]})) || _absent "no corpus for stream $stream" "one of $(_value "${stream}_domains")" "add a corpus"
    launch -m spear.bin.main embed --teacher "$(_value "${stream}_teacher")" --cuts "${cuts[@]}" \
      --max-frames "$max_frames" --max-seconds "$max_seconds" --max-bad-fraction "$(_bad_fraction)" --seed "$seed" \
      --overwrite "$overwrite" --output "$data_dir/embeddings/$stream"
  done
}

train_quantizers() {
  local stream
  for stream in $streams; do
    if _has_quantizer "$stream"; then continue; fi
    spear train-quantizer --embeddings "$data_dir/embeddings/$stream" --output "$data_dir/quantizer/$stream" \
      --num-codebooks "$(_value "${stream}_codebooks")" --normalise "$(_value "${stream}_normalise" true)" \
      --max-frames "$max_frames" --structure "$structure" --overwrite "$overwrite" --seed "$seed"
  done
}

extract_tokens() {
  local corpus stream cuts=() words=() domains
  rm -f "$data_dir/READY"
  for corpus in $corpora; do cuts+=("$(cuts_of "$corpus")"); done
  for stream in $streams; do
    words+=(--stream "$stream=$(_value "${stream}_teacher")" --quantizer "$stream=$data_dir/quantizer/$stream")
    domains="$(_value "${stream}_domains")"
    if [[ -n "$domains" ]]; then words+=(--stream-domains "$stream=$domains"); fi
  done
  launch -m spear.bin.main extract-tokens --cuts "${cuts[@]}" "${words[@]}" --output "$data_dir/tokens" \
    --max-seconds "$max_seconds" --unit-seconds "$unit_seconds" --refine-passes "$refine_passes" \
    --max-bad-fraction "$(_bad_fraction)" --overwrite "$overwrite"
  spear verify-tokens --tokens "$data_dir/tokens" --cuts "${cuts[@]}"
}

prepare() { # CORPORA STREAMS [NOISES]: the stages
  local corpus stream places=() teachers=() quantizers=()
  corpora="$1" streams="$2" noises="" absent_noises=""
  data_dir="${data_dir:-$here/data}"
  if [[ "$data_dir" != /* ]]; then data_dir="$PWD/$data_dir"; fi
  stage_dir="$data_dir/.stages"
  for corpus in ${3:-}; do
    if [[ -n "$(present "$corpus")" ]]; then noises+=" $corpus"; else absent_noises+=" $corpus"; fi
  done
  [[ -n "$corpora" ]] || _absent "no corpus" "at least one" "see $(basename "$0") --help"
  for corpus in $corpora $noises; do places+=("$corpus=$(_value "${corpus}_dir")"); done
  for stream in $streams; do
    teachers+=("$stream=$(_value "${stream}_teacher")" "$(_value "${stream}_sample")")
    quantizers+=("$stream" "$(_value "${stream}_codebooks")" "$(_value "${stream}_normalise")")
  done
  setup_environment
  run_stage 0 "environment and data" "links $corpora below $data_dir/raw; nothing is copied" \
    link_corpora "${places[@]}"
  run_stage 1 "manifests" "lists and checks every recording (--decode false: headers only); 1 kB a cut" \
    make_manifests "$corpora $noises" "$decode"
  run_stage 2 "fbank" "durations and statistics; with --on-the-fly false also features, 0.2 GB an hour of audio" \
    make_fbank "$on_the_fly" "$corpora"
  if [[ -z "$streams" ]]; then
    ((stop_stage < 3)) || echo "== stages 3 to 5: nothing to do, as there is no teacher (conf/ trains on random-projection targets)"
    return 0
  fi
  run_stage 3 "embeddings" "$max_frames frames for each of: $streams; at most 2 kB a frame; may be deleted after stage 4" \
    embed_samples "${teachers[@]}" "$max_frames" "$seed"
  run_stage 4 "quantizers" "codebooks for each of: $streams, to $data_dir/quantizer; some MB" \
    train_quantizers "${quantizers[@]}" "$max_frames" "$structure" "$seed"
  run_stage 5 "tokens" "one pass audio -> teachers -> $data_dir/tokens, with the estimate first; then verified" \
    extract_tokens "$corpora" "${teachers[@]}" "${quantizers[@]}" "$refine_passes"
}
