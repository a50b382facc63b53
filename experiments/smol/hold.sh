#!/bin/bash
# What holds, on the GPU of this machine, in a quarter of an hour: bash experiments/smol/hold.sh GGUF DATA OUT [SECONDS [tiny]]
# As gpu.sh, but one alignment (or the world that SOTUNE_CACHE names), refusal phrases as the judge, and three tables: the default
# of hold.yaml and then its rivals of hold_rivals.yaml, and beside them the other holds of hold_each.yaml.
export SMOL_LANES=${SMOL_LANES:-12 hold.yaml hold_rivals.yaml;4 hold_each.yaml} SMOL_RECIPES=own SMOL_JUDGE=phrases SMOL_RESERVE=${SMOL_RESERVE:-35}
exec bash "$(dirname "$0")/gpu.sh" "$1" "$2" "$3" "${4:-780}" "${5:-}"
