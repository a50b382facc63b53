"""Part 2: vectors of rows of mixed lengths by an 8 B shape: ours, the plain recipe, and packed tokens."""

from __future__ import annotations

import functools
from typing import Any

from bench import Bench, build_model, free_memory, lengths, make_model_folder, make_records, peak_memory, spread, timed

PART = "extraction"
MEDIAN, LONGEST = 160, 1024
_PLAIN_BATCH = 16


def run(bench: Bench) -> None:
    """Times the contestants in turn, round after round, until the share of time is spent."""
    folder = make_model_folder(bench, n_layers=4 if bench.tiny else bench.layers)
    seconds, model = timed(lambda: build_model(bench, folder))
    n_rows, rounds = (24, 2) if bench.tiny else (512, 3)
    records = make_records(n_rows, median=MEDIAN, longest=LONGEST)
    contest = _Contest(bench, folder, model, records)
    bench.note(
        PART,
        build_seconds=seconds,
        n_rows=n_rows,
        tokens=contest.n_tokens,
        median_length=MEDIAN,
        longest=LONGEST,
        layers=model.config.num_hidden_layers,
        dtype=str(model.dtype),
        device=bench.device,
        attention=model.config._attn_implementation,
        padding=_padding(contest),
    )
    contestants = {"ours": contest.ours, "plain": contest.plain, "packed": contest.packed}
    for name, work in contestants.items():
        bench.attempt(PART, f"warm_up_{name}", functools.partial(_nothing, work, 4 * _PLAIN_BATCH))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    peaks: dict[str, dict[str, float]] = {}
    for number in range(rounds):
        for name, work in contestants.items():
            if bench.left > 15:
                bench.attempt(PART, f"round_{number}_{name}", functools.partial(_round, work, times[name], peaks, name))
        bench.note(PART, contestants=_summary(contest, times, peaks))
    bench.attempt(PART, "prepare", contest.prepare)
    bench.attempt(PART, "agreement", contest.agreement)
    if bench.left > 20:
        bench.attempt(PART, "all_readings", contest.all_readings)
    del contest, model
    free_memory()


def _nothing(work: Any, limit: int) -> dict[str, Any]:
    work(limit)
    return {}


def _round(work: Any, times: list[float], peaks: dict[str, dict[str, float]], name: str) -> dict[str, Any]:
    with peak_memory() as memory:
        seconds, _ = timed(work)
    times.append(seconds)
    peaks[name] = memory
    return {"seconds": seconds}


def _summary(contest: _Contest, times: dict[str, list[float]], peaks: dict[str, dict[str, float]]) -> dict[str, Any]:
    return {
        name: {
            "seconds": spread(values),
            "tokens_per_second": round(contest.n_tokens / spread(values)["median"]),
            **peaks.get(name, {}),
        }
        for name, values in times.items()
        if values
    }


def _padding(contest: _Contest) -> dict[str, Any]:
    """Returns computed tokens over real ones: of ours here and at Table 7's 10,050 rows, and of the plain recipe."""
    import numpy as np

    from sotune.representations.encoder import PreparedTexts, plan_shards

    def ours(values: list[int]) -> float:
        n = len(values)
        keys = np.zeros((n, 32), np.uint8)
        keys[:, :4] = np.arange(n, dtype="<u4").view(np.uint8).reshape(n, 4)
        prepared = PreparedTexts(tuple(map(str, range(n))), keys, np.array(values), np.zeros(n, np.bool_), values)
        shards = plan_shards(prepared, batch_tokens=contest.encoder.batch_tokens, shard_rows=n)
        computed = sum(len(b) * max(values[int(row)] for row in b) for shard in shards for b in shard.batches)
        return round(float(computed) / sum(values), 4)

    starts = range(0, len(contest.lengths), _PLAIN_BATCH)
    batches = [contest.lengths[start : start + _PLAIN_BATCH] for start in starts]
    plain = sum(len(batch) * max(batch) for batch in batches) / contest.n_tokens
    table7 = lengths(10_050, median=MEDIAN, longest=LONGEST, seed=1)
    return {"ours": ours(contest.lengths), "plain": round(plain, 4), "ours_at_10050": ours(table7)}


class _Contest:
    """The ways to encode some records with one model that lies on the device already."""

    def __init__(self, bench: Bench, folder: Any, model: Any, records: list[Any]) -> None:
        from sotune.models import ModelSpec, load_tokenizer
        from sotune.rendering import render_paper
        from sotune.representations import CausalLMEncoder, FrozenCausalLM
        from sotune.settings import RenderingSettings

        spec = ModelSpec(str(folder), dtype="bfloat16", device=bench.device)
        self.frozen = FrozenCausalLM(spec, RenderingSettings(template="paper"), batch_tokens=8192)
        self.frozen.decoder = model.get_decoder()  # in place of the weights that the folder lacks
        self.encoder = CausalLMEncoder(self.frozen, layer=-1, pooling="last")
        self.model, self.records, self.bench = model, records, bench
        self.tokenizer = load_tokenizer(spec)
        self.texts = [render_paper(record.messages) for record in records]
        self.lengths = [len(ids) for ids in self.tokenizer(self.texts)["input_ids"]]
        self.n_tokens = sum(self.lengths)

    def ours(self, limit: int | None = None) -> Any:
        """Encodes by the package: rows sorted by length, 8,192 tokens a batch, tokenizing included."""
        return self.encoder.encode(self.records[:limit])

    def plain(self, limit: int | None = None) -> Any:
        """Encodes as scripts do: the whole model, 16 rows a batch in the data's order, all hidden states."""
        import torch

        vectors = []
        with torch.inference_mode():
            for start in range(0, len(self.texts[:limit]), _PLAIN_BATCH):
                batch = self.tokenizer(self.texts[start : start + _PLAIN_BATCH], padding=True, return_tensors="pt")
                batch = batch.to(self.bench.device)
                states = self.model(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
                ).hidden_states[-1]
                last = batch["attention_mask"].sum(dim=1) - 1
                vectors.append(states[torch.arange(len(last), device=last.device), last].float().cpu())
        return torch.cat(vectors)

    def packed(self, limit: int | None = None) -> Any:
        """Runs the decoder on as many tokens in full batches of rows of the median length: the floor."""
        import torch

        rows = 8192 // MEDIAN
        n_tokens = self.n_tokens if limit is None else sum(self.lengths[:limit])
        decoder, vectors = self.model.get_decoder(), []
        with torch.inference_mode():
            for start in range(0, n_tokens, rows * MEDIAN):
                k = min(rows, -(-(n_tokens - start) // MEDIAN))
                ids = torch.randint(3, 500, (k, MEDIAN), device=self.bench.device)
                states = decoder(input_ids=ids, use_cache=False).last_hidden_state
                vectors.append(states[:, -1].float().cpu())
        return torch.cat(vectors)

    def prepare(self) -> dict[str, Any]:
        """Times rendering, hashing and tokenizing, which `ours` includes."""
        seconds, _ = timed(lambda: self.encoder.prepare(self.records))
        return {"seconds": seconds}

    def agreement(self) -> dict[str, Any]:
        """Compares our vectors with the plain recipe's; batches differ, so that bfloat16 rounds otherwise."""
        import torch

        n = min(64, len(self.records))
        ours, plain = self.ours(n), self.plain(n)
        cosine = torch.nn.functional.cosine_similarity(ours, plain)
        return {"least_cosine": float(cosine.min()), "relative": float((ours - plain).norm() / plain.norm())}

    def all_readings(self) -> dict[str, Any]:
        """Times the pass from which layer and pooling are chosen: four layers, three poolings."""
        from sotune.representations import POOLINGS, CausalLMReadings, candidate_layers, encode_group

        group = CausalLMReadings(self.frozen, layers=candidate_layers(self.frozen.n_layers), poolings=POOLINGS)
        records = self.records[: len(self.records) // 2]
        seconds, _ = timed(lambda: encode_group(group, records))
        return {"seconds": seconds, "tokens_per_second": round(sum(self.lengths[: len(records)]) / seconds)}
