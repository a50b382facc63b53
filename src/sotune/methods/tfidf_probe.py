"""A logistic probe on words: what is possible without any language model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sotune.errors import DataError
from sotune.methods.inputs import WeighInputs, all_text
from sotune.methods.method import Method
from sotune.weights.ground_cost import PROBE_REGULARIZATION
from sotune.weights.logistic import fit_balanced


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns each row's probability of being safe by its words, ``[n]``.

    The probe of `sotune.methods.probe` on TF-IDF of all turns. Vocabulary and document frequencies are those of the
    sets together, which uses no label.

    Raises:
        ConfigError: The inputs carry no records.
        DataError: No text has a word.
        SotuneError: The fit diverged.
    """
    records = inputs.require_records("tfidf_probe")
    sets = (records.pull, records.harmful_reference, records.downstream)
    features = tfidf([all_text(record) for rows in sets for record in rows])
    positions = torch.split(torch.arange(features.shape[0]), [len(rows) for rows in sets])
    safe, harmful, downstream = (features.index_select(0, part) for part in positions)
    harm = fit_balanced(safe, harmful, inverse_regularization=PROBE_REGULARIZATION)
    return torch.sigmoid(-harm(downstream)).to(inputs.downstream.device)


def tfidf(texts: Sequence[str]) -> Tensor:
    """Returns TF-IDF of lower-case words of two or more characters, rows of unit length.

    The weight of a word is ``count·(1 + log((1 + N) / (1 + N_word)))`` with N the number of texts and N_word of those
    with the word: the defaults of scikit-learn's ``TfidfVectorizer``, words in order of the alphabet.

    Returns:
        Sparse in coordinates, float64, ``[N, words]``; a text without words is all zero.

    Raises:
        DataError: No text has a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes a second to load

    try:
        found = TfidfVectorizer().fit_transform(texts).tocoo()
    except ValueError as error:
        raise DataError(f"none of {len(texts)} texts has a word of two letters; use another method") from error
    return torch.sparse_coo_tensor(
        torch.stack([torch.from_numpy(found.row), torch.from_numpy(found.col)]).long(),
        torch.from_numpy(found.data),
        found.shape,
        check_invariants=True,
    ).coalesce()


METHODS = (Method("tfidf_probe", "probe on words", weigher=weigh),)
