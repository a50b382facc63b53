import pytest

from cases import judge_one
from sotune.errors import ConfigError, DataError
from sotune.evaluation.judges.match import MatchJudge

TOPICS = ("World", "Sports", "Business", "Sci/Tech")


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Business", 1),
        (" **business.**\n", 1),
        ("The topic is Business.", 1),
        ("Business or Sports", 0),
        ("Sports", 0),
        ("Businesses", 0),
        ("", 0),
    ],
)
def test_label_among_choices(text, score):
    assert judge_one(MatchJudge("label"), text, reference="Business", choices=TOPICS).score == score


@pytest.mark.parametrize(("text", "score"), [("not spam", 0), ("spam", 1), ("It is spam!", 1), ("It is not spam", 0)])
def test_label_inside_a_longer_label(text, score):
    assert judge_one(MatchJudge("label"), text, reference="spam", choices=("spam", "not spam")).score == score


@pytest.mark.parametrize(("text", "score"), [("Red.", 1), ('"red"', 1), ("It is red", 0), ("reddish", 0)])
def test_label_without_choices_is_the_whole_answer(text, score):
    assert judge_one(MatchJudge("label"), text, reference="red").score == score


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("12 + 30 = 42.", "42", 1),
        ("She pays $1,234.50 in all", "so 1234.5\n#### 1234.5", 1),
        ("the result is −7", "-7", 1),
        ("about 42, or rather 43", "42", 0),
        ("5-3=2", "2", 1),
        ("It is 0.5", ".5", 1),
        ("x2", "2", 0),
        ("no number", "2", 0),
        ("1,000,000", "1000000.0", 1),
        ("３", "3", 1),
    ],
)
def test_last_number(text, reference, score):
    assert judge_one(MatchJudge("number"), text, reference=reference).score == score


@pytest.mark.parametrize(
    ("text", "score"), [("It was Paris.", 1), ("PARIS", 1), ("Parisian", 0), ("", 0), ("comparison", 0)]
)
def test_contains(text, score):
    assert judge_one(MatchJudge("contains"), text, reference="Paris").score == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("B", 1),
        ("b", 1),
        ("(B)", 1),
        ("b) the second", 1),
        ("B. the second", 1),
        ("**B**", 1),
        ("The answer is B", 1),
        ("The answer is (b).", 1),
        ("I thought A, yet the answer: C. No, the answer is B.", 1),
        ("the second one", 1),
        ("A", 0),
        ("A dog barks", 0),
        ("The answer is a dog", 0),
        ("Both the first one and the second one", 0),
        ("", 0),
    ],
)
def test_choice(text, score):
    choices = ("the first one", "the second one", "the third one")
    assert judge_one(MatchJudge("choice"), text, reference="B", choices=choices).score == score


@pytest.mark.parametrize(
    ("text", "score"), [("The Eiffel-Tower!", 1), ("eiffeltower", 1), ("the tower", 0), ("", 0), ("The", 0)]
)
def test_exact(text, score):
    assert judge_one(MatchJudge("exact"), text, reference="An Eiffel-Tower.").score == score


@pytest.mark.parametrize(
    ("text", "score", "label"),
    [
        ("The contract was broken.", 1.0, "correct"),
        ("broken was contract", 1.0, "correct"),  # a bag of words
        ("contract", 0.5, "partly correct"),  # P = 1, R = 1/3
        ("contract contract contract", 1 / 3, "partly correct"),  # a word counts as often as both have it
        ("the contract was void", 2 / 3, "partly correct"),
        ("nothing", 0.0, "wrong"),
        ("", 0.0, "wrong"),
        ("the", 0.0, "wrong"),
    ],
)
def test_f1_of_words(text, score, label):
    verdict = judge_one(MatchJudge("f1"), text, reference="the contract was broken")
    assert verdict.score == pytest.approx(score)
    assert verdict.label == label


@pytest.mark.parametrize(
    ("rule", "reference", "explanation"),
    [
        ("label", None, "the prompt has no reference"),
        ("contains", " ", "the prompt has no reference"),
        ("number", "many", "the reference 'many' is no number"),
        ("exact", "the", "the reference 'the' is no text"),
        ("choice", "the first", "the reference 'the first' is no choice"),
    ],
)
def test_an_unusable_reference_is_unscored(rule, reference, explanation):
    verdict = judge_one(MatchJudge(rule), "42", reference=reference)
    assert (verdict.score, verdict.explanation) == (None, explanation)


def test_unknown_rule():
    with pytest.raises(
        ConfigError, match="match rule must be one of label, number, contains, choice, exact, f1. Got 'regex'"
    ):
        MatchJudge("regex")


def test_a_prompt_may_name_its_own_rule():
    judge = MatchJudge("label")
    assert judge_one(judge, "It is 42 then.", reference="42", match="number").score == 1.0
    assert judge_one(judge, "It is 42 then.", reference="42").score == 0.0
    with pytest.raises(DataError, match="asks for the match rule 'guess'"):
        judge_one(judge, "x", reference="42", match="guess")
