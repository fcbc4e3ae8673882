# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""make_product_chain.py N [parameter]: a module with N products, each of the one before with itself, in front of a linear. A value of such a
chain is reached in 2^N ways. With `parameter` they are products with an argument in one chain."""

import sys

count, kind = int(sys.argv[1]), "tensor<4x8xf32>"
print(f"func.func @f(%a: {kind}, %b: {kind}, %w: tensor<8x8xf32>) -> {kind} {{")
print(f"  %0 = arith.mulf %a, %b : {kind}")
for i in range(count):
    print(f"  %{i + 1} = arith.mulf %{i}, {'%b' if 'parameter' in sys.argv else f'%{i}'} : {kind}")
print(f"  %r = quant_llm.linear %{count}, %w : ({kind}, tensor<8x8xf32>) -> {kind}\n  return %r : {kind}\n}}")
