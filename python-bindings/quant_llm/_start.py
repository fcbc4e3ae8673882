# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What a command does before it imports anything large."""

import os
import signal
import sys


def prepare(name):
    """Makes signals and standard streams fit for a command, whose name begins its
    messages."""
    # Until there is something to clean up, Ctrl-C ends the process as it is.
    # Whoever starts us may hold it back until now (scripts/setup.sh).
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    # A stream that is closed would be the next file that is opened.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    if sys.stdout is None:
        print(f"{name}: error: cannot write to standard output: it is closed", file=sys.stderr)
        raise SystemExit(2)
    # What a model writes may have characters that the terminal lacks.
    sys.stdout.reconfigure(errors="replace")
