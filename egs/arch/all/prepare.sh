#!/usr/bin/env bash
# Prepares ARCH: stage 0 environment, 1 links to the corpora that are there.
#
#   DATA_ROOT=/corpora ./prepare.sh   # holds folders of the corpora, as they are distributed, up to two levels down
#   ./prepare.sh --raw-dir DIR        # the same
set -euo pipefail

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/superb_corpus.sh"
. "$here/shared/parse_options.sh"

make_manifests() {
  renew "$data_dir/corpora"
  spear evaluate prepare arch --raw "$raw_dir" --data-dir "$data_dir"
}

prepare_superb arch "downloads nothing: expects folders of the corpora in RAW_DIR" "links the corpora; seconds"
