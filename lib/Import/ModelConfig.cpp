//===- ModelConfig.cpp - What a checkpoint computes
//-------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Import/ModelConfig.h"

#include "quant-llm/Support/Numbers.h"

#include <cmath>

using namespace quant_llm;

std::string_view quant_llm::stringifyActivation(Activation activation) {
  switch (activation) {
  case Activation::SiLU:
    return "silu";
  case Activation::GELU:
    return "gelu";
  case Activation::GELUTanh:
    return "gelu_pytorch_tanh";
  case Activation::ReLU:
    return "relu";
  }
  return "silu";
}

Status quant_llm::verifyModelConfig(const ModelConfig &config) {
  struct {
    const char *name;
    int64_t value;
    int64_t limit;
  } const sizes[] = {
      // Limits far above any model, so that no product below can overflow and
      // no
      // absurd file makes us build an endless function.
      {"number of layers", config.numLayers, 4096},
      {"hidden size", config.hiddenSize, 1 << 20},
      {"intermediate size", config.intermediateSize, 1 << 24},
      {"number of attention heads", config.numHeads, 1 << 16},
      {"number of key-value heads", config.numKVHeads, 1 << 16},
      {"head size", config.headDim, 1 << 16},
      {"vocabulary size", config.vocabSize, 1 << 26},
      {"maximum position", config.maxPositions, int64_t(1) << 40},
  };
  for (const auto &size : sizes)
    if (size.value < 1 || size.value > size.limit)
      return Status::error(std::string("expected a ") + size.name +
                           " from 1 to " + std::to_string(size.limit) +
                           " but got " + std::to_string(size.value));
  if (config.numHeads % config.numKVHeads != 0)
    return Status::error(
        "expected the number of attention heads to be a multiple of the number "
        "of key-value heads but got " +
        std::to_string(config.numHeads) + " and " +
        std::to_string(config.numKVHeads));
  if (config.headDim % 2 != 0)
    return Status::error(
        "expected an even head size for the rotary embedding but got " +
        std::to_string(config.headDim));
  if (Status status = verifyEpsilon("rms_norm_eps", config.rmsNormEps);
      !status.ok())
    return status;
  // At 1 all channels would turn alike, and below, later ones faster and
  // faster: a model with such a base was converted wrongly. The bases of models
  // for millions of positions are below 1e11.
  if (!(config.ropeTheta > 1 && config.ropeTheta <= 1e12))
    return Status::error(
        "expected a base of the rotary embedding (rope_theta, "
        "or rope.freq_base) above 1 and at most 1e12 but got " +
        formatShortest(config.ropeTheta) +
        "; correct it in the configuration of the model (most "
        "have 10000)");
  if (config.ropeScaling.kind == RopeScaling::Kind::Llama3) {
    const RopeScaling &scaling = config.ropeScaling;
    if (!(std::isfinite(scaling.factor) && scaling.factor >= 1))
      return Status::error("expected a llama3 rope factor of at least 1");
    if (!(scaling.lowFreqFactor > 0 && std::isfinite(scaling.highFreqFactor) &&
          scaling.highFreqFactor > scaling.lowFreqFactor))
      return Status::error(
          "expected llama3 rope scaling to have 0 < low_freq_factor < "
          "high_freq_factor");
    if (scaling.originalMaxPositions < 1)
      return Status::error("expected llama3 rope scaling to have "
                           "original_max_position_embeddings of "
                           "at least 1");
  }
  return Status::success();
}

Status quant_llm::verifyEpsilon(std::string_view key, double epsilon) {
  if (epsilon > 0 && epsilon < 1) // not of a NaN
    return Status::success();
  return Status::error("expected '" + std::string(key) +
                       "' in (0, 1) but got " + formatShortest(epsilon) +
                       "; correct it in the configuration of the model (most "
                       "have 1e-05 or 1e-06)");
}

Status quant_llm::verifyToken(std::string_view key, int64_t token,
                              int64_t vocabSize) {
  if (token >= 0 && token < vocabSize)
    return Status::success();
  return Status::error("expected '" + std::string(key) + "' in [0, " +
                       std::to_string(vocabSize) +
                       "), the vocabulary of the model, but got " +
                       std::to_string(token));
}

std::vector<TensorSpec> quant_llm::listTensors(const ModelConfig &config) {
  std::vector<TensorSpec> specs;
  auto add = [&](std::string name, std::vector<int64_t> shape,
                 TensorRole role) {
    specs.push_back({std::move(name), std::move(shape), role});
  };
  const int64_t hidden = config.hiddenSize;
  const int64_t inner = config.intermediateSize;
  const int64_t queries = config.numHeads * config.headDim;
  const int64_t keys = config.numKVHeads * config.headDim;

  add("model.embed_tokens.weight", {config.vocabSize, hidden},
      TensorRole::Embedding);
  for (int64_t layer = 0; layer < config.numLayers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    auto linear = [&](const char *name, int64_t outputs, int64_t inputs,
                      bool bias) {
      add(prefix + name + ".weight", {outputs, inputs}, TensorRole::Matrix);
      if (bias)
        add(prefix + name + ".bias", {outputs}, TensorRole::Bias);
    };
    add(prefix + "input_layernorm.weight", {hidden}, TensorRole::Norm);
    linear("self_attn.q_proj", queries, hidden, config.qkvBias);
    linear("self_attn.k_proj", keys, hidden, config.qkvBias);
    linear("self_attn.v_proj", keys, hidden, config.qkvBias);
    if (config.qkNorm) {
      add(prefix + "self_attn.q_norm.weight", {config.headDim},
          TensorRole::Norm);
      add(prefix + "self_attn.k_norm.weight", {config.headDim},
          TensorRole::Norm);
    }
    linear("self_attn.o_proj", hidden, queries, config.outputBias);
    add(prefix + "post_attention_layernorm.weight", {hidden}, TensorRole::Norm);
    linear("mlp.gate_proj", inner, hidden, config.mlpBias);
    linear("mlp.up_proj", inner, hidden, config.mlpBias);
    linear("mlp.down_proj", hidden, inner, config.mlpBias);
  }
  add("model.norm.weight", {hidden}, TensorRole::Norm);
  if (!config.tiedEmbeddings)
    add("lm_head.weight", {config.vocabSize, hidden}, TensorRole::Head);
  return specs;
}

/// 2 pi as the float32 that a Python scalar becomes beside a float32 tensor.
static constexpr float kTwoPi = 6.283185307179586f;

static std::vector<float>
computeUnscaledFrequencies(const ModelConfig &config) {
  std::vector<float> frequencies(config.headDim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent =
        static_cast<float>(2 * i) / static_cast<float>(config.headDim);
    // The power is rounded once: std::pow(float, float) differs between C
    // libraries in the last bit, which large positions multiply.
    const float power = static_cast<float>(
        std::pow(static_cast<double>(static_cast<float>(config.ropeTheta)),
                 static_cast<double>(exponent)));
    frequencies[i] = 1.0f / power;
  }
  return frequencies;
}

static float scaleLlama3(float frequency, const RopeScaling &scaling) {
  const auto length = static_cast<double>(scaling.originalMaxPositions);
  const auto lowWavelength = static_cast<float>(length / scaling.lowFreqFactor);
  const auto highWavelength =
      static_cast<float>(length / scaling.highFreqFactor);
  const auto factor = static_cast<float>(scaling.factor);
  const float wavelength = kTwoPi / frequency;
  if (wavelength > lowWavelength)
    return frequency / factor;
  if (wavelength < highWavelength)
    return frequency;
  const float smooth =
      (static_cast<float>(length) / wavelength -
       static_cast<float>(scaling.lowFreqFactor)) /
      static_cast<float>(scaling.highFreqFactor - scaling.lowFreqFactor);
  return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

std::vector<float>
quant_llm::computeInverseFrequencies(const ModelConfig &config) {
  std::vector<float> frequencies = computeUnscaledFrequencies(config);
  if (config.ropeScaling.kind == RopeScaling::Kind::Llama3)
    for (float &frequency : frequencies)
      frequency = scaleLlama3(frequency, config.ropeScaling);
  return frequencies;
}

Result<RopeScaling>
quant_llm::recoverLlama3Scaling(const std::vector<float> &divisors,
                                const ModelConfig &config) {
  const std::vector<float> frequencies = computeUnscaledFrequencies(config);
  if (divisors.size() != frequencies.size())
    return Status::error("expected " + std::to_string(frequencies.size()) +
                         " rotary frequency factors but got " +
                         std::to_string(divisors.size()));
  RopeScaling scaling;
  scaling.kind = RopeScaling::Kind::Llama3;
  scaling.factor = 1.0;
  for (float divisor : divisors) {
    // Writers compute them by a division, so that 1 may come out a little less.
    if (!std::isfinite(divisor) || divisor < 0.9999f)
      return Status::error("expected rotary frequency factors of at least 1");
    scaling.factor = std::max<double>(scaling.factor, divisor);
  }
  // llama.cpp stores only the factors. The largest is `factor`; the others
  // follow from three numbers that every published model shares.
  scaling.lowFreqFactor = 1.0;
  scaling.highFreqFactor = 4.0;
  scaling.originalMaxPositions = 8192;
  for (size_t i = 0; i < divisors.size(); ++i) {
    const float expected =
        frequencies[i] / scaleLlama3(frequencies[i], scaling);
    if (std::abs(expected - divisors[i]) > 1e-4f * expected)
      return Status::error(
          "expected the rotary frequency factors of llama3 scaling with "
          "low_freq_factor 1, high_freq_factor 4 and 8192 original positions, "
          "but "
          "factor " +
          std::to_string(i) + " is " + std::to_string(divisors[i]) +
          " instead of " + std::to_string(expected));
  }
  return scaling;
}
