"""Tokens that the kernels take through all weights at once."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.models.deepseek_v4.steps", "T_CHUNK"), (128, 256, 512, 1024))
