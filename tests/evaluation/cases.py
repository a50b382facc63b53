"""Prompts and responses for the tests of judges and metrics."""

from sotune.evaluation import EvalPrompt, Response
from sotune.records import Message


def prompt(id="p", kind="task", reference=None, **meta):
    return EvalPrompt(id, kind, (Message("user", f"question {id}"),), reference, meta)


def response(text, id="p"):
    return Response(id, text, n_tokens=len(text.split()), finished=True)


def judge_one(judge, text, **fields):
    [verdict] = judge.judge([prompt(**fields)], [response(text)])
    return verdict
