# Where this recipe keeps its things; sourced by prepare.sh and run.sh after their options are known.

_name="" # data and exp of other audio, or of another seed, have names of their own: no run overwrites another's
if [[ -n "$audio_dir" ]]; then
  if [[ ! -d "$audio_dir" ]]; then
    printf 'error\n  found: no directory %s\n  expected: a folder of audio files\n  to fix: correct --audio-dir\n' \
      "$audio_dir" >&2
    exit 1
  fi
  audio_dir="$(absolute_dir "$audio_dir")"
  _name="_$(safe_name "$audio_dir")"
fi
teachers="${teachers:-cold}"
case "$teachers" in
  cold) audio_teacher="" ;;
  real) audio_teacher=musicnn ;;
  real-aisfx) audio_teacher=aisfx ;;
  *)
    printf 'error\n  found: --teachers %s\n  expected: cold, real or real-aisfx\n  to fix: correct it\n' "$teachers" >&2
    exit 1
    ;;
esac
_name="$_name${audio_teacher:+_$audio_teacher}"
if [[ "$seed" != 42 ]]; then _name="${_name}_seed$seed"; fi
data_dir="${data_dir:-$here/data$_name}"
exp_dir="${exp_dir:-$here/exp$_name}"
if [[ "$data_dir" != /* ]]; then data_dir="$PWD/$data_dir"; fi
if [[ "$exp_dir" != /* ]]; then exp_dir="$PWD/$exp_dir"; fi
stage_dir="$data_dir/.stages"
if [[ -z "${tasks:-}" ]]; then
  tasks="$here/conf/tasks_$(if [[ -n "$audio_dir" ]]; then echo real; else echo synthetic; fi).yaml"
fi

cuts_of() { # DOMAIN: the training cuts of a domain
  echo "$data_dir/manifests/cuts_$1_train.jsonl"
}

domains() { # the domains that have training cuts, one a line; both before the manifests are made
  local domain
  for domain in speech audio; do
    if [[ -s "$(cuts_of "$domain")" || ! -e "$(cuts_of "$domain")" ]]; then echo "$domain"; fi
  done
}

# Real recordings differ more than synthetic ones: they are trained on for longer.
if [[ -z "$long" ]]; then long="$(if [[ -n "$audio_dir" ]]; then echo true; else echo false; fi)"; fi

settings_of() { # MODEL...: puts train.py's words for teacher_speech, teacher_audio or student into `settings`
  local model
  settings=()
  for model in "$@"; do
    settings+=(--config "$here/conf/$model.yaml")
    if [[ "$long" == true ]]; then settings+=(--config "$here/conf/long/${model%%_*}.yaml"); fi
  done
}

settings_of teacher_speech teacher_audio
teacher_settings=("${settings[@]}")

fingerprint() { # DIR: a checksum over names, sizes and times of its files; nothing for the synthetic corpus
  if [[ -n "$1" ]]; then find -L "$1" -type f -exec ls -ln {} + | cksum; fi
}

launch() { # a Python script, or -m MODULE, in one process or in several
  if [[ "$1" == -m ]]; then local -x PYTHONSAFEPATH=1; fi # nothing is imported from the current directory
  if ((nproc_per_node > 1)); then
    torchrun --standalone --nproc_per_node "$nproc_per_node" "$@"
  else
    python "$@"
  fi
}

train_teacher() { # MODEL [WORD...]: in $exp_dir/MODEL, with words for train.py
  settings_of "$1"
  launch "$here/train.py" "${settings[@]}" --exp-dir "$exp_dir/$1" --data-dir "$data_dir" --seed "$seed" "${@:2}"
}

obtain_teacher() { # DOMAIN: trains its teacher, or installs a pre-trained one
  local words
  if [[ -n "$audio_teacher" ]]; then
    spear teachers install "$(installed_name "$1")"
  else
    split_words words "$teacher_options"
    train_teacher "teacher_$1" "${words[@]}"
  fi
}

launch_side_by_side() { # like launch; on CPUs two processes with half the cores each, unless --nproc-per-node says more
  local cores
  cores="$(getconf _NPROCESSORS_ONLN)"
  if ((nproc_per_node > 1 || cores < 2)) || command -v nvidia-smi >/dev/null; then
    launch "$@"
  else
    # Small models: threads would wait for each other many times a millisecond, processes once a step.
    OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores / 2))}" nproc_per_node=2 launch "$@"
  fi
}

each_domain() { # FUNCTION: calls it for every domain, side by side where there are cores for it; fails if one fails
  local domain cores jobs=() status=0
  cores="$(getconf _NPROCESSORS_ONLN)"
  if ((nproc_per_node > 1 || cores < 2)) || command -v nvidia-smi >/dev/null; then
    for domain in $(domains); do "$1" "$domain"; done
    return
  fi
  # Small models gain more from one process per core than from one process with all cores.
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores / 2))}"
  for domain in $(domains); do
    (set -euo pipefail; "$1" "$domain" 2>&1 | sed -u "s/^/$domain | /") &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job" || status=$?; done
  return "$status"
}

teacher_of() { # DOMAIN: its checkpoint and the layer whose states become tokens
  local layer="$1_layer"
  if [[ -z "$audio_teacher" ]]; then
    echo "spear:$exp_dir/teacher_$1@${!layer}"
  elif [[ "$1" == speech ]]; then
    # No cut is longer than 6 s, and positions for 30 s would cost several times as much.
    echo "whisper:${SPEAR_TEACHERS:-$HOME/.cache/spear/teachers}/$(installed_name speech)@${!layer},window_seconds=10"
  else
    echo "$audio_teacher@${!layer}"
  fi
}

installed_name() { # DOMAIN: what spear teachers calls its pre-trained teacher
  if [[ "$1" == speech ]]; then echo whisper-tiny.en; else echo "$audio_teacher"; fi
}
