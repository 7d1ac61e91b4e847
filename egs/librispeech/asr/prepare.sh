#!/usr/bin/env bash
# Prepares LibriSpeech for fine-tuning of recognisers: 100 h or 960 h, dev, test-clean and test-other.
#
#   ./prepare.sh --librispeech-dir DIR                        # 100 h: train-clean-100
#   ./prepare.sh --librispeech-dir DIR --hours 960 --musan-dir DIR
# Stages: 0 environment and data, 1 manifests, 2 parts. A second run skips what is done; an interrupted one goes on.
set -euo pipefail

here="$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
. "$here/shared/corpora_options.sh"

stop_stage=2
librispeech_dir=
musan_dir=
download=false
hours=100

. "$here/shared/parse_options.sh"
. "$here/shared/finetune_corpora.sh"

make_parts() {
  part train cuts_librispeech_train "$(if [[ "$hours" == 960 ]]; then echo /train-; else echo /train-clean-100/; fi)"
  part dev cuts_librispeech_heldout /dev-clean/ /dev-other/
  part test_clean cuts_librispeech_heldout /test-clean/
  part test_other cuts_librispeech_heldout /test-other/
}

[[ "$hours" == 100 || "$hours" == 960 ]] || _absent "--hours $hours" "100 or 960" "correct it"
prepare_finetuning "librispeech" "musan" "$hours"
