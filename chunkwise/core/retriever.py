"""The protocol that generation and evaluation call: chunks in, neighbours out.

Dimensions: rows, m tokens of a chunk, k neighbours, r tokens of a neighbour with its continuation
    (usually 2 m).
"""

from typing import Protocol

import numpy as np


class Retriever(Protocol):
    """Anything that finds neighbours for chunks of token ids."""

    def neighbours(self, chunk_ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest neighbours of each chunk, best first.

        Args:
            chunk_ids: [rows, m] integer token ids of completed chunks.
            k: neighbours wanted for each row, at least 1.

        Returns:
            (tokens, mask): [rows, k, r] int64 token ids and [rows, k, r] bool, False where there is
            no token: past the end of the neighbour's document, or a neighbour that was not found.
            It is never filled with another chunk.
        """
        ...
