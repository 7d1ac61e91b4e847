#!/usr/bin/env bash
# Prepares SUPERB SID and ASV on VoxCeleb1: stage 0 environment and data, 1 manifests.
#
#   DATA_ROOT=/corpora ./prepare.sh      # uses the corpus in $DATA_ROOT (wav/, iden_split.txt, veri_test2.txt)
#   ./prepare.sh --raw-dir DIR           # uses, or completes, the corpus in DIR
# Run it twice and the second run skips what is done; an interrupted download continues.
set -euo pipefail

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/superb_corpus.sh"
. "$here/shared/parse_options.sh"

prepare_superb voxceleb "downloads nothing: VoxCeleb1 needs a form; expects wav/ and the lists in RAW_DIR" \
  "reads 350 h of recordings to find silence: half an hour of processor time"
