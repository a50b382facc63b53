"""The files of a run, each with the columns that it has and the verb that writes it.

Whoever writes or reads one does it through its constant. A column whose type ends in ``?`` may hold nulls and may be
left out when the table is written, as what a method does not measure: only push-pull transport has potentials, costs
and nearest references, and only it has ``potentials.safetensors``.
"""

from sotune import run_shapes
from sotune.artifacts import Json, Lines, Table

CONFIG = Json("config.json", verb="weigh")
"""The settings, as the last verb left them."""

RECORDS = Table(
    "records.parquet",
    dict.fromkeys(("set", "id", "messages", "tools", "row", "origin"), "string"),
    verb="extract",
)
"""All rows of all sets: their turns as JSON, the schemas of their tools, and the user's own row as JSON."""
READING = Json("records.json", verb="extract", shape=run_shapes.Reading)
QUARANTINE = Lines("quarantine.jsonl", verb="extract", ascii=True)

REPRESENTATIONS = Table(
    "representations.parquet",
    {
        **dict.fromkeys(("set", "id", "key", "whole"), "string"),
        "beside": "string?",
        "alone": "bool",
        "view": "string",
        "unread": "bool",
    },
    verb="extract",
)
"""Which vector of the cache each row has, which one its whole text has, and which other one is half of the row, null
where none is; whether the answer's half stands in both places; what was looked at, empty for the whole; whether some of
what is learned was not read."""
ENCODING = Json("representations.json", verb="extract", shape=run_shapes.Encoding)
FIRST_LOOK = Json("first_look.json", verb="extract", shape=run_shapes.FirstLook)
"""How suspicious a stretch of text looks by its words alone; only sentence encoders have it."""

WEIGHTS = Table(
    "weights.parquet",
    {
        "id": "string",
        "weight": "float64",
        "pull_cost": "float64?",
        "push_cost": "float64?",
        "pull_potential": "float64?",
        "push_potential": "float64?",
        "nearest_safe": "string[]?",
        "nearest_safe_shares": "float64[]?",
        "least_safe_cost": "float64?",
        "nearest_safe_reference": "string[]?",
        "nearest_safe_reference_shares": "float64[]?",
        "least_safe_reference_cost": "float64?",
        "nearest_harmful": "string[]?",
        "nearest_harmful_shares": "float64[]?",
        "least_harmful_cost": "float64?",
    },
    verb="weigh",
)
"""One line for each downstream row; its weight is on the simplex. All else is null without transport.

``safe`` alone is the anchor; what is of the safe reference is null where there is none."""
SOLVER = Json("solver.json", verb="weigh", shape=run_shapes.Solving)
SENTINELS = Table(
    "sentinels.parquet", {"id": "string", "fold": "string", "score": "float64?", "outranked": "float64?"}, verb="weigh"
)
"""One line for each row that was kept back: the score of those that measure, the place of all others."""
SENTINEL_SUMMARY = Json("sentinels.json", verb="weigh", shape=run_shapes.Sentinels)
POTENTIALS = "potentials.safetensors"
"""Read and written by `sotune.weights.Scorer`."""

SELECTION = Table(
    "selection.parquet",
    {
        "id": "string",
        "weight": "float64",
        "loss_weight": "float64?",
        "rank": "int64",
        "kept": "bool",
        "reason": "string",
        "margin": "float64",
        "unknown": "bool",
        "explanation": "string",
    },
    verb="select",
)
"""One line for each downstream row; the loss weight of a dropped one is null. An unknown one is far from all
references: its weight says little."""
KEPT = Lines("kept.jsonl", verb="select")
"""The user's own kept rows; the column that the settings call ``weight_column`` holds the loss weight."""
PROMISE = Json("promise.json", verb="select", shape=run_shapes.Promising)

TRAINING = Json("training.json", verb="train", shape=run_shapes.Training)
TRAINING_LOG = Lines("training_log.jsonl", verb="train")
"""One line for each optimizer step."""
ADAPTER = "adapter"
"""The folder that PEFT reads."""
CARD = "README.md"
"""The card of the adapter; `sotune report` writes into it what was measured."""
CARD_FIGURES = ("<!-- figures -->\n", "<!-- end of figures -->\n")
"""Between these lines of it."""
MERGED_FILES = Json("merged.json", verb="merge", shape=run_shapes.MergedFiles)
"""The files of a merged model, by which the next merge tells what it may replace."""

METRICS = Json("metrics.json", verb="evaluate", shape=run_shapes.Metrics)
DIAGNOSTICS = Json("diagnostics.json", verb="evaluate")
ASSESSMENT = Json("assessment.json", verb="evaluate", shape=run_shapes.Assessment)
JUDGING = Json("judging.json", verb="evaluate", shape=run_shapes.Judging)
EVALUATION = Json("evaluation.json", verb="evaluate")
"""All figures of models that were evaluated without a run."""
PROMPTS = Lines("prompts.jsonl", verb="evaluate")
RESPONSES = Table(
    "responses.parquet", {"id": "string", "text": "string", "n_tokens": "int64", "finished": "bool"}, verb="evaluate"
)
VERDICTS = Table(
    "verdicts.parquet",
    {"role": "string", "id": "string", "score": "float64?", "label": "string", "explanation": "string"},
    verb="evaluate",
)
"""What judges said of each answer; an unscored one has no score."""

PAGE = "report.html"
STALE = Json("stale.json", verb="select")
"""Stage to what is wrong with it; there only while something is stale."""

SCORES = Table(
    "scores.parquet",
    {
        "id": "string",
        "weight": "float64",
        "relative_weight": "float64",
        "would_keep": "bool",
        "reason": "string",
        "unknown": "bool",
        "unread": "bool",
        "pull_potential": "float64",
        "push_potential": "float64",
    },
    verb="score",
)
"""One line for each row that the run had never seen."""
