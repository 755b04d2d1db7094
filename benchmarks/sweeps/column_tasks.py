"""Tasks that a shared loop keeps when its column tiles are widened."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.passes.widen_columns", "TASKS"), (2, 4, 8, 16, 32))
