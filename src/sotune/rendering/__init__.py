"""From a conversation to the text and the tokens that a model reads: the one home of templates.

Weighing, training, generation and judging render alike, so that a row is weighed as the text that it is trained on, and
a model is asked in the template that it was trained in.
"""

from sotune.rendering.paper import PAPER_CHAT_TEMPLATE, render_paper
from sotune.rendering.pieces import Piece, text_pieces, token_pieces
from sotune.rendering.renderer import RenderedText, RenderedTokens, Renderer, load_renderer, make_renderer
from sotune.rendering.trial import Trial

__all__ = [
    "PAPER_CHAT_TEMPLATE",
    "Piece",
    "RenderedText",
    "RenderedTokens",
    "Renderer",
    "Trial",
    "load_renderer",
    "make_renderer",
    "render_paper",
    "text_pieces",
    "token_pieces",
]
