"""A data set on the Hub: questions about birds, answered."""

from sotune.catalogue import parse_data_set

BIRDS = parse_data_set(
    "birds",
    {
        "title": "Birds",
        "hub_id": "somebody/birds",
        "licence": "CC0",
        "cite": "https://example.org/birds",
        "splits": ["train", "test"],
        "columns": {"bird": "text", "song": "text"},
        "training": {
            "name": "birds-songs",
            "rows": "birds, each with its song",
            "prompt": "How does the {bird} sing?",
            "answer": "{song}",
        },
        "evaluation": {
            "splits": ["test"],
            "parts": [{"kind": "task", "prompt": "How does the {bird} sing?", "answer": "{song}"}],
            "match": "contains",
        },
    },
)
