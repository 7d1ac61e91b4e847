#!/usr/bin/env bash
# Prepares HEAR 2021: stage 0 environment, 1 the tasks that are there.
#
#   DATA_ROOT=/corpora/hear ./prepare.sh   # the archives of tasks at 48 kHz, or their unpacked folders, in any place
#   ./prepare.sh --raw-dir DIR             # the same
# Tasks that are not there are left out; recordings that are not there are counted. Unpacking needs as much disk again.
set -euo pipefail

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/superb_corpus.sh"
. "$here/shared/parse_options.sh"

make_manifests() {
  renew "$data_dir/tasks"
  spear evaluate prepare hear --raw "$raw_dir" --data-dir "$data_dir"
}

prepare_superb hear "downloads nothing: expects the archives of the tasks, or their folders, in RAW_DIR" \
  "unpacks archives beside the links in data/tasks; minutes"
