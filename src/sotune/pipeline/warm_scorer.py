"""A run loaded once, to weigh row after row that it has never seen."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from sotune.artifacts import RunFolder, contents_told
from sotune.errors import ArtifactError
from sotune.freshness import require_fresh
from sotune.pipeline.encoding import chosen_encoder, first_look_of, harm_score_of, reads_answers_alone
from sotune.pipeline.first_look import FirstLook
from sotune.pipeline.record_sets import read_records, source_options
from sotune.pipeline.unseen_rows import load_potentials, read_cut, run_config, score_rows
from sotune.pipeline.worst_views import HarmScore, read_worst
from sotune.records import Record
from sotune.sources import load_rows


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """What a run says of a row that it has never seen.

    Attributes:
        id: The row's own id, or a hash of what it says.
        weight: What it would have weighed in the run.
        relative_weight: The same, with the run's mean as 1.
        would_keep: Whether the run's selection would keep it.
        reason: That decision in words.
        unknown: Whether it is far from all references, so that its weight says little.
        unread: Whether some of what is learned of it was not read.
        pull_potential: Towards the anchor, in units of cost; lower is nearer.
        push_potential: Towards the harmful reference, likewise.
    """

    id: str
    weight: float
    relative_weight: float
    would_keep: bool
    reason: str
    unknown: bool
    unread: bool
    pull_potential: float
    push_potential: float


class Scorer:
    """Weighs new rows with a run's saved potentials; its model and its references stay in memory.

    Which rows are weighed together can move the last bits of a weight.
    """

    def __init__(self, run: str | PathLike[str]) -> None:
        """Loads a run.

        Args:
            run: A run, or the path of its folder.

        Raises:
            ArtifactError: The folder is no run, its weights or its selection are stale, or it has no potentials.
        """
        self._run = RunFolder.open(Path(run))
        require_fresh(self._run, "weights", "selection")
        self.config = run_config(self._run)
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        self._potentials = load_potentials(self._run, self.config)
        self._cut = read_cut(self._run)
        with contents_told(self._run.path):
            self._encoder = chosen_encoder(self.config, self._run)
        self._options = replace(source_options(self.config, "downstream"), where=(), limit=None)
        self._state = self._manifests()
        with contents_told(self._run.path):
            self.score_records(read_records(self._run, "safe_anchor")["safe_anchor"][:1])  # the model is loaded now

    def read(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Record, ...]:
        """Reads rows as the run reads its data, by the same columns and formats.

        Raises:
            DataError: A row cannot be used; the message says which and why.
        """
        return load_rows(rows, options=self._options)

    def score(self, rows: Sequence[Mapping[str, Any]]) -> list[ScoredRow]:
        """Weighs rows, in their order.

        Args:
            rows: Each like a row of the run's data: a mapping of its columns.

        Raises:
            DataError: A row cannot be used.
            ArtifactError: The run was weighed or selected again since it was loaded.
        """
        return self.score_records(self.read(rows))

    def score_records(self, records: Sequence[Record]) -> list[ScoredRow]:
        """Weighs rows that were read already. See `score`."""
        if self._manifests() != self._state:
            raise ArtifactError(f"{self._run.path} was weighed or selected again since it was loaded; load it anew")
        encoder, most = self._encoder, self.config.max_windows
        alone = reads_answers_alone(self.config, encoder)
        read = read_worst(
            encoder,
            records,
            encoder.encode,
            lambda: self._harm_score,
            most=most,
            alone=alone,
            first_look=self._first_look,
        )
        columns = score_rows(self.config, self._potentials, self._cut, records, read)
        return [ScoredRow(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]

    @functools.cached_property
    def _first_look(self) -> FirstLook | None:
        return first_look_of(self.config, self._run, self._encoder)

    @functools.cached_property
    def _harm_score(self) -> HarmScore:
        return harm_score_of(self.config, self._run)

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of what weighs the rows: the potentials, and the selection that holds the cut."""
        of_weights, of_selection = self._run.digests("weights"), self._run.digests("selection")
        return {name: digest for name, digest in (of_weights | of_selection).items() if "." in name}

    def _manifests(self) -> list[tuple[int, int]]:
        paths = [self._run.manifest_path(stage) for stage in ("weights", "selection")]
        try:
            return [(found.st_mtime_ns, found.st_size) for found in map(Path.stat, paths)]
        except OSError:
            return []
