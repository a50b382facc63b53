"""What all parts share: the time that is left, the results file, clocks, and made-up rows and models."""

from __future__ import annotations

import json
import math
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = "results.json"

SHAPES: dict[str, dict[str, int]] = {
    "llama-3.1-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1024,
    },
}


@dataclass
class Bench:
    """One run of the script.

    Attributes:
        folder: Where results go.
        ends: When the script must be done, in seconds since 1970.
        tiny: Whether this is a rehearsal on a CPU.
        layers: Layers of the large model; fewer than 32 are said so in the results.
    """

    folder: Path
    ends: float
    tiny: bool
    layers: int

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.ends - time.time()

    @property
    def device(self) -> str:
        """Where work is done."""
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def note(self, part: str, **values: Any) -> None:
        """Adds values to a part's results and writes the file at once."""
        results = self.results()
        results.setdefault(part, {}).update(values)
        partial = self.folder / f".{RESULTS}.partial"
        partial.write_text(json.dumps(results, indent=1, default=str) + "\n")
        os.replace(partial, self.folder / RESULTS)
        print(f"[{self.left:5.0f} s left] {part}: {_short(values)}", flush=True)

    def results(self) -> dict[str, Any]:
        """Returns all that was noted so far."""
        path = self.folder / RESULTS
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def attempt(self, part: str, name: str, work: Callable[[], Any]) -> bool:
        """Notes what some work returns, or its traceback; returns whether it went well."""
        started = time.perf_counter()
        try:
            found = work()
        except Exception as error:  # noqa: BLE001 - one failure must not lose the rest
            self.note(part, **{name: failure(error)})
            if "out of memory" in str(error):
                free_memory()
            return False
        seconds = round(time.perf_counter() - started, 2)
        self.note(part, **{name: {"ok": True, "took": seconds, **(found if isinstance(found, dict) else {})}})
        return True


def failure(error: BaseException) -> dict[str, Any]:
    """Returns an error with its whole traceback."""
    return {
        "ok": False,
        "error": f"{type(error).__name__}: {error}"[:2000],
        "traceback": "".join(traceback.format_exception(error))[-12000:],
    }


def _short(values: Any) -> str:
    text = json.dumps(values, default=str)
    return text if len(text) < 400 else f"{text[:400]} …"


def synchronize() -> None:
    """Waits for the GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free_memory() -> None:
    """Gives back what the GPU holds for nothing."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Returns how many seconds some work takes, and what it returns."""
    synchronize()
    started = time.perf_counter()
    found = work()
    synchronize()
    return time.perf_counter() - started, found


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Fills a dictionary with the GPU's peak memory above what was held before, in GiB."""
    import torch

    found: dict[str, float] = {}
    if not torch.cuda.is_available():
        yield found
        return
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    yield found
    torch.cuda.synchronize()
    found["held_gib"] = round(before / 2**30, 3)
    found["peak_gib"] = round((torch.cuda.max_memory_allocated() - before) / 2**30, 3)


def spread(values: list[float]) -> dict[str, Any]:
    """Returns the median with all values."""
    return {"median": statistics.median(values), "all": [round(value, 4) for value in values]}


def lengths(n: int, *, median: int, longest: int, seed: int = 0) -> list[int]:
    """Draws lengths in tokens as instruction data has them: log-normal, from 16 to the longest."""
    from random import Random

    rng = Random(seed)
    return [min(longest, max(16, round(rng.lognormvariate(math.log(median), 0.6)))) for _ in range(n)]


def make_records(n: int, *, median: int, longest: int, seed: int = 0) -> list[Any]:
    """Makes records of words that the miniature's tokenizer knows; a third of each is prompt."""
    from random import Random

    from sotune.records import Record

    rng, words = Random(seed), sorted(word for word in miniature_tokenizer().get_vocab() if word.isalpha())
    records = []
    for i, length in enumerate(lengths(n, median=median, longest=longest, seed=seed)):
        content = rng.choices(words, k=max(4, length - 8))  # the template and the tokens at the ends are some eight
        cut = len(content) // 3
        records.append(Record.from_text(f"row-{i}", " ".join(content[:cut]), " ".join(content[cut:])))
    return records


def miniature_tokenizer() -> Any:
    """Returns the tokenizer of the miniature, whose tokens are words."""
    from sotune.miniature import model_path
    from sotune.models import ModelSpec, load_tokenizer

    return load_tokenizer(ModelSpec(str(model_path())))


def make_model_folder(bench: Bench, *, n_layers: int) -> Path:
    """Writes configuration and tokenizer of the large shape, without weights."""
    from transformers import LlamaConfig

    folder = Path(f"/tmp/sotune-speed-{os.getpid()}") / "model"
    shape = {**SHAPES["tiny" if bench.tiny else "llama-3.1-8b"], "num_hidden_layers": n_layers}
    LlamaConfig(
        **shape,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        dtype="bfloat16",
    ).save_pretrained(folder)
    tokenizer = miniature_tokenizer()
    tokenizer.model_max_length, tokenizer.padding_side = 8192, "right"
    tokenizer.save_pretrained(folder)
    return folder


def build_model(bench: Bench, folder: Path) -> Any:
    """Builds the model of random weights on the device itself, in bfloat16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder)
    with torch.device(bench.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.requires_grad_(False).eval()
