"""From LLVM text to a running call."""
