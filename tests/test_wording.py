from sotune.wording import counted


def test_counted():
    assert [counted(n, "row") for n in (0, 1, 2500)] == ["0 rows", "1 row", "2,500 rows"]
