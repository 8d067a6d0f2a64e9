"""Chunkwise tells you what retrieval is worth to your language model.

Importing this package costs nothing: each part imports what it needs when it is used.
"""

__version__ = "0.1.0"
