"""Elements of K that all register tiles take before the next ones."""

from harness import Constant, main

if __name__ == "__main__":
    main(Constant("tilewright.blocking", "KC"), (256, 512, 1024, 2048, 4096))
