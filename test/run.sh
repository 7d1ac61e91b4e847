#!/usr/bin/env bash
# All checks and tests; sets itself up on a machine with nothing but Python >= 3.10.
#
#   test/run.sh                          # everything
#   test/run.sh --slow false             # without the tests marked slow
#   test/run.sh --select unit/audio      # pytest of a part of test/
#   test/run.sh --num-processes 1        # 0, the default: one for each core, at most 4
#   test/run.sh --mutation-seconds 600   # damaged files of every kind for so long
#   test/run.sh --device cuda            # golden numbers on a GPU; tests of the GPU itself run wherever there is one
set -euo pipefail

slow=true
select=
num_threads=1
num_processes=0
timeout_seconds=600
mutation_seconds=60
device=cpu

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$root/shared/parse_options.sh"
. "$root/shared/setup_environment.sh"
setup_environment "$root/test/requirements.txt" "$root/test/requirements-no-deps.txt"
cd "$root"

# One thread for each process: the tests start processes of their own, and more threads than cores is slow and flaky.
export OMP_NUM_THREADS="$num_threads" MKL_NUM_THREADS="$num_threads"
export SPEAR_TEST_DEVICE="$device" SPEAR_MUTATION_SECONDS="$mutation_seconds"
unset PYTHONDONTWRITEBYTECODE # hundreds of processes import the same modules
export MPLCONFIGDIR="${MPLCONFIGDIR:-${TMPDIR:-/tmp}/spear-matplotlib-$(id -u)}"

echo "== format and lint"
ruff format --check .
ruff check .
echo "== syntax of shell scripts"
while IFS= read -r script; do bash -n "$script"; done < <(find . -name '*.sh' -not -path './.venv/*' -type f; echo .ci/run)
echo "== tests"
words=("test/$select" --durations 25 --timeout "$timeout_seconds")
if [[ "$slow" == false ]]; then words+=(-m "not slow"); fi
if ((num_processes == 0)); then
  num_processes="$(getconf _NPROCESSORS_ONLN)"
  if ((num_processes > 4)); then num_processes=4; fi
fi
# Each file in one process, for what its tests share; recipes come before units, so that the slow ones do not come last.
if ((num_processes > 1)); then words+=(-n "$num_processes" --dist loadfile --no-loadscope-reorder); fi
python -m pytest "${words[@]}"
echo "== all passed in $SECONDS s"
