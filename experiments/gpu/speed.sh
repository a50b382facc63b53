#!/bin/sh
# Measures sotune on the GPU of this machine: sh experiments/gpu/speed.sh OUT [--deadline SECONDS] [--tiny] ...
# Installs nothing and fetches nothing; packages beside Python's own are found by PYTHONPATH.
set -u
root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
out=${1:?usage: speed.sh OUT [options of speed.py]}
shift
python=${PYTHON:-python3}
PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$out"
if ! "$python" -c 'from importlib.metadata import version; version("sotune")' 2>/dev/null; then
  # The version is read from the metadata of the installed package: where it is not installed, say it here.
  stub=$(mktemp -d)
  mkdir "$stub/sotune-0.1.0.dist-info"
  printf 'Metadata-Version: 2.1\nName: sotune\nVersion: 0.1.0\n' >"$stub/sotune-0.1.0.dist-info/METADATA"
  PYTHONPATH="$PYTHONPATH:$stub"
fi
"$python" "$root/experiments/gpu/speed.py" --out "$out" "$@" 2>&1 | tee "$out/log.txt"
"$python" "$root/experiments/gpu/tables.py" "$out/results.json" >"$out/tables.md" && cat "$out/tables.md"
