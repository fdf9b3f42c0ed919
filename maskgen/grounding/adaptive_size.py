"""How many at a time, by what the memory bears."""

PATIENCE = 64  # calls that must fit before more are tried again
LONGEST = 64  # times PATIENCE, at most, between two tries


class AdaptiveSize:
    """`size` things at a time: `most`, fewer after memory ran out, and after a while twice as many again.

    If the larger size does not fit then, the next try is twice as far away.
    """

    def __init__(self, most: int, patience: int = PATIENCE):
        self.most = most
        self.size = most
        self._patience = patience
        self._wait = patience
        self._fits = 0
        self._grown = False

    def shrink(self, size: int) -> bool:
        """Allow only `size`, at least 1, from now on; whether that is less than until now."""
        if self._grown:
            self._wait = min(2 * self._wait, LONGEST * self._patience)
        self._fits, self._grown = 0, False
        before, self.size = self.size, max(1, min(self.size, size))
        return self.size < before

    def fitted(self) -> None:
        """A call of this size did not run out of memory."""
        if self.size == self.most:
            return
        self._fits += 1
        if self._fits >= self._wait:
            self.size = min(2 * self.size, self.most)
            self._fits, self._grown = 0, True
