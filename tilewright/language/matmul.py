"""Matrix products: BF16, FP16 and FP32 add up in FP32, INT8 exactly in INT32."""

from __future__ import annotations

from tilewright.language.operator import operator


@operator()
def matmul(a, b, out_dtype=None, a_trans=False, b_trans=False, c_matrix_nz=False):
    """a [M,K] times b [K,N] -> [M,N] FP32 or INT32. a_trans takes a as [K,M], b_trans b as [N,K].

    Leading axes are batch axes and broadcast. out_dtype may only name the accumulator's dtype.
    """


@operator()
def matmul_acc(acc, a, b, a_trans=False, b_trans=False):
    """acc [M,N] + a [M,K] times b [K,N] -> [M,N], continuing acc's order of accumulation."""


@operator()
def matmul_bias(a, b, bias):
    """a [M,K] times b [K,N] + bias [1,N] -> [M,N]."""


@operator()
def batch_matmul(a, b):
    """a [B,M,K] times b [B,K,N] -> [B,M,N]."""


@operator()
def gemv(a, b):
    """a [1,K] times b [K,N] -> [1,N]."""


@operator()
def gemv_acc(acc, a, b):
    """acc [1,N] + a [1,K] times b [K,N] -> [1,N]."""


@operator()
def gemv_bias(a, b, bias):
    """a [1,K] times b [K,N] + bias [1,N] -> [1,N]."""
