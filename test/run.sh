#!/usr/bin/env bash
# All checks and tests; sets itself up on a machine with nothing but Python >= 3.10.
#
#   test/run.sh                          # everything
#   test/run.sh --slow false             # without the tests marked slow
#   test/run.sh --select unit/audio      # pytest of a part of test/
#   test/run.sh --num-threads 2
#   test/run.sh --device cuda            # golden numbers on a GPU; tests of the GPU itself run wherever there is one
set -euo pipefail

slow=true
select=
num_threads=1
timeout_seconds=600
device=cpu

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$root/shared/parse_options.sh"
. "$root/shared/setup_environment.sh"
setup_environment "$root/test/requirements.txt" "$root/test/requirements-no-deps.txt"
cd "$root"

# One thread for each process: the tests start processes of their own, and more threads than cores is slow and flaky.
export OMP_NUM_THREADS="$num_threads" MKL_NUM_THREADS="$num_threads"
export SPEAR_TEST_DEVICE="$device"
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
python -m pytest "${words[@]}"
echo "== all passed in $SECONDS s"
