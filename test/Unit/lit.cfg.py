"""Configuration of the GoogleTest binaries, one lit test per TEST()."""

import lit.formats

config.name = "quant-llm-unit"
config.suffixes = []
config.test_source_root = config.test_exec_root
config.test_format = lit.formats.GoogleTest("", "Tests")
