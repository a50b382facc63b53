"""What runs of many sizes take on one device and on many, reckoned from measured rates; see docs/scaling.md.

    python benchmarks/scaling.py --gpu h100 --json sizes.json

Nothing is run: `sotune.scaling` multiplies. `--check` compares it with what was measured on the H100 of
`experiments/gpu/results`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from sotune.scaling import DEVICES, GIB, LLAMA_8B, Device, Needs, Workload, estimate_needs, training_bytes

ROWS = tuple(10**power for power in range(4, 10))
DEVICE_COUNTS = (1, 2, 4, 8, 16, 32, 64)
RESULTS = Path(__file__).parents[1] / "experiments" / "gpu" / "results" / "results.json"


def reckon(device: Device, *, epochs: float, tokens: float) -> list[Needs]:
    work = Workload(0, mean_tokens=tokens, row_bytes=4 * tokens, epochs=epochs)
    return [
        estimate_needs(replace(work, n_rows=n), LLAMA_8B, device, n_devices=count)
        for n in ROWS
        for count in DEVICE_COUNTS
    ]


def table(found: list[Needs], *, price: float) -> str:
    hours = ("encode", "weigh", "train", "evaluate", "all")
    columns = ["rows", "devices", *(f"{name} h" for name in hours), "GiB a device", "GiB RAM", "GiB disk", "cost"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for needs, (n, count) in zip(found, [(n, count) for n in ROWS for count in DEVICE_COUNTS], strict=True):
        took = {"all": needs.seconds, **{stage.stage: stage.seconds for stage in needs.stages}}
        figures = [took[name] / 3600 for name in hours]
        sizes = [needs.device_bytes, needs.ram_bytes, needs.disk_bytes]
        cells = [f"{figure:,.2f}" for figure in figures] + [f"{size / GIB:,.1f}" for size in sizes]
        lines.append(f"| {n:,} | {count} | {' | '.join(cells)} | {needs.seconds / 3600 * count * price:,.0f} |")
    return "\n".join(lines)


def check() -> str:
    """Compares with what was measured: extraction and training of the 8 B shape on one H100."""
    table7 = json.loads(RESULTS.read_text(encoding="utf-8"))["table7"]["estimate"]
    work = Workload(5_000, n_references=5_050, mean_tokens=table7["tokens_encoded"] / 10_050, n_readings=1)
    needs = {s.stage: s for s in estimate_needs(work, LLAMA_8B, DEVICES["h100"]).stages}
    trained = replace(work, kept=0.8, epochs=2, micro_batch=4)
    train = {s.stage: s for s in estimate_needs(trained, LLAMA_8B, DEVICES["h100"]).stages}["train"]
    peak = training_bytes(LLAMA_8B, tokens=2_048) - LLAMA_8B.weight_bytes
    rows = [
        ("encode 10,050 rows, s", needs["encode"].seconds, table7["encode_seconds_ours"]),
        ("weigh 5,000 rows, adaptive, s", needs["weigh"].seconds, table7["weigh_seconds_adaptive_5000"]),
        ("train 8,000 rows, 4 a batch, s", train.seconds, table7["train_seconds_batch_4_trainer"]),
        ("training, GiB above the weights, 2,048 tokens", peak / GIB, 11.7),
    ]
    head = ["| | reckoned | measured | factor |", "|---|---|---|---|"]
    return "\n".join([*head, *(f"| {name} | {a:,.2f} | {b:,.2f} | {a / b:.2f} |" for name, a, b in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", choices=DEVICES, default="h100")
    parser.add_argument("--tokens", type=float, default=190.0, help="mean tokens of a row")
    parser.add_argument("--epochs", type=float, default=1.0, help="passes over the kept rows")
    parser.add_argument("--price", type=float, default=2.5, help="of a device and hour")
    parser.add_argument("--check", action="store_true", help="compare with what was measured")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    options = parser.parse_args()
    if options.check:
        print(check())
        return
    found = reckon(DEVICES[options.gpu], epochs=options.epochs, tokens=options.tokens)
    print(table(found, price=options.price))
    if options.json is not None:
        rows = [
            {
                "devices": needs.n_devices,
                "seconds": {stage.stage: stage.seconds for stage in needs.stages},
                "device_bytes": needs.device_bytes,
                "ram_bytes": needs.ram_bytes,
                "disk_bytes": needs.disk_bytes,
            }
            for needs in found
        ]
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
