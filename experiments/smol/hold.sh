#!/bin/bash
# What holds, on the GPU of this machine, in a quarter of an hour: bash experiments/smol/hold.sh GGUF DATA OUT [SECONDS [tiny]]
# As gpu.sh, but one alignment (or the world that SOTUNE_CACHE names), refusal phrases as the judge, and the tables of
# hold.yaml and then hold_each.yaml.
export SMOL_TABLES="hold.yaml hold_each.yaml" SMOL_RECIPES=own SMOL_JUDGE=phrases
exec bash "$(dirname "$0")/gpu.sh" "$1" "$2" "$3" "${4:-780}" "${5:-}"
