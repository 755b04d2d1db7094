from collections import namedtuple
from types import SimpleNamespace

HIDDEN = 512
INTER = 1024
TOKENS = 64
TILES = {"t": 16, "n": 128}
T_TILE, N_TILE = TILES["t"], TILES["n"]
Sizes = namedtuple("Sizes", "hidden inter tokens")
SIZES = Sizes(HIDDEN, INTER, TOKENS)
CFG = SimpleNamespace(swiglu_limit=7.0, gelu_c=0.7978845608028654, shapes=(TOKENS, INTER))
