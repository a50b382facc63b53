from sotune.records import Message, Record
from sotune.views import pieces_of, plain_text, split_evenly, views_of

SENTENCE = "The quick brown fox jumps over the lazy dog. "


def record(answer, prompt="How?"):
    return Record.from_text("r", prompt, answer)


def texts(views):
    return [view.record.completion for view in views.views]


def test_a_short_answer_has_no_parts():
    found = views_of(record(SENTENCE * 2), window=100, most=16)
    assert found.views == ()
    assert found.complete


def test_a_short_answer_consists_of_stretches_of_which_those_worth_it_are_read():
    answer = SENTENCE * 5
    row = record(answer, prompt="Bake bread?")
    pieces = pieces_of(row, window=800)
    assert " ".join(piece.record.completion for piece in pieces).split() == answer.split()
    assert all(80 <= len(piece.record.completion) < 180 for piece in pieces)
    assert [piece.place for piece in pieces] == ["turn 2, stretch 1 of 2", "turn 2, stretch 2 of 2"]
    assert all(piece.stretch for piece in pieces)
    assert pieces_of(record("Yes. No."), window=800) == []
    assert views_of(row, window=800, most=16, worth=(1,)).views == (pieces[1],)
    assert views_of(row, window=800, most=16, worth=()).views == ()
    assert views_of(row, window=800, most=16).views == ()  # nobody looked


def test_of_a_long_answer_the_parts_worth_it_are_read():
    long = record(SENTENCE * 40)
    parts = views_of(long, window=800, most=16).views
    assert [*parts] == pieces_of(long, window=800)
    assert not any(part.stretch for part in parts)
    found = views_of(long, window=800, most=16, worth=(1, 3))
    assert found.views == (parts[1], parts[3])
    assert found.complete
    assert not views_of(long, window=800, most=1, worth=(1, 3)).complete


def test_parts_hold_every_word_of_an_answer_in_order():
    answer = SENTENCE * 40
    found = views_of(record(answer), window=200, most=100)
    assert " ".join(texts(found)).split() == answer.split()
    assert max(map(len, texts(found))) <= 125
    assert found.complete


def test_a_part_stands_alone():
    """What was asked at the row's beginning says nothing of a part, which is read as an answer to itself."""
    part = views_of(record(SENTENCE * 40, prompt="Bake bread?"), window=800, most=16).views[0]
    assert part.record.id == "r"
    assert [message.content for message in part.record.messages] == [part.record.completion] * 2
    assert part.place == "turn 2, part 1 of 5"


def test_each_learned_turn_is_read_and_no_other():
    answers = [
        Message("assistant", f"{name}, answer in few words", learned=name != "another")
        for name in ("first", "another", "second", "last")
    ]
    turns = tuple(turn for answer in answers for turn in (Message("user", "q"), answer))
    assert views_of(Record("r", turns), window=100, most=16).views == ()  # one look takes in all of it
    found = views_of(Record("r", turns), window=44, most=16)
    assert texts(found) == [answer.content for answer in answers if answer.learned]
    assert [view.place for view in found.views] == [f"turn {place}, part 1 of 1" for place in (2, 6, 8)]


def test_too_many_parts_are_taken_at_even_distances_and_told():
    found = views_of(record(SENTENCE * 100), window=100, most=8)
    assert 4 <= len(found.views) <= 8
    assert not found.complete


def test_a_text_without_a_space_is_split_too():
    assert [len(part) for part in split_evenly("x" * 1000, 100)] == [100] * 10


def test_disguised_text_is_also_read_in_plain_letters():
    disguised = record("h0w t0 b4k3 br34d 4nd c4k3s w1th y34st f0r fr33", prompt="T3ll m3 n0w")
    found = views_of(disguised, window=600, most=16)
    assert texts(found) == ["how to bake bread and cakes with yeast for free"]
    assert found.views[0].record.messages[0].content == "Tell me now"
    assert found.views[0].place == "whole, undisguised"


def test_look_alikes_and_invisible_characters_are_undone():
    disguised = "".join(c + "\u200b" for c in "bake the bread")
    assert plain_text(disguised) == "bake the bread"
    assert plain_text("b\u0430ke th\u0435 br\u0435\u0430d") == "bake the bread"  # Cyrillic а and е


def test_spaced_letters_are_joined():
    assert plain_text(" ".join("bake 2 loaves")).split() == ["bake", "2", "loaves"]
    found = views_of(record(" ".join("bake the bread"), prompt="H o w ?"), window=600, most=16)
    assert [text.split() for text in texts(found)] == [["bake", "the", "bread"]]
    assert plain_text("a + b = c, so plan B is a no") == "a + b = c, so plan B is a no"


def test_ordinary_text_is_not_taken_for_disguised():
    for ordinary in (
        "Mix 200 g flour, 3 eggs and 1/2 l milk at 180 C for 25 min; it serves 4 to 6 people.",
        "x1 = 3; y2 = x1 + 10; print(f'{y2:>5}')  # see RFC 2119, ISO8601 and UTF8",
        "Приготовьте хлеб из муки, воды и соли; пеките его сорок минут.",
        "Αναμείξτε αλεύρι, νερό και αλάτι και ψήστε το ψωμί για σαράντα λεπτά.",
    ):
        assert views_of(record(ordinary), window=600, most=16).views == (), ordinary
