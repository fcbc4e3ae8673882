# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""`python -m quant_llm` is the command quant-llm."""

import sys

from ._start import prepare

prepare("quant-llm")


def main():
    from .cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
