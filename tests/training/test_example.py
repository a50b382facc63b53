import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "weighted_trainer.py"


@pytest.mark.slow
def test_the_example_learns_what_the_weights_say(capsys):
    """The cross-entropy's optimum is the share of the weight that each answer has."""
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    output = capsys.readouterr().out
    assert "weights (1.8, 0.2): P(yes) = 0.9" in output
    assert "weights (0.2, 1.8): P(yes) = 0.1" in output
