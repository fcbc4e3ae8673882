//===- ModelConfigTest.cpp - Reading model descriptions
//---------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Import/ModelConfig.h"
#include "quant-llm/Support/Numbers.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>

using namespace quant_llm;
using nlohmann::json;

/// A complete description of a small model; tests change it.
static json makeConfig(const char *modelType = "llama") {
  return {{"model_type", modelType},  {"hidden_size", 64},
          {"intermediate_size", 96},  {"num_hidden_layers", 3},
          {"num_attention_heads", 8}, {"num_key_value_heads", 2},
          {"vocab_size", 100},        {"max_position_embeddings", 256},
          {"rms_norm_eps", 1e-5},     {"sliding_window", nullptr}};
}

static Result<ModelConfig> parse(const json &config,
                                 std::vector<std::string> *warnings = nullptr) {
  return parseHuggingFaceConfig(config.dump(), warnings);
}

/// The error for `config`; fails the test if there is none.
static std::string errorOf(const json &config) {
  Result<ModelConfig> result = parse(config);
  EXPECT_FALSE(result.ok()) << config.dump();
  return result.ok() ? "" : result.message();
}

#define EXPECT_ERROR(config, part)                                             \
  EXPECT_NE(errorOf(config).find(part), std::string::npos) << errorOf(config)

TEST(ModelConfig, ReadsEveryArchitecture) {
  for (const char *name : {"llama", "mistral", "qwen2", "qwen3"}) {
    Result<ModelConfig> config = parse(makeConfig(name));
    ASSERT_TRUE(config.ok()) << config.message();
    EXPECT_EQ(config->architecture, name);
    EXPECT_EQ(config->numLayers, 3);
    EXPECT_EQ(config->hiddenSize, 64);
    EXPECT_EQ(config->intermediateSize, 96);
    EXPECT_EQ(config->numHeads, 8);
    EXPECT_EQ(config->numKVHeads, 2);
    EXPECT_EQ(config->vocabSize, 100);
    EXPECT_EQ(config->maxPositions, 256);
    EXPECT_EQ(config->rmsNormEps, 1e-5);
    EXPECT_EQ(config->ropeTheta, 10000.0);
    EXPECT_EQ(config->activation, Activation::SiLU);
    EXPECT_FALSE(config->tiedEmbeddings);
    // Qwen3 has a head size of its own.
    EXPECT_EQ(config->headDim, std::string(name) == "qwen3" ? 128 : 8);
    EXPECT_EQ(config->qkvBias, std::string(name) == "qwen2");
    EXPECT_FALSE(config->outputBias);
    EXPECT_EQ(config->qkNorm, std::string(name) == "qwen3");
  }
}

TEST(ModelConfig, DefaultsAreThoseOfTheConfigurationClasses) {
  json config = makeConfig("llama");
  config.erase("num_key_value_heads");
  config.erase("max_position_embeddings");
  config.erase("rms_norm_eps");
  Result<ModelConfig> result = parse(config);
  ASSERT_TRUE(result.ok()) << result.message();
  EXPECT_EQ(result->numKVHeads, 8); // one for each head
  EXPECT_EQ(result->maxPositions, 2048);
  EXPECT_EQ(result->rmsNormEps, 1e-6);

  config = makeConfig("mistral");
  config.erase("num_key_value_heads");
  result = parse(config);
  ASSERT_TRUE(result.ok()) << result.message();
  EXPECT_EQ(result->numKVHeads, 8);

  config = makeConfig("qwen2");
  config["num_key_value_heads"] = nullptr;
  result = parse(config);
  ASSERT_TRUE(result.ok()) << result.message();
  EXPECT_EQ(result->numKVHeads, 8);
}

TEST(ModelConfig, BiasesPerArchitecture) {
  json config = makeConfig("llama");
  config["attention_bias"] = true;
  config["mlp_bias"] = true;
  Result<ModelConfig> result = parse(config);
  ASSERT_TRUE(result.ok()) << result.message();
  EXPECT_TRUE(result->qkvBias && result->outputBias && result->mlpBias);

  config = makeConfig("qwen3");
  config["attention_bias"] = true;
  result = parse(config);
  ASSERT_TRUE(result.ok()) << result.message();
  EXPECT_TRUE(result->qkvBias && result->outputBias);

  config["mlp_bias"] = true;
  EXPECT_ERROR(config, "'mlp_bias' is not supported for model type 'qwen3'");
  config = makeConfig("mistral");
  config["attention_bias"] = true;
  EXPECT_ERROR(config,
               "'attention_bias' is not supported for model type 'mistral'");
}

TEST(ModelConfig, Activations) {
  for (auto [name, activation] :
       {std::pair("silu", Activation::SiLU),
        std::pair("swish", Activation::SiLU),
        std::pair("gelu", Activation::GELU),
        std::pair("relu", Activation::ReLU),
        std::pair("gelu_pytorch_tanh", Activation::GELUTanh),
        std::pair("gelu_new", Activation::GELUTanh)}) {
    json config = makeConfig();
    config["hidden_act"] = name;
    Result<ModelConfig> result = parse(config);
    ASSERT_TRUE(result.ok()) << result.message();
    EXPECT_EQ(result->activation, activation);
  }
  json config = makeConfig();
  config["hidden_act"] = "quick_gelu";
  EXPECT_ERROR(config,
               "'hidden_act' of 'quick_gelu' is not supported; expected silu");
}

TEST(ModelConfig, RotaryEmbedding) {
  json config = makeConfig();
  config["rope_theta"] = 5e5;
  Result<ModelConfig> result = parse(config);
  ASSERT_TRUE(result.ok()) << result.message();
  EXPECT_EQ(result->ropeTheta, 5e5);
  EXPECT_EQ(result->ropeScaling.kind, RopeScaling::Kind::None);

  // The newer place; a value inside wins over one beside it.
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 7e4}};
  result = parse(config);
  ASSERT_TRUE(result.ok()) << result.message();
  EXPECT_EQ(result->ropeTheta, 7e4);

  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 128}};
  for (const char *key : {"rope_scaling", "rope_parameters"}) {
    json scaled = makeConfig();
    scaled["rope_theta"] = 5e5;
    scaled[key] = llama3;
    result = parse(scaled);
    ASSERT_TRUE(result.ok()) << result.message();
    EXPECT_EQ(result->ropeTheta, 5e5);
    EXPECT_EQ(result->ropeScaling.kind, RopeScaling::Kind::Llama3);
    EXPECT_EQ(result->ropeScaling.factor, 8.0);
    EXPECT_EQ(result->ropeScaling.originalMaxPositions, 128);
  }

  // The older key wins, and may use the older name of the type.
  config["rope_scaling"] = llama3;
  config["rope_scaling"].erase("rope_type");
  config["rope_scaling"]["type"] = "llama3";
  result = parse(config);
  ASSERT_TRUE(result.ok()) << result.message();
  EXPECT_EQ(result->ropeScaling.kind, RopeScaling::Kind::Llama3);
  EXPECT_EQ(result->ropeTheta, 5e5);

  config["rope_scaling"] = nullptr;
  EXPECT_TRUE(parse(config).ok());
}

TEST(ModelConfig, RefusesOtherRotaryEmbeddings) {
  for (const char *type :
       {"linear", "dynamic", "yarn", "longrope", "su", "mrope"}) {
    json config = makeConfig();
    config["rope_scaling"] = {{"type", type}, {"factor", 2.0}};
    EXPECT_ERROR(config,
                 "rope type '" + std::string(type) + "' is not supported");
  }
  json config = makeConfig();
  config["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 8.0}};
  EXPECT_ERROR(config,
               "expected a number for 'low_freq_factor' but got nothing");
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 4.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 128}};
  EXPECT_ERROR(config, "0 < low_freq_factor < high_freq_factor");
  config["rope_scaling"] = 3;
  EXPECT_ERROR(config, "expected an object for 'rope_scaling' but got 3");

  config = makeConfig();
  config["rope_parameters"] = {{"full_attention", {{"rope_type", "default"}}}};
  EXPECT_ERROR(config,
               "separate settings for 'full_attention' is not supported");
  config = makeConfig();
  config["partial_rotary_factor"] = 0.5;
  EXPECT_ERROR(config, "'partial_rotary_factor'");
  config = makeConfig();
  config["rope_parameters"] = {{"partial_rotary_factor", 0.25}};
  EXPECT_ERROR(config, "'partial_rotary_factor'");
  config = makeConfig();
  for (double base : {0.0, -1.0, 1e-44, 0.5, 1.0, 2e12, 1e300}) {
    config["rope_theta"] = base;
    EXPECT_ERROR(config, "(rope_theta, or rope.freq_base) above 1 and at most "
                         "1e12 but got " +
                             formatShortest(base) +
                             "; correct it in the configuration");
  }
  config = makeConfig();
  config["rope_interleaved"] = true;
  EXPECT_ERROR(config, "'rope_interleaved' is not supported");
}

TEST(ModelConfig, SlidingWindow) {
  json config = makeConfig("mistral");
  config["sliding_window"] = 100;
  EXPECT_ERROR(
      config,
      "'sliding_window' of 100 is not supported because it is less than "
      "'max_position_embeddings' (256)");
  config["sliding_window"] = 256;
  EXPECT_TRUE(parse(config).ok());
  // Absent means the default of the class, 4096.
  config.erase("sliding_window");
  EXPECT_TRUE(parse(config).ok());
  config["max_position_embeddings"] = 8192;
  EXPECT_ERROR(config, "'sliding_window' of 4096");

  for (const char *name : {"qwen2", "qwen3"}) {
    config = makeConfig(name);
    config["sliding_window"] = 16;
    config["use_sliding_window"] = false;
    EXPECT_TRUE(parse(config).ok());
    config["use_sliding_window"] = true;
    EXPECT_ERROR(config, "'use_sliding_window' is not supported");
  }
  config = makeConfig("qwen3");
  config["layer_types"] = {"full_attention", "full_attention",
                           "full_attention"};
  EXPECT_TRUE(parse(config).ok());
  config["layer_types"][1] = "sliding_attention";
  EXPECT_ERROR(config, "layer type \"sliding_attention\"");
}

TEST(ModelConfig, RefusesOtherModels) {
  json config = makeConfig("gpt2");
  EXPECT_ERROR(config,
               "model type 'gpt2' is not supported; expected one of llama");
  config.erase("model_type");
  EXPECT_ERROR(config, "no 'model_type' given");
  config = makeConfig();
  config["model_type"] = 7;
  EXPECT_ERROR(config, "expected a string for 'model_type' but got 7");
  config = makeConfig();
  config["architectures"] = {"LlamaForSequenceClassification"};
  EXPECT_ERROR(
      config,
      "architecture \"LlamaForSequenceClassification\" is not supported");
  config = makeConfig();
  config["quantization_config"] = {{"quant_method", "gptq"}, {"bits", 4}};
  EXPECT_ERROR(config,
               "'quantization_config' with method \"gptq\" is not supported");
  config = makeConfig();
  config["is_encoder_decoder"] = true;
  EXPECT_ERROR(config, "'is_encoder_decoder' is not supported");
  config = makeConfig("qwen2");
  config["use_mrope"] = true;
  EXPECT_ERROR(config, "'use_mrope' is not supported");
}

TEST(ModelConfig, RefusesWrongSizes) {
  for (const char *key :
       {"hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "vocab_size"}) {
    json config = makeConfig();
    config.erase(key);
    EXPECT_ERROR(config, "expected an integer for '" + std::string(key) +
                             "' but got nothing");
    config[key] = "64";
    EXPECT_ERROR(config, "expected an integer for '" + std::string(key) +
                             "' but got \"64\"");
    config[key] = 64.5;
    EXPECT_ERROR(config, "but got 64.5");
    config[key] = uint64_t(1) << 63;
    EXPECT_ERROR(config, "expected an integer below 2^63");
    for (int64_t wrong : {int64_t(0), int64_t(-8), int64_t(1) << 62}) {
      config[key] = wrong;
      errorOf(config);
    }
  }
  json config = makeConfig();
  config["num_key_value_heads"] = 3;
  EXPECT_ERROR(
      config,
      "to be a multiple of the number of key-value heads but got 8 and 3");
  config["num_key_value_heads"] = 0;
  EXPECT_ERROR(config, "expected a number of key-value heads from 1");
  config = makeConfig();
  config["num_attention_heads"] = 7;
  EXPECT_ERROR(config, "to be a multiple of 'num_attention_heads'");
  config = makeConfig();
  config["head_dim"] = 7;
  EXPECT_ERROR(config, "expected an even head size");
  config["head_dim"] = 0;
  EXPECT_ERROR(config, "expected a head size from 1");
  config = makeConfig();
  config["rms_norm_eps"] = -1.0;
  EXPECT_ERROR(config, "rms_norm_eps");
  config["rms_norm_eps"] = "1e-5";
  EXPECT_ERROR(config, "expected a number for 'rms_norm_eps'");
  config = makeConfig();
  config["tie_word_embeddings"] = 1;
  EXPECT_ERROR(config,
               "expected true or false for 'tie_word_embeddings' but got 1");
  config = makeConfig();
  config["eos_token_id"] = {1, "2"};
  EXPECT_ERROR(config, "expected integers in 'eos_token_id'");
}

TEST(ModelConfig, AnyValueForAnyOptionIsReadOrRefused) {
  const json values[] = {nullptr,
                         true,
                         -1,
                         0,
                         1,
                         1e308,
                         0.1,
                         "",
                         "text",
                         json({}),
                         {1, "a"},
                         uint64_t(1) << 63,
                         int64_t(1) << 62,
                         {{"a", 1}},
                         {{"rope_type", 3}},
                         {{"type", nullptr}}};
  const char *const keys[] = {"architectures",
                              "attention_bias",
                              "bos_token_id",
                              "eos_token_id",
                              "head_dim",
                              "hidden_act",
                              "hidden_size",
                              "intermediate_size",
                              "layer_types",
                              "max_position_embeddings",
                              "mlp_bias",
                              "model_type",
                              "num_attention_heads",
                              "num_hidden_layers",
                              "num_key_value_heads",
                              "pad_token_id",
                              "partial_rotary_factor",
                              "quantization_config",
                              "rms_norm_eps",
                              "rope_interleaved",
                              "rope_parameters",
                              "rope_scaling",
                              "rope_theta",
                              "sliding_window",
                              "tie_word_embeddings",
                              "use_mrope",
                              "use_sliding_window",
                              "vocab_size",
                              "is_encoder_decoder"};
  for (const char *type : {"llama", "mistral", "qwen2", "qwen3"})
    for (const char *key : keys)
      for (const json &value : values) {
        json config = makeConfig(type);
        config[key] = value;
        Result<ModelConfig> result = parse(config);
        if (!result.ok()) {
          EXPECT_FALSE(result.message().empty());
        } else if (result->numLayers < 100) {
          EXPECT_FALSE(listTensors(*result).empty());
        }
      }
}

TEST(ModelConfig, RefusesWrongText) {
  for (const char *text : {"", "{", "[1, 2]", "3", "{\"model_type\": \"llama\"",
                           "{\"model_type\": \"\xff\"}", "{} {}"}) {
    EXPECT_FALSE(parseHuggingFaceConfig(text, nullptr).ok()) << text;
  }
  EXPECT_FALSE(parseHuggingFaceConfig(std::string(100000, '['), nullptr).ok());
}

TEST(ModelConfig, WarnsOfUnknownOptionsOnly) {
  json config = makeConfig();
  config["torch_dtype"] = "float16";
  config["use_cache"] = true;
  std::vector<std::string> warnings;
  ASSERT_TRUE(parse(config, &warnings).ok());
  EXPECT_TRUE(warnings.empty());
  config["warp_speed"] = 9;
  ASSERT_TRUE(parse(config, &warnings).ok());
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings.front().find("unknown option \"warp_speed\" is ignored"),
            std::string::npos);
}

TEST(ModelConfig, SettingsThatARopeTypeDoesNotTakeAreIgnoredWithAWarning) {
  json config = makeConfig("llama");
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 8192},
                            {"rope_theta", 10000.0}};
  std::vector<std::string> warnings;
  ASSERT_TRUE(parse(config, &warnings).ok());
  EXPECT_TRUE(warnings.empty());
  config["rope_scaling"]["attention_factor"] = 2.0;
  ASSERT_TRUE(parse(config, &warnings).ok());
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_EQ(warnings.front(),
            "option \"attention_factor\" in 'rope_scaling' is ignored, as "
            "Transformers ignores it for rope type 'llama3'");
  warnings.clear();
  config.erase("rope_scaling");
  config["rope_parameters"] = {{"rope_type", "default"}, {"factor", 8.0}};
  ASSERT_TRUE(parse(config, &warnings).ok());
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_EQ(warnings.front(),
            "option \"factor\" in 'rope_parameters' is ignored, as "
            "Transformers ignores it for rope type 'default'");
}

TEST(ModelConfig, TokenIds) {
  json config = makeConfig();
  config["bos_token_id"] = 1;
  config["eos_token_id"] = {2, 5};
  config["pad_token_id"] = nullptr;
  Result<ModelConfig> result = parse(config);
  ASSERT_TRUE(result.ok()) << result.message();
  EXPECT_EQ(result->bosToken, 1);
  EXPECT_EQ(result->eosTokens, (std::vector<int64_t>{2, 5}));
  EXPECT_FALSE(result->padToken.has_value());
}

TEST(ModelConfig, WrittenConfigReadsBackTheSame) {
  for (const char *name : {"llama", "mistral", "qwen2", "qwen3"}) {
    json config = makeConfig(name);
    config["tie_word_embeddings"] = true;
    config["eos_token_id"] = {2, 5};
    config["head_dim"] = 16;
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", 8.0},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", 128}};
    Result<ModelConfig> first = parse(config);
    ASSERT_TRUE(first.ok()) << first.message();
    Result<std::string> text = writeHuggingFaceConfig(*first, "float16");
    ASSERT_TRUE(text.ok()) << text.message();
    std::vector<std::string> warnings;
    Result<ModelConfig> second = parseHuggingFaceConfig(*text, &warnings);
    ASSERT_TRUE(second.ok()) << second.message();
    EXPECT_TRUE(warnings.empty());
    EXPECT_EQ(writeHuggingFaceConfig(*second, "float16").take(), *text);
    EXPECT_EQ(second->headDim, 16);
    EXPECT_EQ(second->ropeScaling.kind, RopeScaling::Kind::Llama3);
    EXPECT_EQ(second->qkvBias, first->qkvBias);
    EXPECT_EQ(second->qkNorm, first->qkNorm);
    EXPECT_EQ(second->eosTokens, first->eosTokens);
  }
}

TEST(ModelConfig, WriterRefusesWhatNoClassHas) {
  Result<ModelConfig> config = parse(makeConfig("llama"));
  ASSERT_TRUE(config.ok());
  config->qkvBias = true;
  EXPECT_FALSE(writeHuggingFaceConfig(*config, "float16").ok());
  config->outputBias = true;
  EXPECT_TRUE(writeHuggingFaceConfig(*config, "float16").ok());
  config->qkNorm = true;
  EXPECT_FALSE(writeHuggingFaceConfig(*config, "float16").ok());
}

TEST(ModelConfig, ListsTensorsInOrderOfUse) {
  json json = makeConfig("qwen3");
  json["num_hidden_layers"] = 1;
  json["attention_bias"] = true;
  Result<ModelConfig> config = parse(json);
  ASSERT_TRUE(config.ok()) << config.message();
  std::vector<std::string> names;
  for (const TensorSpec &spec : listTensors(*config))
    names.push_back(spec.name);
  const std::string layer = "model.layers.0.";
  EXPECT_EQ(names, (std::vector<std::string>{
                       "model.embed_tokens.weight",
                       layer + "input_layernorm.weight",
                       layer + "self_attn.q_proj.weight",
                       layer + "self_attn.q_proj.bias",
                       layer + "self_attn.k_proj.weight",
                       layer + "self_attn.k_proj.bias",
                       layer + "self_attn.v_proj.weight",
                       layer + "self_attn.v_proj.bias",
                       layer + "self_attn.q_norm.weight",
                       layer + "self_attn.k_norm.weight",
                       layer + "self_attn.o_proj.weight",
                       layer + "self_attn.o_proj.bias",
                       layer + "post_attention_layernorm.weight",
                       layer + "mlp.gate_proj.weight",
                       layer + "mlp.up_proj.weight",
                       layer + "mlp.down_proj.weight",
                       "model.norm.weight",
                       "lm_head.weight",
                   }));
  EXPECT_EQ(listTensors(*config)[2].shape, (std::vector<int64_t>{8 * 128, 64}));
  EXPECT_EQ(listTensors(*config)[4].shape, (std::vector<int64_t>{2 * 128, 64}));
}

TEST(Rope, FrequenciesFollowTheFormula) {
  ModelConfig config;
  config.headDim = 64;
  config.ropeTheta = 1e5;
  const std::vector<float> frequencies = computeInverseFrequencies(config);
  ASSERT_EQ(frequencies.size(), 32u);
  EXPECT_EQ(frequencies.front(), 1.0f);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exact = std::pow(1e5, -2.0 * static_cast<double>(i) / 64);
    EXPECT_NEAR(frequencies[i], exact, 2e-7 * exact);
  }
}

TEST(Rope, Llama3ScalesLowFrequenciesOnly) {
  ModelConfig config;
  config.headDim = 128;
  config.ropeTheta = 5e5;
  const std::vector<float> plain = computeInverseFrequencies(config);
  config.ropeScaling = {RopeScaling::Kind::Llama3, 8.0, 1.0, 4.0, 8192};
  const std::vector<float> scaled = computeInverseFrequencies(config);
  int between = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2 * M_PI / plain[i];
    if (wavelength < 8192.0 / 4)
      EXPECT_EQ(scaled[i], plain[i]);
    else if (wavelength > 8192.0)
      EXPECT_EQ(scaled[i], plain[i] / 8);
    else {
      ++between;
      EXPECT_GT(scaled[i], plain[i] / 8);
      EXPECT_LT(scaled[i], plain[i]);
    }
  }
  EXPECT_GT(between, 0);

  // And back from the factors that llama.cpp stores.
  std::vector<float> divisors(plain.size());
  for (size_t i = 0; i < plain.size(); ++i)
    divisors[i] = plain[i] / scaled[i];
  Result<RopeScaling> recovered = recoverLlama3Scaling(divisors, config);
  ASSERT_TRUE(recovered.ok()) << recovered.message();
  EXPECT_NEAR(recovered->factor, 8.0, 1e-5);
  EXPECT_EQ(recovered->originalMaxPositions, 8192);

  divisors[40] *= 1.5f;
  EXPECT_FALSE(recoverLlama3Scaling(divisors, config).ok());
  divisors[40] = NAN;
  EXPECT_FALSE(recoverLlama3Scaling(divisors, config).ok());
  divisors.pop_back();
  EXPECT_FALSE(recoverLlama3Scaling(divisors, config).ok());
}
