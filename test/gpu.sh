#!/usr/bin/env bash
# What only a GPU can show, in less than ten minutes: golden numbers on it, the tests that need one, rates of the main paths.
#
#   test/gpu.sh --output DIR            # a log of each step in DIR, and DIR/summary.txt
#   test/gpu.sh --limit-seconds 540     # steps that would begin later are left out, by name
#
# It installs nothing: the environment is the one that is active. What fails does not stop what comes after it; the exit
# code is the number of steps that failed.
set -euo pipefail
set +e  # a step that fails does not stop the others

output=gpu-results
limit_seconds=540

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$root/shared/parse_options.sh"
mkdir -p "$output"
output="$(cd "$output" && pwd)"
cd "$root"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" SPEAR_TEST_DEVICE=cuda OMP_NUM_THREADS=4
: >"$output/summary.txt"
failed=0

step() { # NAME SECONDS COMMAND...
  local name="$1" seconds="$2" begin="$SECONDS" state=passed
  shift 2
  if ((SECONDS + 20 > limit_seconds)); then
    state="left out: $limit_seconds s are over"
  elif ! timeout "$seconds" "$@" >"$output/$name.log" 2>&1; then
    state=FAILED
    failed=$((failed + 1))
  fi
  printf '%-12s %5d s  %s\n' "$name" "$((SECONDS - begin))" "$state" | tee -a "$output/summary.txt"
}

spear() { python -m spear.bin.main "$@"; }
tests() { python -m pytest -q -p no:cacheprovider "$@"; }
export -f spear tests

step device 60 python -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())'
step golden 120 bash -c 'tests test/golden'
step tests 150 bash -c 'tests test/unit/test_gpu.py test/unit/evaluate/test_heads_gpu.py test/resume/test_resume_on_gpu.py'
step train 120 bash -c 'spear bench train --device cuda --batches 40x15 --whats step,peer --precisions bf16'
step transducer 60 bash -c 'spear bench transducer --device cuda'
step evaluate 150 bash -c 'spear bench evaluate --device cuda --saving false'
step quantize 120 bash -c 'spear bench quantize --device cuda --sets mixture --methods ours --heldout-frames 8192'
exit "$failed"
