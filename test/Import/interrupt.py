# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""An interrupted import leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time

import gguf
import numpy as np
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "Inputs"))
from processes import accept_signals


def write_large(path):
    """A model that takes a moment to convert: 256 MB of f16."""
    writer = gguf.GGUFWriter(path, "llama")
    hidden, inner, layers = 2048, 8192, 2
    for key, value in [("block_count", layers), ("context_length", 64), ("embedding_length", hidden),
                       ("feed_forward_length", inner), ("attention.head_count", 16)]:
        writer.add_uint32("llama." + key, value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)

    def add(name, *shape):
        kind = np.float32 if len(shape) == 1 else np.float16
        writer.add_tensor(name, np.zeros(shape, kind))

    add("token_embd.weight", 64, hidden)
    for layer in range(layers):
        prefix = f"blk.{layer}."
        add(prefix + "attn_norm.weight", hidden)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(prefix + name + ".weight", hidden, hidden)
        add(prefix + "ffn_norm.weight", hidden)
        add(prefix + "ffn_gate.weight", inner, hidden)
        add(prefix + "ffn_up.weight", inner, hidden)
        add(prefix + "ffn_down.weight", hidden, inner)
    add("output_norm.weight", hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupt(number, tmp_path):
    source = str(tmp_path / "large.gguf")
    write_large(source)
    output = tmp_path / "out"
    output.mkdir()
    interrupted = 0
    for delay in (0.0, 0.02, 0.05, 0.1):
        process = subprocess.Popen(["quant-import", source, "-o", str(output / "model.mlir")], preexec_fn=accept_signals)
        time.sleep(delay)
        process.send_signal(number)
        if process.wait() == -number:
            interrupted += 1
            assert os.listdir(output) == []
        else:
            for name in os.listdir(output):
                (output / name).unlink()
    assert interrupted > 0
