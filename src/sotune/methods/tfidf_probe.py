"""A logistic probe on words: what is possible without any language model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from sotune.methods.inputs import WeighInputs
from sotune.methods.method import Method
from sotune.records import Record
from sotune.weights.ground_cost import PROBE_REGULARIZATION
from sotune.weights.logistic import fit_balanced

_WORD = re.compile(r"\w\w+")


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns each row's probability of being safe by its words, ``[n]``.

    The probe of `sotune.methods.probe` on TF-IDF of all turns. Vocabulary and document frequencies are those of the
    three sets together, which uses no label.

    Raises:
        ConfigError: The inputs carry no records.
        SotuneError: The fit diverged.
    """
    records = inputs.require_records("tfidf_probe")
    sets = (records.safe_anchor, records.harmful_reference, records.downstream)
    features = tfidf([_text(record) for rows in sets for record in rows])
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
    """
    counts = [Counter(_WORD.findall(text.lower())) for text in texts]
    frequency = Counter(word for count in counts for word in count)
    column = {word: j for j, word in enumerate(sorted(frequency))}
    rarity = {word: 1 + math.log((1 + len(texts)) / (1 + f)) for word, f in frequency.items()}
    rows, columns, values = [], [], []
    for i, count in enumerate(counts):
        weights = {word: times * rarity[word] for word, times in count.items()}
        length = math.hypot(*weights.values())
        rows += [i] * len(weights)
        columns += [column[word] for word in weights]
        values += [weight / length for weight in weights.values()]
    return torch.sparse_coo_tensor(
        torch.tensor([rows, columns], dtype=torch.int64).reshape(2, -1),
        torch.tensor(values, dtype=torch.float64),
        (len(texts), len(column)),
        check_invariants=True,
    ).coalesce()


def _text(record: Record) -> str:
    return "\n".join(message.content for message in record.messages)


METHODS = (Method("tfidf_probe", "probe on words", weigher=weigh),)
