# Finds or makes the Python environment; source it, then call `setup_environment [requirements file...]`.
#
# An active virtual or conda environment is used; else .venv beside this directory, made with python3 (or, when that
# is older than 3.10, with the newest Python found). What is missing is installed there, once: a stamp keyed by the
# content of the requirements files says that it is done. Afterwards `python` and `spear` are those of the environment.

_environment_root="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && cd "$(pwd -P)/.." && pwd -P)"

_environment_python() { # prints a Python that is new enough
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
    if "$name" -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
      command -v "$name"
      return 0
    fi
  done
  return 1
}

_environment_fail() {
  printf 'error\n  found: %s\n  expected: %s\n  to fix: %s\n' "$1" "$2" "$3" >&2
  exit 1
}

# Python away from the current directory, whose files it would otherwise import: a folder may hold a re.py of anybody's.
_environment_run() { (cd / && python "$@"); }

_environment_lacks() { # prints the packages of the requirements files that are not installed
  _environment_run - "$@" <<'PYTHON'
import importlib.metadata, re, sys
for path in sys.argv[1:]:
    for line in open(path):
        name = re.match(r"[\w.-]+", line.split("#")[0].strip())
        try:
            name and importlib.metadata.version(name.group(0))
        except importlib.metadata.PackageNotFoundError:
            print(name.group(0))
PYTHON
}

_environment_spear() { # prints the directory of the package spear as installed, if it is
  _environment_run - <<'PYTHON'
import importlib.util, os
found = importlib.util.find_spec("spear")
print(os.path.realpath(list(found.submodule_search_locations)[0]) if found else "")
PYTHON
}

_environment_compile() { # bytecode of what the recipes import, a fifth of all that pip would make
  (unset PYTHONDONTWRITEBYTECODE && _environment_run -) <<'PYTHON' >/dev/null 2>&1 || true
import importlib, pkgutil
import matplotlib.pyplot, sentencepiece, torch.distributed.run, torch.utils.tensorboard
import spear.bin, spear.evaluate.run, spear.train.main
for module in pkgutil.iter_modules(spear.bin.__path__, "spear.bin."):
    importlib.import_module(module.name)
PYTHON
}

_environment_install() { # pip, once more after a pause: registries have bad minutes
  _environment_run -m pip install -qq "$@" || { sleep 5 && _environment_run -m pip install -qq "$@"; }
}

setup_environment() {
  local root="$_environment_root" files=() file prefix stamp lacks python begin=$SECONDS
  for file in "$root/requirements.txt" "$@"; do
    if [[ "$file" != /* ]]; then file="$PWD/$file"; fi
    if [[ -f "$file" ]]; then files+=("$file"); fi
  done
  if [[ ! -f "$root/setup.py" || ! -f "$root/spear/__init__.py" ]]; then # a recipe elsewhere: with an installed spear
    _environment_run -c 'import spear' 2>/dev/null || _environment_fail \
      "no installed package 'spear'" "it, for a recipe outside the repository" "pip install /path/to/the/repository"
    return 0
  fi
  prefix="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
  if [[ -z "$prefix" ]]; then
    prefix="$root/.venv"
    if ! "$prefix/bin/python" -m pip --version >/dev/null 2>&1; then
      python="$(_environment_python)" || _environment_fail "no Python of version 3.10 or later" \
        "one, with the module venv" "install python3 and python3-venv (or conda, and activate an environment)"
      echo "making $prefix with $("$python" --version)"
      rm -rf "$prefix"
      "$python" -m venv "$prefix" || _environment_fail "'$python -m venv' fails" "a Python with venv and pip" \
        "install the package python3-venv, or activate an environment of your own"
    fi
    # shellcheck disable=SC1091
    . "$prefix/bin/activate"
  fi
  _environment_run -c 'import sys; sys.exit(sys.version_info < (3, 10))' || _environment_fail \
    "$(python --version) in $prefix" "Python 3.10 or later" "deactivate that environment, or make it anew"
  stamp="$prefix/.spear-$(cat "${files[@]}" "$root/setup.py" | cksum | cut -d ' ' -f 1)"
  lacks=" $([[ -e "$stamp" ]] || _environment_lacks "${files[@]}" | paste -sd ' ' -) "
  if [[ -n "${lacks// /}" ]]; then
    echo "installing Python packages into $prefix:$lacks"
    if [[ "$lacks" == *" torch "* ]]; then
      _environment_install --no-compile "$(grep '^torch==' "$root/requirements.txt")"
    fi
    for file in "${files[@]}"; do # what X-no-deps.txt lists comes without the packages it asks for
      if [[ "$file" == *-no-deps.txt ]]; then
        _environment_install --no-deps -r "$file"
      elif [[ "$file" == "$root/requirements.txt" ]]; then
        _environment_install --no-compile -r "$file"
      else
        _environment_install -r "$file"
      fi
    done
  fi
  python="$(_environment_spear)"
  if [[ -z "$python" ]]; then
    _environment_install --no-deps --no-build-isolation -e "$root"
  elif [[ "$python" != "$root/spear" ]]; then
    # The environment belongs to another checkout; run this one's code, and leave that installation as it is.
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
  fi
  if [[ -e "$stamp" ]]; then return 0; fi
  if [[ -n "${lacks// /}" ]]; then _environment_compile; fi
  touch "$stamp" 2>/dev/null || true # an environment that belongs to somebody else is checked again next time
  echo "environment ready after $((SECONDS - begin)) s: $prefix"
}
