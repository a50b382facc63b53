"""What a judge model is asked: editable templates, judged text that cannot steer them, and a strict reading."""

from sotune.evaluation.rubrics.fencing import Fence, make_fence, neutralize
from sotune.evaluation.rubrics.rubric import RUBRICS, ReadAnswer, Rubric, load_rubric

__all__ = ["RUBRICS", "Fence", "ReadAnswer", "Rubric", "load_rubric", "make_fence", "neutralize"]
