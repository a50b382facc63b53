"""A report as a browser reads it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The elements and the text of a page, as a browser would find them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.texts).replace("\u202f", " ").split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def read(path):
    return Page(path.read_text(encoding="utf-8"))


def described(method):
    """Returns what a comparison writes of a method; nothing of one that it does not know."""
    from sotune.comparison import Variant
    from sotune.errors import ConfigError

    try:
        return Variant.plain(method).described()
    except ConfigError:
        return {}
