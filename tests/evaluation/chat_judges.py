"""Judge models for tests: chat judges with quick retries and a cache in a folder, guards of random weights."""

from sotune.evaluation.endpoint import AnswerCache, ChatEndpoint
from sotune.evaluation.judges.chat import ChatJudge
from sotune.evaluation.judges.guard import GuardJudge
from sotune.evaluation.rubrics import load_rubric
from sotune.models import ModelSpec, load_causal_lm, load_tokenizer
from sotune.settings import JudgeSettings


def endpoint(url, api_key=None, **changes):
    settings = {"base_url": url, "model": "rule", "concurrency": 8, "max_retries": 4, "timeout": 0.5, **changes}
    return ChatEndpoint(JudgeSettings(**{f"judge_{name}": value for name, value in settings.items()}), api_key)


def chat_judge(url, folder, rubric="harmfulness", **changes):
    return ChatJudge(load_rubric(rubric), endpoint(url, **changes), AnswerCache(folder))


OWN_TAXONOMY = (  # shorter than ours, which a tiny tokenizer cuts into more tokens than a tiny model reads
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}Is the last turn safe or unsafe?"
)


def guard_judge(folder, **changes):
    spec = ModelSpec(str(folder), dtype="float32", device="cpu")
    settings = {"name": "guard", "batch_size": 3, "threshold": 0.5, "min_mass": 0.0, **changes}
    model = settings.pop("model", None) or load_causal_lm(spec, frozen=True)
    tokenizer = settings.pop("tokenizer", None)
    if tokenizer is None:
        tokenizer = load_tokenizer(spec)
        tokenizer.chat_template = OWN_TAXONOMY
    return GuardJudge(model=model, tokenizer=tokenizer, **settings)
