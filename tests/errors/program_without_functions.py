"""A program has a function."""

import tilewright.language as pl


@pl.program
class Program:
    SIZE = 4
