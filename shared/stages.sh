# Numbered stages for prepare.sh scripts: titled, timed, logged, skipped when done, redone when their settings change.
#
#   . "$here/shared/stages.sh"
#   run_stage 1 "lhotse manifests" "reads data/raw; writes data/manifests; seconds" make_manifests "$raw" "$tasks_yaml"
#
# `make_manifests` is a function of the script; its commands stop at the first that fails. The words after it are the
# settings that the stage depends on (of files, the content). A finished stage leaves $stage_dir/stage-N.done, whose key
# covers its settings, its function and the key of the stage before: a rerun skips what is done, and a change redoes it
# and all that follows. A stage that was interrupted runs again; its commands skip the units they have finished. In the
# function, `set_aside PATH...` renames and then `renew PATH...` deletes what the stage made before with other settings.
# Uses $stage, $stop_stage, $dry_run and $stage_dir (where markers and logs go).

stage="${stage:-0}"
stop_stage="${stop_stage:-100}"
dry_run="${dry_run:-false}"

_stage_hash() {
  if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -c 1-16
}

_stage_key() { # NUMBER FUNCTION SETTING...
  local before="$stage_dir/stage-$(($1 - 1)).done" setting
  {
    declare -f "$2"
    shift 2
    for setting in "$@"; do
      if [[ -f "$setting" ]]; then cat <"$setting"; else printf '%s\n' "$setting"; fi
    done
    if [[ -f "$before" ]]; then head -n 1 "$before"; fi
  } | _stage_hash
}

# The last part of a directory's path as part of a file name. Teachers and streams of tokens are written as text with
# commas and equals signs, which a path of ours must therefore not bring in: a b=c -> a_b_c. Names in other scripts
# would all become the same, and one corpus be taken for another: they carry a checksum.
safe_name() { # DIR
  local name="${1%/}"
  name="${name##*/}"
  printf '%s' "$name" | LC_ALL=C tr -c 'A-Za-z0-9._-' '_'
  if LC_ALL=C grep -q '[^ -~]' <<<"$name"; then printf '%s' "$name" | cksum | cut -d ' ' -f 1; fi
}

_absent() { # FOUND EXPECTED FIX: stops with the three parts of an error
  printf 'error\n  found: %s\n  expected: %s\n  to fix: %s\n' "$1" "$2" "$3" >&2
  exit 1
}

# The absolute path of a directory; $CDPATH has no say in it.
absolute_dir() { # DIR
  (CDPATH= cd -- "$1" && pwd)
}

# split_words ARRAY TEXT: words of a text into an array; unlike an unquoted $TEXT, no file name is put in for [ * ?
split_words() {
  read -r -d '' -a "$1" <<<"$2" || true
}

# Words of a duration: 75 -> 1m15s
stage_seconds() {
  if (($1 >= 60)); then printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); else printf '%ds' "$1"; fi
}

_refuse_in_use() { # PATH: fails when a command writes to it, or below it, at this moment
  if [[ -d "$1" && -n "$(find "$1" -name '.lock*' -print -quit)" ]]; then
    (cd / && python - "$1") <<'PYTHON'
import sys
from spear import errors, locks
try:
    locks.refuse_if_held(sys.argv[1])
except errors.SpearError as error:
    sys.exit(f"error\n  {error}")
PYTHON
  fi
}

# set_aside PATH...: results with other settings that took long, such as a trained model, get a number as suffix.
set_aside() {
  local path number=1
  for path in "$@"; do
    if [[ "$_stage_changed" == true && -e "$path" ]]; then
      _refuse_in_use "$path"
      while [[ -e "$path.$number" ]]; do number=$((number + 1)); done
      echo "   settings or inputs have changed: $path is kept as $path.$number"
      mv -- "$path" "$path.$number"
    fi
  done
}

# renew PATH...: deletes results with other settings; what an interrupted run with these settings has made stays.
renew() {
  local path
  for path in "$@"; do
    if [[ "$_stage_changed" == true && -e "$path" ]]; then
      _refuse_in_use "$path"
      echo "   settings or inputs have changed: $path is made anew"
      rm -rf -- "$path"
    fi
  done
  echo "$_stage_key_now" >"$_stage_begun"
}

# run_stage NUMBER TITLE PROMISE FUNCTION [SETTING...]
run_stage() {
  local number="$1" title="$2" promise="$3" function="$4" begin=$SECONDS key marker log status
  shift 4
  ((number >= stage && number <= stop_stage)) || return 0
  marker="$stage_dir/stage-$number.done"
  log="$stage_dir/stage-$number.log"
  key="$(_stage_key "$number" "$function" "$@")"
  echo "== stage $number: $title"
  echo "   $promise"
  if [[ -f "$marker" && "$(head -n 1 "$marker")" == "$key" ]]; then
    echo "   done before with the same settings; to do it again, delete $marker"
    return 0
  fi
  if [[ "$dry_run" == true ]]; then
    echo "   dry run: nothing is done. The commands are:"
    declare -f "$function" | sed -e '1,2d' -e '$d' -e 's/^/     /'
    return 0
  fi
  mkdir -p "$stage_dir"
  _stage_changed=false _stage_key_now="$key" _stage_begun="$stage_dir/stage-$number.begun"
  if [[ -f "$_stage_begun" && "$(cat "$_stage_begun")" != "$key" ]]; then _stage_changed=true; fi
  rm -f "$marker"
  echo "# $(date '+%Y-%m-%d %H:%M:%S') stage $number: $title" >>"$log"
  set +e
  (
    set -euo pipefail
    "$function"
  ) 2>&1 | tee -a "$log"
  status=${PIPESTATUS[0]}
  set -e
  if ((status != 0)); then
    echo "== stage $number failed after $(stage_seconds $((SECONDS - begin)))" >&2
    echo "   its log is $log; continue with --stage $number" >&2
    exit "$status"
  fi
  printf '%s\n%s\n' "$key" "$(date '+%Y-%m-%d %H:%M:%S') in $((SECONDS - begin)) s: $*" >"$marker.tmp"
  mv "$marker.tmp" "$marker"
  echo "== stage $number done in $(stage_seconds $((SECONDS - begin)))"
}
