"""What people's models write as an answer: read right, or as wrong, or not at all, never right by accident."""

import gzip
import json
import random

import pytest

from cases import judge_one, prompt
from sotune.evaluation.judges.extraction import read_choice, read_label, read_number
from sotune.evaluation.judges.match import MatchJudge
from sotune.evaluation.protocol import UNREADABLE

TOPICS = ("World", "Sports", "Business", "Sci/Tech")
SEVERAL = ("the first one", "the second one", "the third one", "the fourth one")

NUMBERS = [  # text, reference, whether it is right; None: nothing can be read
    ("#### 42", "42", True),
    ("6 * 7 = 42\n#### 42", "42", True),
    (r"So \boxed{42}.", "42", True),
    (r"$\boxed{x = 42}$", "42", True),
    (r"\boxed{\frac{7}{2}}", "3.5", True),
    (r"\boxed{1{,}234}", "1234", True),
    (r"\boxed{42\text{ cm}}", "42", True),
    (r"\boxed{\$12.50}", "12.5", True),
    (r"\boxed{25\%}", "25", True),
    ("<answer>42</answer> which took 3 steps", "42", True),
    ("The answer is: $12.50.", "12.5", True),
    ("The answer is 42, since 6 times 7 is that much, as 2 people said.", "42", True),
    ("The final answer is **42**.", "42", True),
    ("**Answer:** 42", "42", True),
    ("Answer:\n\n42 apples", "42", True),
    ("The answer to the question is 12 + 30 = 42.", "42", True),
    ("The answer is 41. No, wait. The answer is 42.", "42", True),
    ("The answer is not 41, the total is 42", "42", True),
    ("So she has **42** apples after 3 days.", "42", True),
    ("It costs 1,234 dollars", "1234", True),
    ("It costs 1 234 dollars", "1234", True),
    ("It costs 1\u202f234,50 €", "1234.5", True),
    ("It costs 1'234'567 francs", "1234567", True),
    ("It costs 1.234.567 pesos", "1234567", True),
    ("It costs €1.234,56", "1234.56", True),
    ("It weighs 3,5 kg", "3.5", True),
    ("It is 1.5e3", "1500", True),
    ("It is 1.5 × 10^3", "1500", True),
    (r"It is $1.5 \times 10^{-3}$", "0.0015", True),
    ("It is 1.5·10³".replace("·", "×"), "1500", True),
    ("It is 7/2", "3.5", True),
    ("It is 3 1/2 cups", "3.5", True),
    ("It is 1½ cups", "1.5", True),
    ("It is ½", "0.5", True),
    ("It is 3.2 million", "3200000", True),
    ("-7", "-7", True),
    ("The change is -$7", "-7", True),
    ("The change is $-7.00", "-7", True),
    ("It is 25 m²", "25", True),
    ("50%", "50", True),
    ("42km", "42", True),
    ("42.", "42", True),
    ("42.00", "42", True),
    ("007", "7", True),
    (r"\boxed{$9{,}500}", "9500", True),
    (r"\boxed{\text{The answer is 460}}", "460", True),
    ("The total is 72 clips, altogether.", "72", True),
    ("#### 5\n\nQuestion: Tom has 3.\nAnswer: 7\n#### 7", "5", True),  # it went on to write a question of its own
    ("**Answer**: 42 after 3 steps", "42", True),
    ("Final answer - 42 of 50", "42", True),
    ("The answer is minus 7.", "-7", True),
    ("₹1,00,000", "100000", True),
    ("Therefore, she has 20 - 8 = 12 left.", "12", True),
    ("It costs $3k", "3000", True),
    ("Answer: She sold 48 in April and 48/2 = 24 in May. She sold 48 + 24 = 72 altogether.", "72", True),
    ("Answer: Step 1: add 2 and 3. The total is 5.", "5", True),
    ("Answer: about 42, after 3 steps.", "42", True),
    # wrong, and so it must stay
    ("It costs $3k", "3", False),
    ("Answer: Step 1: add 2 and 3. The total is 5.", "1", False),
    ("It costs 1 234 dollars", "234", False),
    ("It costs 1'234 francs", "234", False),
    ("It costs €1.234,56", "56", False),
    ("It weighs 3,5 kg", "5", False),
    ("It is 7/2", "2", False),
    (r"\boxed{\frac{7}{2}}", "2", False),
    ("It is 3 1/2 cups", "2", False),
    ("It is 1½ cups", "2", False),
    ("It is 1.5e3", "3", False),
    ("It is 1.5 × 10^3", "3", False),
    ("It is 3.2 million", "2", False),
    ("The change is -7", "7", False),
    ("142", "42", False),
    ("0.42", "42", False),
    ("4.2", "2", False),
    (r"\boxed{41} after 42 steps", "42", False),
    ("The answer is 41. I checked it 42 times.", "42", False),
    ("#### 41\nThere were 42 steps.", "42", False),
    ("So it is **41** after 42 days.", "42", False),
    # nothing to be read
    ("", "42", None),
    ("forty-two", "42", None),
    ("It ends at 3:30", "30", None),
    ("It is 10-12", "12", None),
    ("It is 10–12", "12", None),
    ("On 2024-01-05", "5", None),
    ("Version 3.10.2", "2", None),
    ("It is 2^5", "5", None),
    ("It is 10²", "2", None),
    ("It is x^2", "2", None),
    ("x2", "2", None),
    ("1,2,3", "3", None),
    (r"\boxed{3 \text{ or } 42}", "42", None),
    (r"\boxed{x}, about 42", "42", None),
    ("The answer is 41 or 42.", "42", None),
    ("The answer is 41 or 42.", "41", None),
    ("The answer is between 41 and 42.", "41", None),
    ("5/0", "0", None),
    ("Answer: 5 + 3", "5", None),
    ("It is 5 + 3", "3", None),
    ("It is 10^-3", "3", None),
    ("It is 10**6", "6", None),
    ("It is √2", "2", None),
    (r"\boxed{\sqrt{2}}", "2", None),
    (r"\boxed{2\sqrt{3}}", "2", None),
    (r"\boxed{2\pi}", "2", None),
    ("The answer is 2√3.", "2", None),
    ("The answer is 3 times 4.", "3", None),
    ("The answer is 2 more than 40.", "2", None),
    ("The answer isn't 42", "42", None),
    ("The answer is definitely not 42.", "42", None),
    ("The answer cannot be **42**", "42", None),
    ("The answer is 0,500", "500", None),
    ("It is x^{-3}", "3", None),
    ("9" * 5000, "9", None),
]


@pytest.mark.parametrize(("text", "reference", "right"), NUMBERS)
def test_numbers(text, reference, right):
    check(MatchJudge("number"), text, right, reference=reference)


def check(judge, text, right, **fields):
    verdict = judge_one(judge, text, **fields)
    assert (verdict.label, verdict.score) == {
        True: ("correct", 1.0),
        False: ("wrong", 0.0),
        None: (UNREADABLE, 0.0),
    }[right], verdict.explanation


CHOICES = [  # text, the letter that is read
    ("B", "B"),
    ("b", "B"),
    ("b.", "B"),
    ("(B)", "B"),
    ("**B**", "B"),
    ("**(B)** the second one", "B"),
    ("B) because it is so", "B"),
    ("B: the second one", "B"),
    ("B is correct.", "B"),
    ("option b", "B"),
    ("Option B: the second one", "B"),
    ("I would go with option (b).", "B"),
    ("answer: B) because", "B"),
    ("Answer: b", "B"),
    ("The correct answer is option B.", "B"),
    ("The correct option is (B).", "B"),
    ("The best choice would be hard to say, so B.", "B"),
    ("It's B.", "B"),
    ("I choose B.", "B"),
    (r"\boxed{B}", "B"),
    (r"$\boxed{\text{(B)}}$", "B"),
    ("<answer>B</answer>", "B"),
    ("A would be too small and C too large.\n\nB", "B"),
    ("Let us see.\nThe answer is **B**", "B"),
    ("The answer is B, not A.", "B"),
    ("The answer is not A. It is B.", "B"),
    ("Is the answer A? No. The answer is B.", "B"),
    ("The answer is A? No, B is right, so B", "B"),
    ("Of these, the second one.", "B"),
    ("The answer is the second one", "B"),
    ("Thus **B** fits.", "B"),
    (r"\boxed{\langle H\rangle \ll \Delta E}" + "\n**Answer: D**", "D"),
    ("The answer is B. Note that A is a common distractor.", "B"),
    ("The answer is C because I computed the integral.", "C"),
    ("The answer is B because a car moves.", "B"),
    ("I would pick B — a safe choice.", "B"),
    ("Answer seems to be A.\n\nAnswer: A", "A"),
    ("Final answer - B", "B"),
    ("Answer: $B$", "B"),
    ("**Answer**: C", "C"),
    ("A is wrong, B is right", "B"),
    ("Option A is wrong, option B is it.", "B"),
    ("A: this\nB: that\nC: neither\nAnswer: B", "B"),
    ("C) the third one is the best, not D)", "C"),
    # not said, or said twice
    ("ANSWER: None of the above", None),
    ("ANSWER: Don't know", None),
    ("ANSWER: I don't know", None),
    ("Antwort:\n\nAntwort: C", None),
    ("Actually this one is tricky, I'm unsure", None),
    ("I cannot determine the answer.", None),
    ("Error: rate limited", None),
    ("(b) and (c)", None),
    ("A is right and B is right", None),
    ("", None),
    ("A dog barks", None),
    ("The answer is a dog", None),
    ("So a dog barks", None),
    ("I, for one, do not know.", None),
    ("The answer is A or B.", None),
    ("A: the first one\nB: the second one\nC: the third one\nD: the fourth one\nAnswer:", None),
    ("A) this B) that C) neither", None),
    ("Option A is wrong.", None),
    ("Not option B.", None),
    ("The answer is A/B", None),
    ("A or B", None),
    ("A, B", None),
    ("Option A is too small, option C too large.", None),
    ("Both the first one and the second one", None),
    ("Z", None),
    ("The answer is Z.", None),
]


@pytest.mark.parametrize(("text", "letter"), CHOICES)
def test_choices(text, letter):
    assert read_choice(text, prompt(choices=SEVERAL)) == letter


LABELS = [
    ("Business", "business"),
    ("**Business**", "business"),
    ("Business.", "business"),
    (r"\boxed{Business}", "business"),
    (r"\boxed{\text{Business}}", "business"),
    ("<answer>Business</answer>", "business"),
    ("Label: Business", "business"),
    ("The topic is Business.", "business"),
    ("It is about Business.", "business"),
    ("This article belongs to the Business category.", "business"),
    ("I would classify it as **Business**, since it is about prices.", "business"),
    ("Business: the article is about prices.", "business"),
    ("Business - the article is about prices.", "business"),
    ("Business\n\nThe article is about prices, not about a match.", "business"),
    ("The article is about prices of Sports clothes.\n\nBusiness", "business"),
    ("It is not Sports, so Business.", "business"),
    ("It is Business, not Sports.", "business"),
    ("It could touch on World affairs, but the answer is Business.", "business"),
    ("Unlike Sports news, the category is Business.", "business"),
    ("Probably Business", "business"),
    ("Category: Sci/Tech", "sci/tech"),
    # by the way, denied, or more than one
    ("The club did good business after the match, its fans say.", None),
    ("This has nothing at all to do with a company or with Business", None),
    ("It is not Business", None),
    ("It isn't Business.", None),
    ("Neither Business nor Sports", None),
    ("Anything rather than Business", None),
    ("Business or Sports", None),
    ("Business, Sports", None),
    ("It is World or Business", None),
    ("Businesses", None),
    ("Choose from: World, Sports, Business.", None),
    ("Category: World/Sports", None),
    ("Is this Business? No.", None),
    ("It is hardly Business", None),
    ("Everything but Business", None),
    ("I cannot tell what this article of the World Bank on Business is about.", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "label"), LABELS)
def test_labels(text, label):
    assert read_label(text, prompt(choices=TOPICS)) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The review is positive.", "positive"),
        ("The sentiment is clearly negative, because the plot is thin.", "negative"),
        ("Sentiment: positive\nReason: not a negative word", "positive"),
        ("not positive", None),
        ("It has positive and negative sides.", None),
    ],
)
def test_sentiment(text, label):
    assert read_label(text, prompt(choices=("positive", "negative"))) == label


def test_what_follows_the_thoughts_is_matched():
    judge = MatchJudge("label")
    check(judge, "<think>World or Business</think>Sports", True, reference="Sports", choices=TOPICS)
    check(judge, "World or Business</think>Sports", True, reference="Sports", choices=TOPICS)
    judge = MatchJudge("choice")
    check(judge, "<think>The answer is A? no</think>B", True, reference="B", choices=SEVERAL)
    check(MatchJudge("number"), "<think>41 or 42</think>It is 42.", True, reference="42")
    assert judge_one(MatchJudge("number"), "<think>It is 42", reference="42").score is None


WAYS = (
    "{n}", "#### {n}", r"\boxed{{{n}}}", "**{n}**", "The answer is {n}.", "The answer is: ${n}.", "So it is {n} km.",
    "She has {n} apples.", "Answer: {n}", "x = {n}", r"$x = {n}$", "= {n}%", "It comes to {n}!", "({n})",
)  # fmt: skip


def test_numbers_that_differ_in_a_digit_are_never_right():
    draw = random.Random(0)
    for _ in range(400):
        n, way = draw.choice((draw.randrange(100), draw.randrange(10**6))), draw.choice(WAYS)
        assert read_number(way.format(n=n), prompt()) == n
        assert read_number(way.format(n=f"{n:,}"), prompt()) == n
        grouped = f"{n:,}".replace(",", "\u00a0")
        assert read_number(way.format(n=grouped), prompt()) == n
        extra = draw.randrange(1, 10)
        others = [f"{extra}{n}", f"{n}{extra}", f"{extra}.{n}", f"{extra}/{n}", f"-{n + 1}", f"{extra}:{n:02d}"]
        others += [f"{extra},{n:03d}", f"{extra}^{n}", f"{extra}e{n % 100}", f"{extra}–{n}", f"{n}.{extra}"]
        for other in others:
            found = read_number(way.format(n=other), prompt())
            assert found != n or (n == 0 and found == 0), (way, other)


LONG = ("1", "1,", " 1", "1/", "answer ", "answer is ", r"\boxed{", "a ", "*", "(", "\n", "#### ", "business ", "not ")


@pytest.mark.parametrize("piece", LONG)
def test_long_texts_come_to_an_end(piece):
    text = piece * (200_000 // len(piece))
    for read in (read_number, read_choice, read_label):
        read(text, prompt(choices=TOPICS))


@pytest.mark.slow
def test_the_answers_of_gsm8k_are_read_as_they_are(real_data):
    for name in ("gsm8k_test", "gsm8k_train"):
        with gzip.open(real_data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            texts = [json.loads(line)["response"] for line in lines]
        for text in texts:
            assert read_number(text, prompt()) == int(text.rpartition("####")[2].replace(",", ""))
