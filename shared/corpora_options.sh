# Options of every recipe on corpora (see corpora.sh), with their defaults. Source it before parse_options.sh, which then
# takes them beside the script's own; what the script assigns afterwards is its own default.

_options_also="${BASH_SOURCE[0]}"

stage=0
stop_stage=5
data_dir=
max_frames=500000
max_seconds=200
unit_seconds=7200
refine_passes=5
structure=residual
max_bad_fraction=0.5
on_the_fly=true
decode=true
overwrite=false
executor=local
num_jobs=0
nproc_per_node=1
seed=42
dry_run=false
