//===- ModelConfig.h - What a checkpoint computes ---------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The description of a model of the Llama family, read from a Hugging Face
// config.json or from GGUF metadata, without MLIR. Every option that changes
// the computation is either a field here or refused by name when the file is
// read: a model that imports computes what its authors meant.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_IMPORT_MODELCONFIG_H
#define QUANT_LLM_IMPORT_MODELCONFIG_H

#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quant_llm {

/// The nonlinearity of the gated feed-forward network.
enum class Activation { SiLU, GELU, GELUTanh, ReLU };

/// Frequency scaling of the rotary embedding. Only `llama3` uses the numbers.
struct RopeScaling {
  enum class Kind { None, Llama3 };
  Kind kind = Kind::None;
  double factor = 1.0;
  double lowFreqFactor = 1.0;
  double highFreqFactor = 4.0;
  int64_t originalMaxPositions = 0;
};

struct ModelConfig {
  /// Hugging Face model type: llama, mistral, qwen2 or qwen3.
  std::string architecture;

  int64_t numLayers = 0;
  int64_t hiddenSize = 0;
  int64_t intermediateSize = 0;
  int64_t numHeads = 0;
  int64_t numKVHeads = 0;
  int64_t headDim = 0;
  int64_t vocabSize = 0;
  int64_t maxPositions = 0;

  double rmsNormEps = 1e-6;
  double ropeTheta = 10000.0;
  RopeScaling ropeScaling;
  Activation activation = Activation::SiLU;

  bool qkvBias = false;
  bool outputBias = false;
  bool mlpBias = false;
  /// RMS normalization of each query and key head before the rotation.
  bool qkNorm = false;
  /// The output projection is the embedding table.
  bool tiedEmbeddings = false;

  std::optional<int64_t> bosToken;
  std::optional<int64_t> padToken;
  std::vector<int64_t> eosTokens;
};

/// The role of a tensor decides what the importer does with it.
enum class TensorRole { Embedding, Head, Matrix, Bias, Norm };

/// A tensor that the model needs, by its Hugging Face name.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  TensorRole role;
};

/// Reads the text of a config.json. Options that are known to change nothing
/// are skipped; unknown ones are named in `warnings`.
Result<ModelConfig> parseHuggingFaceConfig(std::string_view text,
                                           std::vector<std::string> *warnings);

/// The config.json of `config`, such that Transformers builds the same model.
/// Fails for the combinations that no Hugging Face model type has.
Result<std::string> writeHuggingFaceConfig(const ModelConfig &config,
                                           std::string_view dtype);

/// Checks that all sizes are positive, divide as they must and are small enough
/// for their products not to overflow.
Status verifyModelConfig(const ModelConfig &config);

/// Checks that `epsilon`, the value of the option `key`, is in (0, 1): the root
/// of a mean square of 0 is divided by otherwise, or nothing is normalized.
Status verifyEpsilon(std::string_view key, double epsilon);

/// Checks that `token`, the value of the option `key`, is in the vocabulary.
Status verifyToken(std::string_view key, int64_t token, int64_t vocabSize);

/// The tensors of the model in the order of use. For tied embeddings only the
/// embedding table is listed.
std::vector<TensorSpec> listTensors(const ModelConfig &config);

/// The headDim/2 rotary frequencies, in float32 with one rounding per operation
/// as Transformers computes them, scaling applied.
std::vector<float> computeInverseFrequencies(const ModelConfig &config);

/// The per-frequency divisors of llama3 scaling, as llama.cpp stores them in
/// the tensor rope_freqs.weight: the scaling whose divisors are `divisors`, or
/// an error if there is none.
Result<RopeScaling> recoverLlama3Scaling(const std::vector<float> &divisors,
                                         const ModelConfig &config);

/// "silu", "gelu", "gelu_pytorch_tanh" or "relu".
std::string_view stringifyActivation(Activation activation);

} // namespace quant_llm

#endif // QUANT_LLM_IMPORT_MODELCONFIG_H
