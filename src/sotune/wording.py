"""How messages and pages count things in words."""


def counted(value: int, noun: str) -> str:
    """Returns a number with its noun, in the plural where it is not one.

    >>> counted(1, "row"), counted(2_500, "row")
    ('1 row', '2,500 rows')
    """
    return f"{value:,} {noun}" if value == 1 else f"{value:,} {noun}s"
