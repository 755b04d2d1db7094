"""Columns of wkv that one task takes."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.models.deepseek_v4.steps", "KV_TILE"), (32, 64, 128))
