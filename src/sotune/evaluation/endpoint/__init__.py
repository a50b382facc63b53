"""Asking a chat model over HTTP, at a pace, with answers kept on disk."""

from sotune.evaluation.endpoint.answers import AnswerCache
from sotune.evaluation.endpoint.client import Answer, ChatEndpoint, Unanswered, read_api_key

__all__ = ["Answer", "AnswerCache", "ChatEndpoint", "Unanswered", "read_api_key"]
