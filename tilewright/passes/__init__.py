"""Passes: each file one function `Function -> Function`; `pipeline` lists them in order."""
