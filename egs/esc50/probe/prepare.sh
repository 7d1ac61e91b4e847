#!/usr/bin/env bash
# Prepares ESC-50: stage 0 environment, 1 a link to the corpus.
#
#   DATA_ROOT=/corpora/ESC-50-master ./prepare.sh   # holds meta/esc50.csv and audio/; the folder above will do, too
#   ./prepare.sh --raw-dir DIR                      # the same
set -euo pipefail

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/superb_corpus.sh"
. "$here/shared/parse_options.sh"

make_manifests() {
  renew "$data_dir/corpora"
  spear evaluate prepare esc50 --raw "$raw_dir" --data-dir "$data_dir"
}

prepare_superb esc50 "downloads nothing: expects meta/esc50.csv and audio/ in RAW_DIR" "links the corpus; seconds"
