"""DeepSeek-V4's Q/KV projection with partial RoPE: kernels, reference, checks, inputs.

Start at `prefill_qkv_proj_rope` for the kernel, `reference` for the mathematics, `registry` for the
kernels by name.
"""
