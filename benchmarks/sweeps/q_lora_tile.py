"""Columns of wq_a that one task takes."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.models.deepseek_v4.steps", "Q_LORA_TILE"), (32, 64, 128))
