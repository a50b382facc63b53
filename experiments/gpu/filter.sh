#!/bin/sh
# Filter quality with a causal LM's states, on the GPU of this machine: sh experiments/gpu/filter.sh MODEL DATA OUT
# MODEL: a folder; DATA: the folder of public data sets; OUT gets filter.json, tables.md and logs. Environment: SEEDS (5),
# FIRST (3), LAYER (15), METHODS, CASES (groups of cases, one process each). Fetches nothing.
set -u
root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
model=${1:?usage: filter.sh MODEL DATA OUT} data=${2:?DATA} out=${3:?OUT}
python=${PYTHON:-python3}
work=$(mktemp -d)
PYTHONPATH="$root/src:$root/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
if ! "$python" -c 'from importlib.metadata import version; version("sotune")' 2>/dev/null; then
  # The version is read from the metadata of the installed package: where it is not installed, say it here.
  mkdir -p "$work/stub/sotune-0.1.0.dist-info"
  printf 'Metadata-Version: 2.1\nName: sotune\nVersion: 0.1.0\n' >"$work/stub/sotune-0.1.0.dist-info/METADATA"
  PYTHONPATH="$PYTHONPATH:$work/stub"
fi
export PYTHONPATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=true OMP_NUM_THREADS=2
mkdir -p "$out"
cases=${CASES:-"A B C D E risky,same_prompt,foreign refusals,lat_pairs mixed_service"}
files="alpaca_random9k mix_alpaca_lat05,salora_llama2_refusals_1015,advbench_520,harmbench_400,shadow_alignment_100
pku_saferlhf_test,lat_refusals_948 safetytuned_refusals_2483,datashield_pairs_97,alpacaeval_gpt4_700,openorca_284,larf_anchor_refusal_100,beavertails_unsafe_200"
methods=${METHODS:-adaptive,prompt_only,probe,self_trained_probe,kernel_density_ratio,mean_cosine,ceiling}
common="--model $model --layer ${LAYER:-15} --data $data --cache $work/cache --seeds ${SEEDS:-5} --first ${FIRST:-3} --methods $methods"
started=$(date +%s)
say() { echo "[$(($(date +%s) - started)) s] $*"; }
cd "$root/benchmarks" || exit 1
number=0 running=
for group in $files; do
  number=$((number + 1))
  "$python" filter.py $common --encode "$group" >"$out/encode$number.log" 2>&1 &
  running="$running $!"
done
for process in $running; do wait "$process" || { say "reading FAILED"; tail -n 5 "$out"/encode*.log; exit 1; }; done
cat "$out"/encode*.log | tr '\r' '\n' | grep -v of >"$out/encode.log"; rm -f "$out"/encode?.log
say "all rows are read"
number=0 running=
for group in $cases; do
  number=$((number + 1))
  "$python" filter.py $common --cases "$group" --json "$work/$number.json" >"$work/$number.log" 2>&1 &
  running="$running $!"
done
for process in $running; do wait "$process" || say "a group FAILED"; done
cat "$work"/*.log >"$out/filter.log"
"$python" - "$out" "$work"/*.json <<'P'
import json, sys
from pathlib import Path
from filter import Result, print_table
results = [one for name in sys.argv[2:] for one in json.loads(Path(name).read_text())]
Path(sys.argv[1], "filter.json").write_text(json.dumps(results, indent=1) + "\n")
order = list(dict.fromkeys(one["method"] for one in results))
print_table(sorted((Result(**one) for one in results), key=lambda one: order.index(one.method)))
P
say "done"
rm -rf "$work"
