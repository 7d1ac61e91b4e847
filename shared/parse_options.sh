# Command-line options for Bash scripts, with Kaldi's semantics. Give every option its default as a lower-case variable
# at the beginning of a line, then source this file, which reads the script's own arguments:
#
#   stage=0
#   audio_dir=
#   . "$here/shared/parse_options.sh"
#
# --audio-dir DIR, --audio_dir DIR and --audio-dir=DIR then set $audio_dir. Only variables assigned in the script above
# the line that sources this file are options (not $here and $root); others are refused. An option whose default is
# true or false takes one of these, and means true when it stands alone; one whose default is a number takes a number;
# one whose default is an empty array, (), may be given several times.
# --config FILE is sourced first, so that options win over it. --help prints the comment at the head of the script.
# Arguments that remain are in $@.

_options_script="${BASH_SOURCE[1]}"
_options_known="$({
  sed -n -e '/^\. .*parse_options\.sh/q' -e '/^source .*parse_options\.sh/q' \
    -e 's/^\([a-z][a-z0-9_]*\)=.*/\1/p' "$_options_script"
  # A file of options common to several scripts says where it is.
  if [[ -n "${_options_also:-}" ]]; then sed -n 's/^\([a-z][a-z0-9_]*\)=.*/\1/p' "$_options_also"; fi
} | grep -vxE 'here|root' | sort -u)"

_options_fail() {
  {
    echo "error"
    echo "  found: $1"
    echo "  expected: $2"
    echo "  to fix: $3"
  } >&2
  exit 1
}

_options_list() { tr '_' '-' <<<"$_options_known" | sed 's/^/--/' | paste -sd ' ' -; }

_options_set() { # NAME VALUE FLAG; sets the variable after checking the kind of its default
  if [[ "$(declare -p "$1")" == "declare -a"* ]]; then
    local -n array="$1"
    array+=("$2")
    return
  fi
  local default="${!1}"
  case "$default" in
    true | false)
      [[ "$2" == true || "$2" == false ]] ||
        _options_fail "$3 $2" "true or false" "give one of them, or nothing for true"
      ;;
    [0-9]* | -[0-9]*)
      # Bash calculates with these: 08 would be a wrong octal number, and more digits than 18 another number.
      if [[ "$default" =~ ^-?[0-9]+$ && ! "$2" =~ ^-?(0|[1-9][0-9]{0,17})$ ]]; then
        _options_fail "$3 $2" "a whole number such as $default" "correct the value"
      fi
      ;;
  esac
  printf -v "$1" '%s' "$2"
}

_options_last=
for _options_word in "$@"; do
  [[ "$_options_last" != --config ]] || _options_word="--config=$_options_word"
  if [[ "$_options_word" == --config=* ]]; then
    [[ -r "${_options_word#*=}" ]] || _options_fail "--config ${_options_word#*=}" "a readable file" "correct the path"
    # shellcheck disable=SC1090
    . "${_options_word#*=}"
  fi
  _options_last="$_options_word"
done

while [[ $# -gt 0 ]]; do
  case "$1" in
    --help | -h)
      sed -n -e '1d' -e '/^#/!q' -e 's/^# \{0,1\}//p' "$_options_script"
      echo
      echo "Options and defaults:"
      for _options_name in $_options_known; do
        printf '  --%s %s\n' "${_options_name//_/-}" "${!_options_name-}"
      done
      exit 0
      ;;
    --config | --config=*)
      [[ "$1" == --config ]] && shift
      shift
      ;;
    --)
      shift
      break
      ;;
    --*)
      _options_flag="${1%%=*}"
      _options_name="${_options_flag#--}"
      _options_name="${_options_name//-/_}"
      # As a word among words, since a name with line breaks or brackets would be more to grep and to printf.
      if [[ ! "$_options_name" =~ ^[a-z][a-z0-9_]*$ || " ${_options_known//$'\n'/ } " != *" $_options_name "* ]]; then
        _options_fail "the option $_options_flag" "one of $(_options_list)" "see $(basename "$_options_script") --help"
      fi
      if [[ "$1" == *=* ]]; then
        _options_set "$_options_name" "${1#*=}" "$_options_flag"
      elif [[ "${!_options_name-}" =~ ^(true|false)$ && ( $# -eq 1 || "$2" == --* ) ]]; then
        _options_set "$_options_name" true "$_options_flag"
      elif [[ $# -eq 1 ]]; then
        _options_fail "the option $_options_flag without a value" "$_options_flag VALUE" "add the value"
      else
        _options_set "$_options_name" "$2" "$_options_flag"
        shift
      fi
      shift
      ;;
    *) break ;;
  esac
done
