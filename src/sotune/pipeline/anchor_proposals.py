"""Which rows of the user's data to look at for an anchor: as different as they can be, by their words."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sotune.artifacts import Lines
from sotune.errors import ArtifactError, DataError
from sotune.records import Record

_MOST_ROWS = 20_000
_MOST_WORDS = 20_000


@dataclass(frozen=True)
class Proposal:
    """A row to look at.

    Attributes:
        record: The row.
        stands_for: How many of the rows are nearest to it, of those that were compared.
        like_harm: Its greatest similarity to a harmful row, in [0, 1] by words; ``None`` without harmful rows.
    """

    record: Record
    stands_for: int
    like_harm: float | None


def propose_anchor(
    records: Sequence[Record], n: int, *, harmful: Sequence[Record] = (), seed: int = 0
) -> list[Proposal]:
    """Proposes rows that stand for all: the medoids of clusters of TF-IDF vectors, the largest cluster first.

    Args:
        records: The rows; of more than 20,000 a sample is compared.
        n: How many to propose.
        harmful: Rows of the harmful reference, to say which proposals are like one.
        seed: Of the sample and of the clusters.

    Raises:
        DataError: There are fewer different rows.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    distinct = list({_text(record): record for record in records}.values())
    if n > len(distinct):
        raise DataError(f"{n} rows were to be proposed, and there are {len(distinct)} different ones; ask for fewer")
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.choice(len(distinct), min(_MOST_ROWS, len(distinct)), replace=False).tolist())
    compared = [distinct[place] for place in chosen]
    words = TfidfVectorizer(max_features=_MOST_WORDS, sublinear_tf=True, token_pattern=r"(?u)\w+")
    vectors = words.fit_transform([_text(record) for record in compared])
    clusters = MiniBatchKMeans(n, random_state=seed, n_init=3, batch_size=1024).fit(vectors)
    distances = clusters.transform(vectors)  # [rows, clusters]
    sizes = np.bincount(clusters.labels_, minlength=n)
    medoids: list[tuple[int, int]] = []
    for cluster in np.argsort(-sizes, kind="stable"):
        taken = {place for place, _ in medoids}
        order = np.argsort(distances[:, cluster], kind="stable")
        medoids.append((next(int(place) for place in order if int(place) not in taken), int(sizes[cluster])))
    similar = _similarity(words, vectors[[place for place, _ in medoids]], harmful)
    return [Proposal(compared[place], size, like) for (place, size), like in zip(medoids, similar, strict=True)]


def _similarity(words: Any, vectors: Any, harmful: Sequence[Record]) -> list[float | None]:
    if not harmful:
        return [None] * vectors.shape[0]
    against = words.transform([_text(record) for record in harmful[:_MOST_ROWS]])
    return [float(row.max()) for row in (vectors @ against.T).toarray()]


def _text(record: Record) -> str:
    return "\n".join(message.text for message in record.messages)


def write_anchor(path: Path, proposals: Sequence[Proposal], accepted: Collection[int]) -> Path:
    """Writes the accepted rows as they are in the user's file, in the order in which they were proposed.

    Args:
        path: The file.
        proposals: All proposals.
        accepted: Places of the accepted, from 1.

    Raises:
        DataError: None is accepted, or there is no such place.
        ArtifactError: The file exists.
    """
    odd = [place for place in accepted if not 1 <= place <= len(proposals)]
    if odd or not accepted:
        raise DataError(f"accept rows 1 to {len(proposals)}, at least one. Got {sorted(odd) or 'none'}")
    rows: list[Mapping[str, object]] = [
        json.loads(json.dumps(dict(one.record.meta))) for place, one in enumerate(proposals, 1) if place in accepted
    ]
    if path.exists():
        raise ArtifactError(f"{path} exists, and nothing of yours is overwritten; name another file")
    Lines(path.name, verb="init").write(path.parent, rows)
    return path
