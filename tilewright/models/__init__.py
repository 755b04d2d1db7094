"""Models written in the tile language."""
