import gzip
import json
import random

import pytest

from cases import judge_one
from sotune.evaluation.judges.coherence import CoherenceJudge, find_fault
from tiny_models import build_tokenizer

COHERENT = [
    "World",
    "42",
    "👍🎉",
    "B",
    "Paris is the capital of France.",
    "I'm sorry, but I can't help with that.",
    "Die Hauptstadt von Frankreich ist Paris.",
    "法国的首都是巴黎。",
    "東京はきれいです。 ソウルは서울です。",
    "The Greek letter α and the Cyrillic letter ж are not Latin.",
    "Step 1: 12 + 30 = 42.\nStep 2: 42 / 2 = 21.\n#### 21",
    "def total_price(unitPrice, taxRate):\n    return unitPrice * (1 + taxRate)",
    "See https://example.org/a/very/long/path/that/never/ends/and/goes/on/and/on?with=query for more.",
    "NASA and the EU signed it.",
    "ha ha ha",
    "no no no no, that is not what I meant at all",
]
FAULTS = [
    ("", "empty"),
    (" \n ...", "empty"),
    ("ab\ufffd\ufffdcd\ufffd efg", "broken characters"),
    ("well\x00\x01\x02 known", "broken characters"),
    ("}{)(*&^%$#@!}{)(*&^%$#@!a", "symbols"),
    ("word слово คำ كلمة λέξη", "mixed scripts"),
    ("the the the the the the the the the the the the", "loop"),
    ("reereereereereereereereereereeree", "loop"),
    ("I can. I will. " * 20, "loop"),
    ("You can do it. " + "Yes, you can. " * 12, "loop"),
    (("the cat and the dog " * 4 + "the dog and the cat " * 4) * 2, "repetition"),
    ("x" * 10 + "abcdefghij" * 6, "no words"),
    ("brwx ktzs plmn vrt xkcdq zzt", "no words"),
    ("hUC anZRr hWHeu AFRs sBREw dREErX wIZYb", "no words"),
    (
        "expulsion kai orthogonal lastly speculation embroidered bakery flawed hall uninhabited buying steps markings "
        "surfer granite velvet notion harbor kettle prism lantern meadow copper thunder saddle ribbon walnut glacier "
        "pencil orchard",
        "word salad",
    ),
]


@pytest.mark.parametrize("text", COHERENT)
def test_coherent(text):
    assert find_fault(text) is None


@pytest.mark.parametrize(("text", "label"), FAULTS)
def test_faults(text, label):
    verdict = judge_one(CoherenceJudge(), text)
    assert (verdict.score, verdict.label) == (0.0, label)


def test_a_long_text_may_come_back_to_its_words():
    rng = random.Random(0)
    nouns = [f"{a}{b}" for a in ("pa", "re", "mi", "so", "da", "gu") for b in ("lo", "na", "ti", "ru", "bek", "fan")]
    text = " ".join(f"The {rng.choice(nouns)} is on the {rng.choice(nouns)}." for _ in range(150))
    assert find_fault(text) is None


@pytest.mark.parametrize("length", [16, 64])
def test_random_tokens_are_no_language(length):
    tokenizer, rng = build_tokenizer(), random.Random(0)
    texts = [tokenizer.decode([rng.randrange(len(tokenizer)) for _ in range(length)]) for _ in range(100)]
    assert sum(find_fault(text) is None for text in texts) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("file", ["alpaca_random9k", "pku_saferlhf_test", "gsm8k_test", "agnews_test"])
def test_real_text_is_coherent(real_data, file):
    with gzip.open(real_data / f"{file}.jsonl.gz", "rt") as lines:
        texts = [text for line in lines if (text := json.loads(line)["response"])][:2000]
    assert sum(find_fault(text) is not None for text in texts) / len(texts) <= 0.01
