//===- GGUFCheckpoint.cpp - A model in a GGUF file
//--------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// llama.cpp has names of its own for metadata and tensors. Architecture "llama"
// stands for Llama and Mistral models; the rows of its query and key
// projections are interleaved within each head, because its rotary embedding
// turns neighbouring elements where Transformers turns halves.
//
//===----------------------------------------------------------------------===//

#include "GGUFCheckpoint.h"
#include "Printable.h"

#include "quant-llm/Support/Parallel.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <set>

using namespace quant_llm;

const char *const quant_llm::kImportedMetadataKey = "quant_llm.imported_from";

namespace {

/// Names a tensor of a layer in both conventions.
struct LayerName {
  const char *huggingFace;
  const char *gguf;
};

/// Reads the metadata of one file; keeps the first error.
class Metadata {
public:
  Metadata(const GGUFFile &file, std::string architecture)
      : file(file), architecture(std::move(architecture)) {}

  const Status &status() const { return failure; }

  const GGUFValue *find(const std::string &key) const {
    return file.findMetadata(architecture + "." + key);
  }

  int64_t integer(const std::string &key,
                  std::optional<int64_t> fallback = {}) {
    const GGUFValue *value = find(key);
    if (!value && fallback)
      return *fallback;
    if (value)
      if (std::optional<int64_t> number = value->asInteger())
        return *number;
    fail(key, "an integer", value);
    return 0;
  }

  double number(const std::string &key, std::optional<double> fallback = {}) {
    const GGUFValue *value = find(key);
    if (!value && fallback)
      return *fallback;
    if (value) {
      if (std::optional<double> number = value->asFloat()) {
        // The file holds the float32 next to a decimal number: 1e-5 is stored
        // as 9.99999975e-06. The shortest decimal with that float32 is what was
        // meant.
        if (value->type() != GGUFValue::Type::F32)
          return *number;
        char text[64];
        auto end = std::to_chars(text, text + sizeof(text),
                                 static_cast<float>(*number));
        double decimal = *number;
        std::from_chars(text, end.ptr, decimal);
        return decimal;
      }
    }
    fail(key, "a number", value);
    return 0;
  }

  void refuse(const std::string &message) {
    if (failure.ok())
      failure = Status::error("'" + file.path() + "': " + message);
  }

private:
  void fail(const std::string &key, const char *expected,
            const GGUFValue *value) {
    refuse(std::string("expected ") + expected + " for '" + architecture + "." +
           key + "' but got " +
           (value ? "a value of type " +
                        std::string(getGGUFTypeName(value->type()))
                  : std::string("nothing")));
  }

  const GGUFFile &file;
  std::string architecture;
  Status failure;
};

} // namespace

static const LayerName kLayerNames[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};

/// Keys of an architecture that are read, or that describe no computation.
static const char *const kKnownKeys[] = {
    "attention.causal",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "tensor_data_layout",
    "vocab_size",
};

/// Keys that change the computation in a way that is not supported, whatever
/// their value.
static const char *const kRefusedKeys[] = {
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.scale",
    "attention.temperature_length",
    "attention.temperature_scale",
    "attn_logit_softcapping",
    "embedding_scale",
    "final_logit_softcapping",
    "logit_scale",
    "parallel_residual",
    "residual_scale",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_log_multiplier",
    "swin_norm",
    "use_parallel_residual",
};

/// The name in a GGUF file of a tensor with a Hugging Face name.
static std::string toGGUFName(const std::string &name) {
  if (name == "model.embed_tokens.weight")
    return "token_embd.weight";
  if (name == "model.norm.weight")
    return "output_norm.weight";
  if (name == "lm_head.weight")
    return "output.weight";
  // model.layers.<number>.<module>.<weight or bias>
  const size_t begin = std::strlen("model.layers.");
  const size_t dot = name.find('.', begin);
  const size_t last = name.rfind('.');
  const std::string module = name.substr(dot + 1, last - dot - 1);
  for (const LayerName &layer : kLayerNames)
    if (module == layer.huggingFace)
      return "blk." + name.substr(begin, dot - begin) + "." + layer.gguf +
             name.substr(last);
  return name;
}

static Result<ModelConfig> readConfig(const GGUFFile &file,
                                      std::vector<std::string> &warnings) {
  Result<std::string> architecture = file.getString("general.architecture");
  if (!architecture.ok())
    return architecture.status();
  if (*architecture != "llama" && *architecture != "qwen2" &&
      *architecture != "qwen3")
    return Status::error(
        "'" + file.path() + "': architecture '" + printable(*architecture) +
        "' is not supported; expected one of llama, qwen2, qwen3");
  if (const GGUFValue *type = file.findMetadata("general.type"))
    if (type->asString() && *type->asString() != "model")
      return Status::error("'" + file.path() +
                           "': expected a file of type 'model' but "
                           "got '" +
                           printable(*type->asString()) + "'");
  if (const GGUFValue *split = file.findMetadata("split.count"))
    if (split->asInteger().value_or(2) > 1)
      return Status::error(
          "'" + file.path() +
          "' is one part of a model in several GGUF files, which is not "
          "supported; merge them with llama-gguf-split --merge");

  Metadata metadata(file, *architecture);
  for (const char *key : kRefusedKeys)
    if (metadata.find(key))
      metadata.refuse("option '" + *architecture + "." + key +
                      "' is not supported");
  if (const GGUFValue *causal = metadata.find("attention.causal"))
    if (!causal->asBool().value_or(false))
      metadata.refuse("attention without causal mask is not supported");
  if (metadata.integer("expert_count", 0) > 0)
    metadata.refuse("mixture of experts ('" + *architecture +
                    ".expert_count') is not supported");
  if (const GGUFValue *type = metadata.find("rope.scaling.type"))
    if (type->asString().value_or("?") != "none")
      metadata.refuse(
          "rope scaling type '" + printable(type->asString().value_or("?")) +
          "' is not supported; expected 'none', or llama3 scaling by a "
          "tensor rope_freqs.weight");
  for (const char *key : {"rope.scaling.factor", "rope.scale_linear"}) {
    const double factor = metadata.number(key, 1.0);
    if (factor != 1.0 && factor != 0.0 && !metadata.find("rope.scaling.type"))
      metadata.refuse("linear rope scaling ('" + *architecture + "." + key +
                      "') is not supported");
  }

  ModelConfig config;
  config.architecture = *architecture;
  config.numLayers = metadata.integer("block_count");
  config.hiddenSize = metadata.integer("embedding_length");
  config.intermediateSize = metadata.integer("feed_forward_length");
  config.numHeads = metadata.integer("attention.head_count");
  config.numKVHeads =
      metadata.integer("attention.head_count_kv", config.numHeads);
  config.maxPositions = metadata.integer("context_length");
  config.rmsNormEps = metadata.number("attention.layer_norm_rms_epsilon");
  if (metadata.status().ok())
    if (Status status =
            verifyEpsilon(*architecture + ".attention.layer_norm_rms_epsilon",
                          config.rmsNormEps);
        !status.ok())
      metadata.refuse(status.message());
  config.ropeTheta = metadata.number("rope.freq_base", 10000.0);
  if (!metadata.status().ok())
    return metadata.status();
  if (!metadata.find("attention.key_length") &&
      (config.numHeads < 1 || config.hiddenSize % config.numHeads != 0))
    metadata.refuse(
        "expected an embedding length that is a multiple of the number of "
        "attention heads but got " +
        std::to_string(config.hiddenSize) + " and " +
        std::to_string(config.numHeads));
  config.headDim = metadata.integer(
      "attention.key_length",
      config.numHeads < 1 ? 0 : config.hiddenSize / config.numHeads);
  if (metadata.integer("attention.value_length", config.headDim) !=
      config.headDim)
    metadata.refuse("value heads of another size than key heads "
                    "('attention.value_length') are not supported");
  if (metadata.integer("rope.dimension_count", config.headDim) !=
      config.headDim)
    metadata.refuse(
        "rotation of a part of each head ('rope.dimension_count' of " +
        std::to_string(metadata.integer("rope.dimension_count", 0)) +
        ") is not supported; expected " + std::to_string(config.headDim));
  const int64_t window = metadata.integer("attention.sliding_window", 0);
  if (window > 0 && window < config.maxPositions)
    metadata.refuse(
        "'attention.sliding_window' of " + std::to_string(window) +
        " is not supported because it is less than the context length (" +
        std::to_string(config.maxPositions) + ")");

  const GGUFTensor *embedding = file.find("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2)
    metadata.refuse("expected a matrix 'token_embd.weight'");
  else
    config.vocabSize = embedding->shape.front();
  if (int64_t size = metadata.integer("vocab_size", config.vocabSize);
      size != config.vocabSize)
    metadata.refuse("expected '" + *architecture + ".vocab_size' to be " +
                    std::to_string(config.vocabSize) +
                    ", the rows of 'token_embd.weight', but got " +
                    std::to_string(size));
  config.tiedEmbeddings = !file.find("output.weight");
  config.qkvBias = file.find("blk.0.attn_q.bias");
  config.outputBias = file.find("blk.0.attn_output.bias");
  config.mlpBias = file.find("blk.0.ffn_down.bias");
  config.qkNorm = file.find("blk.0.attn_q_norm.weight");

  auto token = [&](const char *key) -> std::optional<int64_t> {
    const GGUFValue *value = file.findMetadata(key);
    return value ? value->asInteger() : std::nullopt;
  };
  // A token that is no number of the vocabulary could never be looked up.
  auto tokenOfVocabulary = [&](const char *key) {
    std::optional<int64_t> number = token(key);
    if (!number && file.findMetadata(key))
      metadata.refuse(std::string("expected an integer for '") + key + "'");
    else if (number)
      if (Status status = verifyToken(key, *number, config.vocabSize);
          !status.ok())
        metadata.refuse(status.message());
    return number;
  };
  config.bosToken = tokenOfVocabulary("tokenizer.ggml.bos_token_id");
  config.padToken = token("tokenizer.ggml.padding_token_id");
  if (std::optional<int64_t> eos =
          tokenOfVocabulary("tokenizer.ggml.eos_token_id"))
    config.eosTokens.push_back(*eos);
  // Fewer tokens are usual: tables are padded to a multiple of some size.
  if (const GGUFValue *value = file.findMetadata("tokenizer.ggml.tokens"))
    if (std::optional<std::vector<GGUFValue>> tokens = value->asArray();
        tokens && static_cast<int64_t>(tokens->size()) > config.vocabSize)
      metadata.refuse("expected at most " + std::to_string(config.vocabSize) +
                      " tokens in 'tokenizer.ggml.tokens', the rows of "
                      "'token_embd.weight', but got " +
                      std::to_string(tokens->size()) +
                      "; the tokenizer is that of another model");
  if (!metadata.status().ok())
    return metadata.status();
  if (Status status = verifyModelConfig(config); !status.ok())
    return status.withContext("'" + file.path() + "'");

  const std::string prefix = *architecture + ".";
  for (const auto &entry : file.metadata())
    if (entry.first.compare(0, prefix.size(), prefix) == 0 &&
        std::none_of(
            std::begin(kKnownKeys), std::end(kKnownKeys),
            [&](const char *key) { return entry.first == prefix + key; }))
      warnings.push_back("'" + file.path() + "': unknown option '" +
                         printable(entry.first) + "' is ignored");
  return config;
}

/// llama3 scaling, which llama.cpp stores as a tensor of divisors.
static Status readRopeFactors(const Archive &archive, ModelConfig &config) {
  const char *name = "rope_freqs.weight";
  if (!archive.contains(name))
    return Status::success();
  Result<TensorInfo> info = archive.find(name);
  if (!info.ok())
    return info.status();
  const std::vector<int64_t> expected = {config.headDim / 2};
  if (info->shape != expected)
    return Status::error("tensor '" + std::string(name) + "' in '" +
                         archive.path() + "': expected shape " +
                         shapeToString(expected) + " but got " +
                         shapeToString(info->shape));
  std::vector<float> divisors(config.headDim / 2);
  if (Status status = readRowsAsF32(*info, 0, 1, divisors.data()); !status.ok())
    return status;
  Result<RopeScaling> scaling = recoverLlama3Scaling(divisors, config);
  if (!scaling.ok())
    return scaling.status().withContext("tensor '" + std::string(name) +
                                        "' in '" + archive.path() + "'");
  config.ropeScaling = *scaling;
  return Status::success();
}

Result<Checkpoint> quant_llm::openGGUFCheckpoint(const std::string &path,
                                                 StorageType blockType) {
  Checkpoint checkpoint;
  checkpoint.format = Checkpoint::Format::GGUF;
  Result<std::unique_ptr<Archive>> archive = Archive::open(path);
  if (!archive.ok())
    return archive.status();
  checkpoint.archive = archive.take();
  const GGUFFile *file = checkpoint.archive->gguf();
  if (!file)
    return Status::error("expected a GGUF file but got '" + path + "'");
  Result<ModelConfig> config = readConfig(*file, checkpoint.warnings);
  if (!config.ok())
    return config.status();
  checkpoint.config = config.take();
  if (Status status = readRopeFactors(*checkpoint.archive, checkpoint.config);
      !status.ok())
    return status;
  const ModelConfig &model = checkpoint.config;

  std::set<std::string> used{"rope_freqs.weight"};
  for (TensorSpec &spec : listTensors(model)) {
    StoredTensor tensor;
    tensor.key = spec.name;
    tensor.source = toGGUFName(spec.name);
    tensor.spec = std::move(spec);
    const GGUFTensor *stored = file->find(tensor.source);
    if (!stored)
      return Status::error("expected a tensor '" + tensor.source + "' in '" +
                           path + "' but there is none");
    if (stored->shape != tensor.spec.shape)
      return Status::error(
          "tensor '" + tensor.source + "' in '" + path +
          "': expected the shape " + shapeToString(tensor.spec.shape) +
          " that the metadata ask for but got " + shapeToString(stored->shape));
    // Names the tensor and its type if the type cannot be read.
    Result<TensorInfo> info = checkpoint.archive->find(tensor.source);
    if (!info.ok())
      return info.status();
    if (info->blockType)
      tensor.type = blockType;
    else if (info->dtype == DType::F32)
      tensor.type = StorageType::F32;
    else if (info->dtype == DType::F16)
      tensor.type = StorageType::F16;
    else if (info->dtype == DType::BF16)
      tensor.type = StorageType::BF16;
    else
      return Status::error("tensor '" + tensor.source + "' in '" + path +
                           "': expected a float type but got " +
                           std::string(getDTypeName(info->dtype)));
    if (info->blockType && tensor.spec.shape.size() != 2)
      return Status::error(
          "tensor '" + tensor.source + "' in '" + path +
          "': expected a plain float type for a vector but got " +
          getGGMLTypeName(*info->blockType));
    if (model.architecture == "llama") {
      if (tensor.source.find(".attn_q.") != std::string::npos)
        tensor.interleavedHeads = model.numHeads;
      else if (tensor.source.find(".attn_k.") != std::string::npos)
        tensor.interleavedHeads = model.numKVHeads;
    }
    used.insert(tensor.source);
    checkpoint.tensors.push_back(std::move(tensor));
  }
  for (const GGUFTensor &tensor : file->tensors()) {
    if (used.count(tensor.name))
      continue;
    // A further tensor in a layer changes what the layer computes.
    if (tensor.name.compare(0, 4, "blk.") == 0)
      return Status::error(
          "tensor '" + printable(tensor.name) + "' in '" + path +
          "' is not supported: a model of architecture '" + model.architecture +
          "' with these options has no such tensor");
    checkpoint.warnings.push_back("tensor '" + printable(tensor.name) +
                                  "' in '" + path + "' is ignored");
  }
  return checkpoint;
}

//===----------------------------------------------------------------------===//
// Conversion
//===----------------------------------------------------------------------===//

/// Where row `row` of the Hugging Face order is in the file.
static int64_t getStoredRow(const StoredTensor &tensor, int64_t row) {
  if (tensor.interleavedHeads == 0)
    return row;
  const int64_t headDim = tensor.spec.shape.front() / tensor.interleavedHeads;
  const int64_t head = row / headDim, inHead = row % headDim,
                half = headDim / 2;
  return head * headDim + 2 * (inHead % half) + inHead / half;
}

/// The first element of `count` that is not finite, or -1.
static int64_t findNonFinite(const uint8_t *data, StorageType type,
                             int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    bool bad = false;
    if (type == StorageType::F32) {
      uint32_t bits;
      std::memcpy(&bits, data + 4 * i, 4);
      bad = (bits & 0x7f800000u) == 0x7f800000u;
    } else {
      uint16_t bits;
      std::memcpy(&bits, data + 2 * i, 2);
      const uint16_t mask = type == StorageType::F16 ? 0x7c00u : 0x7f80u;
      bad = (bits & mask) == mask;
    }
    if (bad)
      return i;
  }
  return -1;
}

/// Copies rows [first, first + count) in Hugging Face order to `out`.
static Status readRows(const StoredTensor &tensor, const TensorInfo &info,
                       int64_t first, int64_t count, uint8_t *out) {
  const int64_t columns = info.numColumns();
  const size_t rowBytes = columns * getByteWidth(getDType(tensor.type));
  // Vectors are one row to the archive; here their elements are the rows.
  const bool vector = tensor.spec.shape.size() == 1;
  std::vector<Status> failures(count);
  parallelFor(count, /*threads=*/0, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = getStoredRow(tensor, first + i);
      if (!info.blockType) {
        const size_t bytes = vector ? getByteWidth(info.dtype) : rowBytes;
        std::memcpy(out + i * bytes, info.data + row * bytes, bytes);
        continue;
      }
      // The archive reads into aligned elements; `out` comes from a vector and
      // rows have whole elements, so it is aligned.
      void *target = out + i * rowBytes;
      failures[i] =
          tensor.type == StorageType::F32
              ? readRowsAsF32(info, row, 1, static_cast<float *>(target))
              : readRowsAsF16(info, row, 1, static_cast<uint16_t *>(target));
    }
  });
  for (const Status &failure : failures)
    if (!failure.ok())
      return failure;
  const int64_t width = vector ? 1 : columns;
  const int64_t bad = findNonFinite(out, tensor.type, count * width);
  if (bad < 0)
    return Status::success();
  std::string message = "tensor '" + tensor.source + "', row " +
                        std::to_string(first + bad / width) + ", column " +
                        std::to_string(bad % width) +
                        ": expected a finite number";
  // f32 helps only if the number is a finite one.
  if (info.blockType && tensor.type == StorageType::F16) {
    std::vector<float> row(static_cast<size_t>(columns));
    Status status = readRowsAsF32(
        info, getStoredRow(tensor, first + bad / width), 1, row.data());
    if (!status.ok())
      return status;
    if (std::isfinite(row[static_cast<size_t>(bad % width)]))
      return Status::error(message + " within the range of f16; try again with "
                                     "blocks dequantized to f32");
  }
  return Status::error(message +
                       " but got an infinity or NaN; the file is damaged");
}

Result<SafetensorsWriter>
quant_llm::convertWeights(const Checkpoint &checkpoint, const std::string &path,
                          const ProgressCallback &progress) {
  // Wide types first, so that every tensor is aligned to its type.
  std::vector<const StoredTensor *> order;
  for (const bool wide : {true, false})
    for (const StoredTensor &tensor : checkpoint.tensors)
      if ((tensor.type == StorageType::F32) == wide)
        order.push_back(&tensor);
  std::vector<TensorDeclaration> declarations;
  uint64_t total = 0, done = 0;
  for (const StoredTensor *tensor : order) {
    declarations.push_back(
        {tensor->key, getDType(tensor->type), tensor->spec.shape});
    total +=
        getByteSize(getDType(tensor->type), tensor->spec.shape).value_or(0);
  }
  const std::string &source = checkpoint.archive->path();
  Result<SafetensorsWriter> writer = SafetensorsWriter::create(
      path, std::move(declarations),
      {{"format", "pt"},
       {kImportedMetadataKey, source.substr(source.find_last_of('/') + 1)}});
  if (!writer.ok())
    return writer;

  constexpr int64_t bufferBytes = 16 << 20;
  std::vector<uint8_t> buffer;
  for (const StoredTensor *tensor : order) {
    Result<TensorInfo> info = checkpoint.archive->find(tensor->source);
    if (!info.ok())
      return info.status();
    const int64_t rows = tensor->spec.shape.front();
    const int64_t rowBytes = static_cast<int64_t>(
        getByteWidth(getDType(tensor->type)) *
        (tensor->spec.shape.size() == 1 ? 1 : tensor->spec.shape.back()));
    const int64_t chunk = std::max<int64_t>(1, bufferBytes / rowBytes);
    for (int64_t row = 0; row < rows; row += chunk) {
      const int64_t count = std::min(chunk, rows - row);
      buffer.resize(count * rowBytes);
      if (Status status = readRows(*tensor, *info, row, count, buffer.data());
          !status.ok())
        return status.withContext("'" + source + "'");
      if (Status status =
              writer->append(tensor->key, buffer.data(), buffer.size());
          !status.ok())
        return status;
      done += buffer.size();
      if (progress)
        if (Status status = progress(done, total); !status.ok())
          return status;
    }
    checkpoint.archive->release(*info);
  }
  return writer;
}
