"""Bytes of a column's K that all register tiles take before the next ones."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.blocking", "KC_BYTES"), (512, 1024, 2048, 4096, 8192))
