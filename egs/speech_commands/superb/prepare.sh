#!/usr/bin/env bash
# Prepares SUPERB KS on Speech Commands v0.01: stage 0 environment and data, 1 manifests.
#
#   DATA_ROOT=/corpora ./prepare.sh      # uses the corpus in $DATA_ROOT
#   ./prepare.sh --raw-dir DIR           # uses, or completes, the corpus in DIR
# Run it twice and the second run skips what is done; an interrupted download continues.
set -euo pipefail

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/superb_corpus.sh"
. "$here/shared/parse_options.sh"

prepare_superb speech_commands "downloads what RAW_DIR lacks: 1.6 GB, 5 GB while unpacking" \
  "reads the headers of 65,000 files; about 2 minutes"
