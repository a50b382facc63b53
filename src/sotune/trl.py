"""TRL's SFTTrainer with a weight for each row: kept.jsonl as a run wrote it, and the loss of Eq. 8.

TRL reads no weights: a column of them vanishes without a word, its collator drops what it does not know, and its loss
counts tokens, not rows. `WeightedSFTTrainer` overrides the few methods that do so, and raises where TRL no longer does
what they rely on. Needs ``pip install 'sotune[trl]'``.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from sotune.artifacts import MARKER, RunFolder
from sotune.errors import ArtifactError, ConfigError, DataError
from sotune.freshness import stale_stages
from sotune.models import ModelSpec, load_config, load_tokenizer
from sotune.pipeline import run_config
from sotune.pipeline.record_sets import downstream_options
from sotune.rendering import make_renderer
from sotune.run_files import KEPT
from sotune.settings import RenderingSettings
from sotune.sources import SourceOptions, load_set
from sotune.sources.options import DEFAULT_SPLIT
from sotune.training.loss import IGNORE_INDEX, shift_labels
from sotune.training.row_weights import RowWeights
from sotune.training.training_rows import LOSS_WEIGHT, build_training_rows
from sotune.wording import counted

try:
    import trl
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
except ImportError as error:
    raise ImportError(f"sotune.trl needs TRL: pip install 'sotune[trl]' ({error})") from error

Rows: TypeAlias = str | PathLike[str] | Any
"""A file of rows, such as a run's kept.jsonl, or a data set with the same columns."""

_OWN = {
    "packing": False,
    "eval_packing": None,
    "padding_free": False,
    "assistant_only_loss": False,
    "completion_only_loss": None,
    "loss_type": "nll",
    "label_smoothing_factor": 0.0,
    "chat_template_path": None,
    "eos_token": None,
    "dataset_kwargs": None,
}
"""Settings of SFTConfig that would undo the weights or the masks, and the one value of each that does not."""
_READY = ("input_ids", "labels", LOSS_WEIGHT)


class WeightedSFTTrainer(RowWeights, SFTTrainer):  # type: ignore[misc]  # TRL comes without types
    """Trains with TRL on rows that each have a weight.

    Rows are read, rendered and masked as `sotune train` does it: the formats of docs/data.md, the learned turns alone.
    Of a run's own ``kept.jsonl`` the run says how. The loss of an optimizer step is the mean over its rows, whatever
    the accumulation steps and the processes, of weight times mean token loss (Eq. 8).

    Args:
        model: As SFTTrainer's.
        args: As SFTTrainer's. Longer rows than its ``max_length`` are cut as by ``sotune train``.
        train_dataset: The rows: ``runs/first/kept.jsonl``, or a data set of such rows; or rows that have ``input_ids``,
            ``labels`` and ``loss_weight`` already.
        eval_dataset: Rows likewise; they count alike where they have no weight.
        processing_class: The tokenizer; by default the model's.
        weight_column: The column that holds the weights; by default what the run says, else ``weight``.
        normalize: ``rows`` is Eq. 8, where a row counts by its weight alone; ``tokens`` divides by all tokens of the
            step, as TRL does, so that a row counts by its weight and its length.
        **kwargs: As SFTTrainer's.

    Raises:
        ConfigError: A setting would undo the weights, or this version of TRL no longer does what they rely on.
        DataError: Rows have no weights, or cannot be read.
        ArtifactError: The rows are those of a run that has been weighed again since they were selected.
    """

    remedy = "give the rows to the trainer when it is made, which reads their weights"

    def __init__(
        self,
        model: Any,
        args: SFTConfig | None = None,
        *,
        train_dataset: Rows,
        eval_dataset: Rows | None = None,
        processing_class: Any = None,
        weight_column: str | None = None,
        normalize: Literal["rows", "tokens"] = "rows",
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else SFTConfig()
        _check_settings(args, kwargs, normalize)
        self.counts_rows, self._checked = normalize == "rows", False
        if self.counts_rows:
            self.loss_is_scaled_for_ga = True  # whatever the model takes: the rows of the whole step are counted here
        reader = _Reader(model, args, processing_class, weight_column)
        super().__init__(
            model,
            args,
            train_dataset=reader.tokenized(train_dataset, weighted=True),
            eval_dataset=None if eval_dataset is None else reader.tokenized(eval_dataset, weighted=False),
            processing_class=reader.tokenizer,
            **kwargs,
        )
        self.require_whole_rows()
        if missing := [name for name in _READY if name not in self.train_dataset.column_names]:
            raise _moved(f"its preparation of rows dropped {', '.join(missing)}")
        self.data_collator: Any = _KeepingWeights(self.data_collator)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Computes TRL's loss of a micro-batch with each token's log-probability times what its row counts."""
        inputs = dict(inputs)
        self.require_weights(inputs)
        scale = self._scale(inputs.pop(LOSS_WEIGHT), inputs["labels"], in_step=num_items_in_batch is not None)
        weighing = _Weighing(model, scale)
        found = super().compute_loss(weighing, inputs, return_outputs, num_items_in_batch)
        if not self._checked:
            self._check_loss(found[0] if return_outputs else found, weighing, num_items_in_batch)
        return found

    def _scale(self, weight: Tensor, labels: Tensor, *, in_step: bool) -> Tensor:
        """Returns by what each row's log-probabilities are multiplied ``[rows]``, before TRL divides their sum.

        In a training step it divides by the rows of the whole step; outside of one, by the tokens of the batch.
        """
        if not self.counts_rows:
            return weight
        n_tokens = (shift_labels(labels) != IGNORE_INDEX).sum(dim=1)
        per_row = weight / n_tokens.clamp(min=1)
        return per_row if in_step else per_row * n_tokens.sum() / len(labels)

    def _check_loss(self, loss: Tensor, weighing: _Weighing, n_items: Tensor | int | None) -> None:
        """Raises a ConfigError where the loss does not follow from the weighed log-probabilities."""
        if weighing.total is None:
            raise _moved("its loss no longer comes from the fused head's log_probs")
        if self.aux_loss_enabled:  # the experts' own loss is added to it
            return
        expected = weighing.total / (weighing.n_tokens if n_items is None else n_items)
        if n_items is not None and self.args.average_tokens_across_devices:
            expected = expected * self.accelerator.num_processes
        if not torch.isclose(loss.detach().float(), expected.float(), rtol=1e-2, atol=1e-6, equal_nan=True):
            raise _moved(
                f"the loss of the first batch is {float(loss.detach()):.6g}, and by its weights {float(expected):.6g}"
            )
        self._checked = True


class _Weighing:
    """A model whose fused head gives log-probabilities times a factor for each row."""

    def __init__(self, model: Any, scale: Tensor) -> None:
        self._model, self._scale = model, scale
        self.total: Tensor | None = None
        self.n_tokens: Tensor | int = 0

    def __call__(self, **inputs: Any) -> Any:
        outputs = self._model(**inputs)
        if not inputs.get("fused_lm_head"):
            return outputs
        log_probs = getattr(outputs, "log_probs", None)
        if log_probs is None or log_probs.ndim != 2 or len(log_probs) != len(self._scale):
            raise _moved("its fused head no longer gives log_probs of [rows, tokens]")
        outputs.log_probs = log_probs * self._scale.to(log_probs)[:, None]
        self.total, self.n_tokens = -outputs.log_probs.detach().sum(), outputs.label_mask.sum()
        return outputs


@dataclass(frozen=True)
class _KeepingWeights:
    """A collator of TRL's, with the rows' weights beside what it makes."""

    collate: Any

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if any(LOSS_WEIGHT not in example for example in examples):
            raise DataError(f"a row has no {LOSS_WEIGHT}; give the rows to the trainer when it is made")
        rest = [{name: value for name, value in one.items() if name != LOSS_WEIGHT} for one in examples]
        weights = [float(example[LOSS_WEIGHT]) for example in examples]
        return {**self.collate(rest), LOSS_WEIGHT: torch.tensor(weights, dtype=torch.float32)}


class _Reader:
    """Reads rows with the tokenizer of a trainer, masked as by ``sotune train``."""

    def __init__(self, model: Any, args: SFTConfig, tokenizer: Any, weight_column: str | None) -> None:
        spec = ModelSpec(model, (args.model_init_kwargs or {}).get("revision")) if isinstance(model, str) else None
        found = spec or ModelSpec(model.config._name_or_path)
        self.tokenizer = tokenizer if tokenizer is not None else load_tokenizer(found)
        self._config = load_config(spec) if spec else model.config
        self._max_length, self._weight_column = args.max_length, weight_column

    def tokenized(self, source: Rows, *, weighted: bool) -> Dataset:
        """Returns rows of ``input_ids``, ``labels`` and ``loss_weight``."""
        if isinstance(source, Dataset):
            if set(_READY) <= set(source.column_names):
                return source.select_columns(list(_READY))
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "rows.jsonl")
                source.to_json(path)
                return self._read(path, SourceOptions(), RenderingSettings(), self._weight_column, weighted=weighted)
        if not isinstance(source, str | PathLike):
            raise DataError(f"rows must be a file or a datasets.Dataset. Got {type(source).__name__}")
        path = Path(source)
        if path.name == KEPT.name and path.with_name(MARKER).exists():
            run = RunFolder.open(path.parent)
            if (said := stale_stages(run).get("selection")) is not None:
                raise ArtifactError(said)
            config = run_config(run)
            # The kept rows are a file of their own: what chose rows among others has done so.
            options = replace(downstream_options(config), where=(), limit=None, split=DEFAULT_SPLIT, subset=None)
            column = self._weight_column or config.weight_column
            return self._read(path, options, config.part(RenderingSettings), column, weighted=weighted)
        return self._read(path, SourceOptions(), RenderingSettings(), self._weight_column, weighted=weighted)

    def _read(
        self,
        path: Path,
        options: SourceOptions,
        rendering: RenderingSettings,
        weight_column: str | None,
        *,
        weighted: bool,
    ) -> Dataset:
        left_out = "leave them out"
        loaded = load_set(path, set_name="downstream", options=options, max_quarantine_fraction=0.0, remedy=left_out)
        column = weight_column or "weight"
        lacking = [record.origin for record in loaded.records if not _is_number(record.meta.get(column))]
        if weighted and lacking:
            raise DataError(
                f"{len(lacking)} of {len(loaded.records)} rows have no number in the column {column!r}, the first at "
                f"{lacking[0]}; name the column that holds the weights with weight_column"
            )
        weights = {one.id: float(one.meta[column]) if weighted else 1.0 for one in loaded.records}
        renderer = make_renderer(self.tokenizer, self._config, rendering, max_length=self._max_length)
        rows = build_training_rows(loaded.records, weights, renderer)
        for id, reason in list(rows.dropped.items())[:1]:
            warnings.warn(f"{counted(len(rows.dropped), 'row')} not trained on, such as {id!r}: {reason}", stacklevel=4)
        return Dataset.from_list([{n: _plain(v) for n, v in row.features().items()} for row in rows.rows])


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_settings(args: SFTConfig, kwargs: Mapping[str, Any], normalize: str) -> None:
    """Raises a ConfigError where a setting would undo the weights, or where TRL no longer has one of them."""
    if normalize not in ("rows", "tokens"):
        raise ConfigError(f"normalize must be rows or tokens. Got {normalize!r}")
    for name, harmless in _OWN.items():
        if not hasattr(args, name):
            raise _moved(f"SFTConfig has no {name}")
        if getattr(args, name) != harmless:
            raise ConfigError(
                f"WeightedSFTTrainer reads, masks and weighs rows itself, and {name}={getattr(args, name)!r} would "
                f"undo that; leave it {harmless!r} (templates and tokens are set on the processing_class)"
            )
    taken = [name for name in ("compute_loss_func", "formatting_func", "data_collator") if kwargs.get(name) is not None]
    if taken:
        raise ConfigError(f"WeightedSFTTrainer has its own {' and '.join(taken)}; leave it out")


def _moved(what: str) -> ConfigError:
    return ConfigError(
        f"TRL {trl.__version__} is not as WeightedSFTTrainer knows it (written for 1.16): {what}. Install another "
        f"version of TRL, or train with `sotune train`"
    )
