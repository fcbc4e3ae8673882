//===- HuggingFaceConfig.cpp - Reading and writing config.json
//--------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Defaults of absent keys are those of the configuration classes of
// Transformers for the model type: save_pretrained leaves out what equals a
// default.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Import/ModelConfig.h"

#include "Printable.h"

#include "quant-llm/Support/Json.h"

#include <algorithm>
#include <limits>

using namespace quant_llm;
using nlohmann::json;

namespace {

/// What the configuration class of a model type assumes for absent keys.
struct Architecture {
  const char *modelType;
  const char *className;
  int64_t defaultMaxPositions;
  /// 0: one key-value head per attention head.
  int64_t defaultKVHeads;
  /// 0: hidden size divided by the number of heads.
  int64_t defaultHeadDim;
};

/// Reads typed values of one JSON object. The first error is kept and every
/// later read returns the default, so callers check once.
class Reader {
public:
  Reader(const json &object, std::string where)
      : object(object), where(std::move(where)) {}

  const Status &status() const { return failure; }

  /// The value of `key`, or null if it is absent or JSON null.
  const json *find(const char *key) const {
    auto it = object.find(key);
    return it == object.end() || it->is_null() ? nullptr : &*it;
  }

  int64_t integer(const char *key, std::optional<int64_t> fallback) {
    const json *value = find(key);
    if (!value) {
      if (!fallback)
        fail(key, "an integer", "nothing");
      return fallback.value_or(0);
    }
    if (value->is_number_unsigned() &&
        value->get<uint64_t>() >
            static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      fail(key, "an integer below 2^63", value->dump());
      return 0;
    }
    if (value->is_number_integer())
      return value->get<int64_t>();
    fail(key, "an integer", describe(*value));
    return 0;
  }

  double number(const char *key, std::optional<double> fallback) {
    const json *value = find(key);
    if (!value) {
      if (!fallback)
        fail(key, "a number", "nothing");
      return fallback.value_or(0);
    }
    if (value->is_number())
      return value->get<double>();
    fail(key, "a number", describe(*value));
    return 0;
  }

  bool boolean(const char *key, bool fallback) {
    const json *value = find(key);
    if (!value)
      return fallback;
    if (value->is_boolean())
      return value->get<bool>();
    fail(key, "true or false", describe(*value));
    return fallback;
  }

  std::string text(const char *key, std::string fallback) {
    const json *value = find(key);
    if (!value)
      return fallback;
    if (value->is_string())
      return value->get<std::string>();
    fail(key, "a string", describe(*value));
    return fallback;
  }

  void fail(const std::string &key, const std::string &expected,
            const std::string &found) {
    refuse("expected " + expected + " for '" + key + "' but got " + found);
  }

  void refuse(const std::string &message) {
    if (failure.ok())
      failure = Status::error(where.empty() ? message : where + ": " + message);
  }

  /// A short form of a value for messages.
  static std::string describe(const json &value) {
    std::string text =
        value.dump(-1, ' ', true, json::error_handler_t::replace);
    if (text.size() > 60)
      text = text.substr(0, 57) + "...";
    return text;
  }

private:
  const json &object;
  std::string where;
  Status failure;
};

} // namespace

static const Architecture kArchitectures[] = {
    {"llama", "LlamaForCausalLM", 2048, 0, 0},
    {"mistral", "MistralForCausalLM", 131072, 8, 0},
    {"qwen2", "Qwen2ForCausalLM", 32768, 32, 0},
    {"qwen3", "Qwen3ForCausalLM", 32768, 32, 128},
};

/// Keys that change nothing in inference in float32, or that are read below.
static const char *const kKnownKeys[] = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_bias",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "id2label",
    "initializer_range",
    "intermediate_size",
    "is_decoder",
    "is_encoder_decoder",
    "is_llama_config",
    "label2id",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "partial_rotary_factor",
    "pretraining_tp",
    "problem_type",
    "quant_llm",
    "quantization_config",
    "return_dict",
    "rms_norm_eps",
    "rope_interleaved",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "use_cache",
    "use_mrope",
    "use_sliding_window",
    "vocab_size",
};

/// Reads the rotary embedding as Transformers does: `rope_scaling` (the older
/// key) replaces `rope_parameters`, and a base frequency inside wins over the
/// one beside it.
static Status readRope(const json &root, Reader &reader, ModelConfig &config,
                       std::vector<std::string> *warnings) {
  config.ropeTheta = reader.number("rope_theta", 10000.0);
  double rotary = reader.number("partial_rotary_factor", 1.0);

  const char *key = "rope_scaling";
  const json *rope = reader.find(key);
  auto checkObject = [&] {
    if (rope && !rope->is_object())
      reader.fail(key, "an object", Reader::describe(*rope));
    return reader.status();
  };
  if (Status status = checkObject(); !status.ok())
    return status;
  if (!rope || rope->empty()) {
    key = "rope_parameters";
    rope = reader.find(key);
    if (Status status = checkObject(); !status.ok())
      return status;
  }
  if (rope && !rope->empty()) {
    for (const auto &item : rope->items())
      if (item.value().is_object())
        return Status::error(
            std::string("'") + key + "' with separate settings for '" +
            printable(item.key()) +
            "' is not supported; expected one setting for all layers");
    Reader nested(*rope, std::string("in '") + key + "'");
    config.ropeTheta = nested.number("rope_theta", config.ropeTheta);
    rotary = nested.number("partial_rotary_factor", rotary);
    const std::string type =
        nested.text("rope_type", nested.text("type", "default"));
    if (type == "llama3") {
      config.ropeScaling.kind = RopeScaling::Kind::Llama3;
      config.ropeScaling.factor = nested.number("factor", std::nullopt);
      config.ropeScaling.lowFreqFactor =
          nested.number("low_freq_factor", std::nullopt);
      config.ropeScaling.highFreqFactor =
          nested.number("high_freq_factor", std::nullopt);
      config.ropeScaling.originalMaxPositions = nested.integer(
          "original_max_position_embeddings", config.maxPositions);
    } else if (type != "default") {
      nested.refuse("rope type '" + type +
                    "' is not supported; expected 'default' or 'llama3'");
    }
    if (!nested.status().ok())
      return nested.status();
    std::vector<std::string_view> known = {
        "rope_theta", "partial_rotary_factor", "rope_type", "type"};
    if (config.ropeScaling.kind == RopeScaling::Kind::Llama3)
      known.insert(known.end(),
                   {"factor", "low_freq_factor", "high_freq_factor",
                    "original_max_position_embeddings"});
    for (const auto &item : rope->items())
      if (warnings &&
          std::find(known.begin(), known.end(), item.key()) == known.end())
        warnings->push_back("option " + Reader::describe(json(item.key())) +
                            " in '" + key +
                            "' is ignored, as Transformers ignores it for rope "
                            "type '" +
                            type + "'");
  }
  if (rotary != 1.0)
    return Status::error(
        "'partial_rotary_factor' of " + std::to_string(rotary) +
        " is not supported; expected 1 (the whole head is rotated)");
  if (reader.boolean("rope_interleaved", false))
    return Status::error("'rope_interleaved' is not supported; expected false");
  return reader.status();
}

/// Refuses attention over a window of the last tokens when it can take effect.
static Status checkSlidingWindow(const json &root, Reader &reader,
                                 const ModelConfig &config) {
  if (const json *types = reader.find("layer_types")) {
    if (!types->is_array())
      return Status::error("expected a list for 'layer_types' but got " +
                           Reader::describe(*types));
    for (const json &type : *types)
      if (!type.is_string() ||
          type.get_ref<const std::string &>() != "full_attention")
        return Status::error("layer type " + Reader::describe(type) +
                             " in 'layer_types' is not supported; expected "
                             "'full_attention' for every layer");
  }
  if (config.architecture == "mistral") {
    // Absent means the default of the class, null means no window.
    int64_t window = 4096;
    if (root.contains("sliding_window"))
      window = reader.integer("sliding_window", config.maxPositions);
    if (reader.status().ok() && window < config.maxPositions)
      return Status::error(
          "'sliding_window' of " + std::to_string(window) +
          " is not supported because it is less than 'max_position_embeddings' "
          "(" +
          std::to_string(config.maxPositions) +
          "); set it to null if all your texts are shorter than the window");
  } else if (reader.boolean("use_sliding_window", false)) {
    return Status::error("'use_sliding_window' is not supported; set it to "
                         "false if all your texts "
                         "are shorter than 'sliding_window'");
  }
  return reader.status();
}

static Status readTokens(Reader &reader, ModelConfig &config) {
  if (reader.find("bos_token_id"))
    config.bosToken = reader.integer("bos_token_id", 0);
  if (reader.find("pad_token_id"))
    config.padToken = reader.integer("pad_token_id", 0);
  if (const json *eos = reader.find("eos_token_id")) {
    if (eos->is_array()) {
      for (const json &token : *eos) {
        if (!token.is_number_integer())
          return Status::error("expected integers in 'eos_token_id' but got " +
                               Reader::describe(token));
        config.eosTokens.push_back(token.get<int64_t>());
      }
    } else {
      config.eosTokens.push_back(reader.integer("eos_token_id", 0));
    }
  }
  if (!reader.status().ok())
    return reader.status();
  if (config.bosToken)
    if (Status status =
            verifyToken("bos_token_id", *config.bosToken, config.vocabSize);
        !status.ok())
      return status;
  for (int64_t token : config.eosTokens)
    if (Status status = verifyToken("eos_token_id", token, config.vocabSize);
        !status.ok())
      return status;
  return Status::success();
}

Result<ModelConfig>
quant_llm::parseHuggingFaceConfig(std::string_view text,
                                  std::vector<std::string> *warnings) {
  Result<json> parsed = parseJson(text);
  if (!parsed.ok())
    return parsed.status();
  const json &root = *parsed;
  if (!root.is_object())
    return Status::error("expected a JSON object but got " +
                         Reader::describe(root));

  Reader reader(root, "");
  const std::string modelType = reader.text("model_type", "");
  if (!reader.status().ok())
    return reader.status();
  const Architecture *architecture = nullptr;
  for (const Architecture &candidate : kArchitectures)
    if (modelType == candidate.modelType)
      architecture = &candidate;
  if (!architecture)
    return Status::error(
        (modelType.empty()
             ? std::string("no 'model_type' given")
             : "model type '" + printable(modelType) + "' is not supported") +
        "; expected one of llama, mistral, qwen2, qwen3");
  if (const json *names = reader.find("architectures")) {
    if (!names->is_array())
      return Status::error("expected a list for 'architectures' but got " +
                           Reader::describe(*names));
    for (const json &name : *names)
      if (!name.is_string() ||
          name.get_ref<const std::string &>() != architecture->className)
        return Status::error("architecture " + Reader::describe(name) +
                             " is not supported for model type '" + modelType +
                             "'; expected '" + architecture->className + "'");
  }

  ModelConfig config;
  config.architecture = modelType;
  config.hiddenSize = reader.integer("hidden_size", std::nullopt);
  config.intermediateSize = reader.integer("intermediate_size", std::nullopt);
  config.numLayers = reader.integer("num_hidden_layers", std::nullopt);
  config.numHeads = reader.integer("num_attention_heads", std::nullopt);
  config.vocabSize = reader.integer("vocab_size", std::nullopt);
  config.maxPositions = reader.integer("max_position_embeddings",
                                       architecture->defaultMaxPositions);
  if (!reader.status().ok())
    return reader.status();

  // JSON null means one key-value head per head; an absent key the class
  // default.
  config.numKVHeads = reader.integer(
      "num_key_value_heads",
      architecture->defaultKVHeads == 0 || root.contains("num_key_value_heads")
          ? config.numHeads
          : architecture->defaultKVHeads);
  int64_t headDim = architecture->defaultHeadDim;
  if (headDim == 0 || (root.contains("head_dim") && !reader.find("head_dim"))) {
    if (!reader.find("head_dim") &&
        (config.numHeads < 1 || config.hiddenSize % config.numHeads != 0))
      return Status::error("expected 'hidden_size' to be a multiple of "
                           "'num_attention_heads' (or "
                           "'head_dim' to be given) but got " +
                           std::to_string(config.hiddenSize) + " and " +
                           std::to_string(config.numHeads));
    headDim = config.numHeads < 1 ? 0 : config.hiddenSize / config.numHeads;
  }
  config.headDim = reader.integer("head_dim", headDim);

  // Transformers has no default for null here.
  for (const char *key : {"rms_norm_eps", "hidden_act"})
    if (auto it = root.find(key); it != root.end() && it->is_null())
      reader.fail(key, "a value", "null");
  config.rmsNormEps = reader.number("rms_norm_eps", 1e-6);
  const std::string activation = reader.text("hidden_act", "silu");
  if (activation == "silu" || activation == "swish")
    config.activation = Activation::SiLU;
  else if (activation == "gelu")
    config.activation = Activation::GELU;
  else if (activation == "gelu_pytorch_tanh" || activation == "gelu_new")
    config.activation = Activation::GELUTanh;
  else if (activation == "relu")
    config.activation = Activation::ReLU;
  else
    reader.refuse(
        "'hidden_act' of '" + printable(activation) +
        "' is not supported; expected silu, gelu, gelu_pytorch_tanh or relu");

  // Only two of the classes look at these; the others have fixed biases.
  const bool attentionBias = reader.boolean("attention_bias", false);
  const bool mlpBias = reader.boolean("mlp_bias", false);
  if (modelType == "qwen2") {
    config.qkvBias = true;
  } else if (modelType == "llama" || modelType == "qwen3") {
    config.qkvBias = config.outputBias = attentionBias;
  } else if (attentionBias) {
    reader.refuse("'attention_bias' is not supported for model type '" +
                  modelType + "'");
  }
  if (modelType == "llama")
    config.mlpBias = mlpBias;
  else if (mlpBias)
    reader.refuse("'mlp_bias' is not supported for model type '" + modelType +
                  "'");
  config.qkNorm = modelType == "qwen3";
  config.tiedEmbeddings = reader.boolean("tie_word_embeddings", false);

  if (reader.boolean("use_mrope", false))
    reader.refuse("'use_mrope' is not supported; expected false");
  if (reader.boolean("is_encoder_decoder", false))
    reader.refuse("'is_encoder_decoder' is not supported; expected false");
  if (const json *quantization = reader.find("quantization_config")) {
    const json method =
        quantization->is_object()
            ? quantization->value("quant_method", json("unknown"))
            : json("unknown");
    reader.refuse(
        "'quantization_config' with method " + Reader::describe(method) +
        " is not supported; expected the weights in f32, f16 or bf16");
  }
  if (!reader.status().ok())
    return reader.status();

  if (Status status = readRope(root, reader, config, warnings); !status.ok())
    return status;
  if (Status status = checkSlidingWindow(root, reader, config); !status.ok())
    return status;
  if (Status status = verifyModelConfig(config); !status.ok())
    return status;
  if (Status status = readTokens(reader, config); !status.ok())
    return status;

  if (warnings)
    for (const auto &item : root.items())
      if (std::none_of(std::begin(kKnownKeys), std::end(kKnownKeys),
                       [&](const char *key) { return item.key() == key; }))
        warnings->push_back(
            "unknown option " + Reader::describe(json(item.key())) +
            " is ignored, as Transformers ignores it for model type '" +
            modelType + "'");
  return config;
}

Result<std::string> quant_llm::writeHuggingFaceConfig(const ModelConfig &config,
                                                      std::string_view dtype) {
  const Architecture *architecture = nullptr;
  for (const Architecture &candidate : kArchitectures)
    if (config.architecture == candidate.modelType)
      architecture = &candidate;
  if (!architecture)
    return Status::error("no Hugging Face model type for '" +
                         config.architecture + "'");

  // The combinations of biases and norms that the classes can express.
  const bool llama = config.architecture == "llama";
  const bool qwen2 = config.architecture == "qwen2";
  const bool qwen3 = config.architecture == "qwen3";
  const bool optionalBias = llama || qwen3;
  if (qwen2          ? !config.qkvBias || config.outputBias
      : optionalBias ? config.qkvBias != config.outputBias
                     : config.qkvBias || config.outputBias)
    return Status::error(
        "model type '" + config.architecture +
        "' of Transformers cannot have these attention biases");
  if (config.mlpBias && !llama)
    return Status::error("model type '" + config.architecture +
                         "' of Transformers cannot have feed-forward biases");
  if (config.qkNorm != qwen3)
    return Status::error("model type '" + config.architecture +
                         "' of Transformers " + (qwen3 ? "must" : "cannot") +
                         " have query and key norms");

  // Ordered: the file is the same from run to run and pleasant to read.
  nlohmann::ordered_json root;
  root["architectures"] = {architecture->className};
  root["model_type"] = config.architecture;
  root["hidden_size"] = config.hiddenSize;
  root["intermediate_size"] = config.intermediateSize;
  root["num_hidden_layers"] = config.numLayers;
  root["num_attention_heads"] = config.numHeads;
  root["num_key_value_heads"] = config.numKVHeads;
  if (!qwen2 || config.headDim * config.numHeads != config.hiddenSize)
    root["head_dim"] = config.headDim;
  root["vocab_size"] = config.vocabSize;
  root["max_position_embeddings"] = config.maxPositions;
  root["hidden_act"] = stringifyActivation(config.activation);
  root["rms_norm_eps"] = config.rmsNormEps;
  root["rope_theta"] = config.ropeTheta;
  if (config.ropeScaling.kind == RopeScaling::Kind::Llama3) {
    root["rope_scaling"] = {
        {"rope_type", "llama3"},
        {"factor", config.ropeScaling.factor},
        {"low_freq_factor", config.ropeScaling.lowFreqFactor},
        {"high_freq_factor", config.ropeScaling.highFreqFactor},
        {"original_max_position_embeddings",
         config.ropeScaling.originalMaxPositions}};
  }
  if (optionalBias)
    root["attention_bias"] = config.qkvBias;
  if (llama)
    root["mlp_bias"] = config.mlpBias;
  if (config.architecture == "mistral")
    root["sliding_window"] = nullptr;
  root["tie_word_embeddings"] = config.tiedEmbeddings;
  auto token = [&](const char *key, const std::optional<int64_t> &id) {
    root[key] =
        id ? nlohmann::ordered_json(*id) : nlohmann::ordered_json(nullptr);
  };
  token("bos_token_id", config.bosToken);
  if (config.eosTokens.size() == 1)
    root["eos_token_id"] = config.eosTokens.front();
  else if (config.eosTokens.empty())
    root["eos_token_id"] = nullptr;
  else
    root["eos_token_id"] = config.eosTokens;
  token("pad_token_id", config.padToken);
  root["torch_dtype"] = dtype;
  // Marks the file as ours, so that importing again may replace it.
  root["quant_llm"] = {{"written_by", "quant-import"}};
  return root.dump(2) + "\n";
}
