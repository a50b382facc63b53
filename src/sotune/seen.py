"""What was seen before, by digest: millions of them in some 50 bytes each, where Python's sets of texts take 300."""

from __future__ import annotations

import hashlib
import os
from array import array

_DIGEST_BYTES = 16
_FIRST_SLOTS = 1024
_FULL = 0.7  # share of the slots in use above which there are made more
_GROWTH = 1.6


class SeenMap:
    """From bytes to positive numbers, of which only digests of 16 bytes are kept.

    >>> seen = SeenMap()
    >>> seen.swap(b"a", 7), seen.swap(b"b", 8), seen.swap(b"a", 9), len(seen)
    (0, 0, 7, 2)
    """

    def __init__(self) -> None:
        self._secret = os.urandom(16)  # so that no data can be made up whose digests all fall into one place
        self._n = 0
        self._make(_FIRST_SLOTS)

    def __len__(self) -> int:
        return self._n

    def swap(self, content: bytes, number: int) -> int:
        """Notes a number, at least 1, for some bytes; returns the one that was noted before, or 0."""
        digest = hashlib.blake2b(content, digest_size=_DIGEST_BYTES, key=self._secret).digest()
        place = self._place(digest)
        before = self._numbers[place]
        self._numbers[place] = number
        if not before:
            self._digests[place * _DIGEST_BYTES : (place + 1) * _DIGEST_BYTES] = digest
            self._n += 1
            if self._n > _FULL * len(self._numbers):
                self._grow()
        return before

    def _place(self, digest: bytes) -> int:
        """Returns the slot of a digest, or the empty one where it goes."""
        n, numbers, digests = len(self._numbers), self._numbers, self._digests
        place = int.from_bytes(digest[:8], "little") % n
        while numbers[place] and digests[place * _DIGEST_BYTES : (place + 1) * _DIGEST_BYTES] != digest:
            place = place + 1 if place + 1 < n else 0
        return place

    def _make(self, n_slots: int) -> None:
        self._numbers, self._digests = array("Q", bytes(8 * n_slots)), bytearray(_DIGEST_BYTES * n_slots)

    def _grow(self) -> None:
        numbers, digests = self._numbers, self._digests
        self._make(int(len(numbers) * _GROWTH))
        for place, number in enumerate(numbers):
            if number:
                digest = bytes(digests[place * _DIGEST_BYTES : (place + 1) * _DIGEST_BYTES])
                new = self._place(digest)
                self._numbers[new] = number
                self._digests[new * _DIGEST_BYTES : (new + 1) * _DIGEST_BYTES] = digest
