#!/usr/bin/env bash
# Prepares SUPERB PR and ASR on LibriSpeech: stage 0 environment and data, 1 manifests.
#
#   DATA_ROOT=/corpora ./prepare.sh      # uses the corpus in $DATA_ROOT (which holds LibriSpeech/)
#   ./prepare.sh --raw-dir DIR           # uses, or completes, the corpus in DIR
#   ./prepare.sh --lexicon A --lexicon B # words to phones, looked up in this order, in place of librispeech-lexicon.txt
# Published numbers of PR come from two lexicons, of the 200,000 words of the language model and of all others, whose
# pronunciations a grapheme-to-phoneme model made: librispeech-lexicon-200k-g2p.txt and
# librispeech-lexicon-allothers-g2p.txt, in s3prl/downstream/ctc/lexicon of github.com/s3prl/s3prl.
# Run it twice and the second run skips what is done; an interrupted download continues.
set -euo pipefail

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
lexicon=()
. "$here/shared/superb_corpus.sh"
. "$here/shared/parse_options.sh"

lexicon_options=()
for file in ${lexicon[@]+"${lexicon[@]}"}; do lexicon_options+=(--lexicon "$(realpath -- "$file")"); done

prepare_superb librispeech "downloads what RAW_DIR lacks: 7 GB, 21 GB while unpacking" \
  "reads the headers of 34,000 files; about 2 minutes" ${lexicon_options[@]+"${lexicon_options[@]}"}
