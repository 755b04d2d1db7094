"""IR to LLVM IR, through llvmlite."""
