//===- KernelHarness.cpp - Random linear layers, compiled and run ---------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelHarness.h"

#include "quant-llm/Conversion/QuantLLMToCPU/LowerToLLVM.h"
#include "quant-llm/Numerics/Element.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/ExecutionEngine/OptUtils.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/IR/Verifier.h"

#include "llvm/ADT/APFloat.h"
#include "llvm/ExecutionEngine/Orc/JITTargetMachineBuilder.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>

using namespace mlir;

namespace quant_llm::testing {

//===----------------------------------------------------------------------===//
// Compilation
//===----------------------------------------------------------------------===//

Buffer::Buffer(void *data, std::vector<int64_t> sizes,
               std::vector<int64_t> strides) {
  words = {reinterpret_cast<int64_t>(data), reinterpret_cast<int64_t>(data), 0};
  if (strides.empty()) {
    strides.assign(sizes.size(), 1);
    for (size_t i = sizes.size(); i-- > 1;)
      strides[i - 1] = strides[i] * sizes[i];
  }
  words.insert(words.end(), sizes.begin(), sizes.end());
  words.insert(words.end(), strides.begin(), strides.end());
}

std::unique_ptr<MLIRContext> makeContext() {
  DialectRegistry registry;
  registerLowerToLLVMDialects(registry);
  auto context =
      std::make_unique<MLIRContext>(registry, MLIRContext::Threading::DISABLED);
  context->loadAllAvailableDialects();
  return context;
}

std::unique_ptr<Compiled> Compiled::create(ModuleOp module, unsigned optLevel,
                                           bool openMP) {
  static bool initialized = [] {
    llvm::InitializeNativeTarget();
    llvm::InitializeNativeTargetAsmPrinter();
    return true;
  }();
  (void)initialized;
  auto start = std::chrono::steady_clock::now();
  OwningOpRef<ModuleOp> owned(module);
  if (failed(verify(module)))
    return nullptr;
  PassManager pm(module.getContext());
  pm.enableVerifier(false);
  LowerToLLVMOptions options;
  options.openMP = openMP;
  buildLowerToLLVMPipeline(pm, options);
  if (failed(pm.run(module)))
    return nullptr;
  double lowered =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  auto fail = [](llvm::Error error) {
    llvm::errs() << llvm::toString(std::move(error)) << "\n";
    return nullptr;
  };
  auto host = llvm::orc::JITTargetMachineBuilder::detectHost();
  if (!host)
    return fail(host.takeError());
  host->setCodeGenOptLevel(static_cast<llvm::CodeGenOptLevel>(optLevel));
  auto machine = host->createTargetMachine();
  if (!machine)
    return fail(machine.takeError());
  auto transformer = makeOptimizingTransformer(optLevel, 0, machine->get());
  ExecutionEngineOptions engineOptions;
  engineOptions.transformer = transformer;
  engineOptions.jitCodeGenOptLevel =
      static_cast<llvm::CodeGenOptLevel>(optLevel);
  engineOptions.enableObjectDump = std::getenv("QUANT_LLM_BENCH_OBJECT");
  engineOptions.enableGDBNotificationListener = false;
  engineOptions.enablePerfNotificationListener = false;
  SmallVector<StringRef> libraries;
  if (openMP)
    libraries.push_back(QUANT_LLM_OPENMP_LIBRARY);
  engineOptions.sharedLibPaths = libraries;
  auto engine =
      ExecutionEngine::create(module, engineOptions, std::move(*machine));
  if (!engine)
    return fail(engine.takeError());
  auto result = std::make_unique<Compiled>();
  result->engine = std::move(*engine);
  // The look-up compiles.
  auto pointer = result->engine->lookupPacked("_mlir_ciface_kernel");
  if (!pointer)
    return fail(pointer.takeError());
  result->function = *pointer;
  result->seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  if (const char *path = std::getenv("QUANT_LLM_BENCH_OBJECT"))
    result->engine->dumpToObjectFile(path);
  if (std::getenv("QUANT_LLM_BENCH_VERBOSE"))
    llvm::errs() << "MLIR " << lowered << " s, all " << result->seconds
                 << " s\n";
  return result;
}

void Compiled::run(const std::vector<Buffer *> &arguments) {
  llvm::SmallVector<void *, 16> descriptors, packed;
  for (Buffer *buffer : arguments)
    descriptors.push_back(buffer->words.data());
  for (void *&descriptor : descriptors)
    packed.push_back(&descriptor);
  function(packed.data());
}

//===----------------------------------------------------------------------===//
// Values
//===----------------------------------------------------------------------===//

static const llvm::fltSemantics &semantics(const std::string &type) {
  if (type == "f16")
    return llvm::APFloat::IEEEhalf();
  if (type == "bf16")
    return llvm::APFloat::BFloat();
  if (type == "f32")
    return llvm::APFloat::IEEEsingle();
  if (type == "f8E8M0FNU")
    return llvm::APFloat::Float8E8M0FNU();
  if (type == "f8E4M3FN")
    return llvm::APFloat::Float8E4M3FN();
  if (type == "f8E5M2")
    return llvm::APFloat::Float8E5M2();
  if (type == "f6E2M3FN")
    return llvm::APFloat::Float6E2M3FN();
  if (type == "f6E3M2FN")
    return llvm::APFloat::Float6E3M2FN();
  if (type == "f4E2M1FN")
    return llvm::APFloat::Float4E2M1FN();
  llvm::errs() << "unknown type " << type << "\n";
  std::abort();
}

static uint64_t encode(const std::string &type, double value) {
  llvm::APFloat number(value);
  bool lost;
  number.convert(semantics(type), llvm::APFloat::rmNearestTiesToEven, &lost);
  return number.bitcastToAPInt().getZExtValue();
}

static double decode(const std::string &type, uint64_t bits) {
  const llvm::fltSemantics &format = semantics(type);
  llvm::APFloat number(format,
                       llvm::APInt(llvm::APFloat::getSizeInBits(format), bits));
  bool lost;
  number.convert(llvm::APFloat::IEEEdouble(),
                 llvm::APFloat::rmNearestTiesToEven, &lost);
  return number.convertToDouble();
}

static FloatType floatType(const std::string &type) {
  if (type == "bf16")
    return FloatType::BF16;
  if (type == "f32")
    return FloatType::F32;
  if (type == "f8E8M0FNU")
    return FloatType::F8E8M0FNU;
  if (type == "f8E4M3FN")
    return FloatType::F8E4M3FN;
  return FloatType::F16;
}

static size_t sizeOf(const std::string &type) {
  return type == "f32" ? 4 : type == "f16" || type == "bf16" ? 2 : 1;
}

static Type mlirType(MLIRContext &context, const std::string &type) {
  if (type == "f32")
    return Float32Type::get(&context);
  if (type == "f16")
    return Float16Type::get(&context);
  return BFloat16Type::get(&context);
}

static ElementFormat element(const std::string &name, std::mt19937 &random) {
  ElementFormat format;
  auto starts = [&](const char *prefix) { return name.rfind(prefix, 0) == 0; };
  if (starts("int")) {
    format.bits = name[3] - '0';
  } else if (starts("uint")) {
    format.kind = ElementKind::UInt;
    format.bits = name[4] - '0';
  } else if (starts("codebook")) {
    format.kind = ElementKind::Codebook;
    format.bits = name[8] - '0';
    std::normal_distribution<float> normal;
    for (int i = 0; i < 1 << format.bits; ++i)
      format.table.push_back(normal(random));
  } else if (name == "nf4") {
    format.kind = ElementKind::NF4;
  } else if (name == "ternary") {
    format.kind = ElementKind::Ternary;
    format.bits = 2;
  } else {
    format.kind = name == "f4E2M1FN"   ? ElementKind::F4E2M1FN
                  : name == "f6E2M3FN" ? ElementKind::F6E2M3FN
                  : name == "f6E3M2FN" ? ElementKind::F6E3M2FN
                  : name == "f8E4M3FN" ? ElementKind::F8E4M3FN
                                       : ElementKind::F8E5M2;
    format.bits = llvm::APFloat::getSizeInBits(semantics(name));
  }
  return format;
}

/// The value of a code; NaN for codes that are none.
static double valueOf(const ElementFormat &format, const std::string &name,
                      unsigned code) {
  switch (format.kind) {
  case ElementKind::UInt:
    return code;
  case ElementKind::Int:
    return code >= 1u << (format.bits - 1) ? int(code) - (1 << format.bits)
                                           : int(code);
  case ElementKind::Ternary:
    return code == 0 ? 0 : code == 1 ? 1 : code == 3 ? -1 : std::nan("");
  case ElementKind::Codebook:
    return format.table[code];
  case ElementKind::NF4:
    return nf4Table()[code];
  default: {
    double value = decode(name, code);
    return std::isfinite(value) ? value : std::nan("");
  }
  }
}

//===----------------------------------------------------------------------===//
// Layers
//===----------------------------------------------------------------------===//

std::string LayerConfig::toString() const {
  std::string text = std::to_string(n) + "x" + std::to_string(k);
  for (const std::string &name : elements)
    text += " " + name;
  text += " block " + std::to_string(blockN) + "," + std::to_string(blockK) +
          " scale " + scale + " zero " + zero + " " + input + "->" + result;
  if (epilogue)
    text += " epilogue";
  return text + " bits " + std::to_string(vectorBits);
}

static void write(std::vector<uint8_t> &data, size_t index,
                  const std::string &type, uint64_t bits) {
  std::memcpy(data.data() + index * sizeOf(type), &bits, sizeOf(type));
}

std::unique_ptr<Layer> Layer::create(MLIRContext &context,
                                     const LayerConfig &config, unsigned seed,
                                     unsigned optLevel, bool openMP,
                                     int64_t copies, bool printIR) {
  auto layer = std::make_unique<Layer>();
  layer->config = config;
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  int64_t n = config.n, k = config.k;
  LinearKernelSpec &spec = layer->spec;
  spec.n = n;
  spec.k = k;
  spec.inputType = mlirType(context, config.input);
  spec.resultType = mlirType(context, config.result);
  spec.vectorBits = config.vectorBits ? config.vectorBits : getHostVectorBits();
  spec.fewTokens = config.fewTokens;
  spec.rowsPerPass = config.rowsPerPass;
  spec.tokensPerPass = config.tokensPerPass;
  spec.panelDepth = config.panelDepth;
  spec.prefetchBytes = config.prefetchBytes;

  for (const std::string &name : config.elements) {
    KernelWeight weight;
    std::vector<double> &exact = layer->exact.emplace_back(n * k);
    if (name == "f32" || name == "f16" || name == "bf16") {
      weight.denseType = mlirType(context, name);
      Stored stored{std::vector<uint8_t>(n * k * sizeOf(name)), {n, k}};
      for (int64_t i = 0; i < n * k; ++i) {
        uint64_t bits = encode(name, (uniform(random) - 0.5) * 0.1);
        write(stored.data, i, name, bits);
        exact[i] = decode(name, bits);
      }
      layer->parameters.push_back(std::move(stored));
      spec.weights.push_back(weight);
      continue;
    }
    Scheme &scheme = weight.scheme;
    scheme.element = element(name, random);
    scheme.blockN = config.blockN;
    scheme.blockK = config.blockK;
    scheme.scaleType = floatType(config.scale);
    scheme.zero = config.zero == "none"  ? ZeroKind::None
                  : config.zero == "int" ? ZeroKind::Integer
                                         : ZeroKind::Float;
    scheme.zeroType = floatType(config.zero);
    int64_t bits = scheme.element.bits;
    int64_t blockN = config.blockN < 0 ? n : std::min(config.blockN, n);
    int64_t blockK = config.blockK < 0 ? k : std::min(config.blockK, k);
    int64_t gridN = (n + blockN - 1) / blockN,
            gridK = (k + blockK - 1) / blockK;
    int64_t rowBytes = (k * bits + 7) / 8;
    std::vector<double> values(1 << bits);
    for (unsigned code = 0; code < values.size(); ++code)
      values[code] = valueOf(scheme.element, name, code);
    Stored codes{std::vector<uint8_t>(n * rowBytes), {n, rowBytes}};
    Stored scales{std::vector<uint8_t>(gridN * gridK * sizeOf(config.scale)),
                  {gridN, gridK}};
    std::string zeroStorage = config.zero == "int" ? "f8E4M3FN" : config.zero;
    Stored zeros{std::vector<uint8_t>(gridN * gridK * 4), {gridN, gridK}};
    std::vector<double> scaleOf(gridN * gridK), zeroOf(gridN * gridK);
    for (int64_t i = 0; i < gridN * gridK; ++i) {
      double scale = 0.01 + 0.05 * uniform(random);
      uint64_t pattern = encode(config.scale, scale);
      write(scales.data, i, config.scale, pattern);
      scaleOf[i] = decode(config.scale, pattern);
      if (config.zero == "int") {
        zeros.data[i] = random() & ((1 << bits) - 1);
        zeroOf[i] = zeros.data[i];
      } else if (config.zero != "none") {
        pattern = encode(config.zero,
                         config.zero == "f8E8M0FNU" ? scale : scale - 0.03);
        write(zeros.data, i, config.zero, pattern);
        zeroOf[i] = decode(config.zero, pattern);
      }
    }
    zeros.data.resize(gridN * gridK * sizeOf(zeroStorage));
    for (int64_t row = 0; row < n; ++row)
      for (int64_t column = 0; column < k; ++column) {
        unsigned code;
        do
          code = random() & ((1 << bits) - 1);
        while (std::isnan(values[code]));
        int64_t at = column * bits;
        unsigned wide = code << (at % 8);
        codes.data[row * rowBytes + at / 8] |= wide & 255;
        if (wide > 255)
          codes.data[row * rowBytes + at / 8 + 1] |= wide >> 8;
        int64_t cell = row / blockN * gridK + column / blockK;
        double s = scaleOf[cell], z = zeroOf[cell], v = values[code];
        exact[row * k + column] =
            config.zero == "int" ? s * (v - z) : s * v + z;
      }
    layer->parameters.push_back(std::move(codes));
    layer->parameters.push_back(std::move(scales));
    if (config.zero != "none")
      layer->parameters.push_back(std::move(zeros));
    spec.weights.push_back(weight);
  }

  Location loc = UnknownLoc::get(&context);
  if (config.epilogue || config.elements.size() == 2) {
    Type f32 = Float32Type::get(&context);
    layer->epilogue = std::make_unique<Block>();
    Block &block = *layer->epilogue;
    ImplicitLocOpBuilder b(loc, &context);
    b.setInsertionPointToEnd(&block);
    Value result = block.addArgument(f32, loc);
    if (config.elements.size() == 2) {
      Value up = block.addArgument(f32, loc);
      Value one = arith::ConstantOp::create(b, b.getF32FloatAttr(1.0f));
      Value exp = math::ExpOp::create(b, arith::NegFOp::create(b, result));
      Value silu =
          arith::DivFOp::create(b, result, arith::AddFOp::create(b, exp, one));
      result = arith::MulFOp::create(b, silu, up);
    }
    if (config.epilogue) {
      spec.operands.push_back({f32, true});
      spec.operands.push_back({f32, false});
      result = arith::AddFOp::create(b, result, block.addArgument(f32, loc));
      result = arith::AddFOp::create(b, result, block.addArgument(f32, loc));
    }
    scf::YieldOp::create(b, result);
    spec.epilogue = &block;
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < n; ++i)
      layer->bias.push_back(normal(random));
  }
  for (int64_t copy = 1; copy < copies; ++copy) {
    auto &buffers = layer->extraCopies.emplace_back();
    for (Stored &stored : layer->parameters)
      buffers.push_back(stored.data);
  }

  OwningOpRef<ModuleOp> module = ModuleOp::create(loc);
  OpBuilder builder = OpBuilder::atBlockEnd(module->getBody());
  auto function = emitLinearKernel(builder, loc, "kernel", spec);
  if (failed(function))
    return nullptr;
  (*function)->setAttr("llvm.emit_c_interface", builder.getUnitAttr());
  if (printIR)
    module->print(llvm::outs());
  layer->kernel = Compiled::create(module.release(), optLevel, openMP);
  if (!layer->kernel)
    return nullptr;
  return layer;
}

int64_t Layer::weightBytes() const {
  int64_t bytes = 0;
  for (const Stored &stored : parameters)
    bytes += stored.data.size();
  return bytes;
}

void Layer::run(int64_t m, void *x, int64_t ldx, void *y, int64_t ldy,
                int64_t copy) {
  std::vector<Buffer> buffers;
  buffers.emplace_back(x, std::vector<int64_t>{m, config.k},
                       std::vector<int64_t>{ldx, 1});
  for (size_t i = 0; i < parameters.size(); ++i)
    buffers.emplace_back(copy ? extraCopies[copy - 1][i].data()
                              : parameters[i].data.data(),
                         parameters[i].shape);
  if (config.epilogue) {
    residual.resize(m * config.n, 0.25f);
    buffers.emplace_back(bias.data(), std::vector<int64_t>{config.n});
    buffers.emplace_back(residual.data(), std::vector<int64_t>{m, config.n});
  }
  buffers.emplace_back(y, std::vector<int64_t>{m, config.n},
                       std::vector<int64_t>{ldy, 1});
  std::vector<Buffer *> pointers;
  for (Buffer &buffer : buffers)
    pointers.push_back(&buffer);
  kernel->run(pointers);
}

double Layer::check(int64_t m, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  int64_t n = config.n, k = config.k;
  // Rows are not dense: a kernel that ignores the strides fails. The canary
  // behind each row must survive.
  int64_t ldx = k + 3, ldy = n + 5;
  std::vector<uint8_t> x(m * ldx * sizeOf(config.input)),
      y(m * ldy * sizeOf(config.result), 0x5a);
  std::vector<double> values(m * k);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < ldx; ++j) {
      // What is behind a row must not reach the result.
      uint64_t bits =
          encode(config.input, j < k ? normal(random) : std::nan(""));
      write(x, i * ldx + j, config.input, bits);
      if (j < k)
        values[i * k + j] = decode(config.input, bits);
    }
  run(m, x.data(), ldx, y.data(), ldy);
  double error = 0, largest = 0;
  double rounding = config.result == "f32"   ? 0
                    : config.result == "f16" ? 0x1p-11
                                             : 0x1p-8;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < ldy; ++j) {
      uint64_t bits = 0;
      std::memcpy(&bits, y.data() + (i * ldy + j) * sizeOf(config.result),
                  sizeOf(config.result));
      if (j >= n) {
        if (bits != (0x5a5a5a5a5a5a5a5aull >> (64 - 8 * sizeOf(config.result))))
          return INFINITY;
        continue;
      }
      std::vector<double> sums;
      for (const std::vector<double> &weight : exact) {
        double sum = 0;
        for (int64_t c = 0; c < k; ++c)
          sum += values[i * k + c] * weight[j * k + c];
        sums.push_back(sum);
      }
      double expected = sums[0];
      if (sums.size() == 2)
        expected = sums[0] / (1 + std::exp(-sums[0])) * sums[1];
      if (config.epilogue)
        expected += double(bias[j]) + 0.25;
      double difference = std::fabs(decode(config.result, bits) - expected);
      difference = std::max(0.0, difference - rounding * std::fabs(expected));
      if (!(difference <= 1e30))
        return INFINITY;
      error = std::max(error, difference);
      largest = std::max(largest, std::fabs(expected));
    }
  }
  return largest > 0 ? error / largest : error;
}

int64_t Layer::countWrongInfinities(int64_t m, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  int64_t n = config.n, k = config.k;
  std::vector<float> x(m * k), y(m * n);
  for (float &value : x)
    value = normal(random);
  for (int64_t i = 0; i < m; ++i) {
    float *row = x.data() + i * k;
    int kind = i % 4;
    row[random() % k] = kind == 0 ? INFINITY : -INFINITY;
    if (kind == 2)
      row[random() % k] = NAN;
    if (kind == 3)
      row[random() % k] = INFINITY;
  }
  run(m, x.data(), k, y.data(), n);
  int64_t wrong = 0;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double expected = 0;
      for (int64_t c = 0; c < k; ++c)
        expected += double(x[i * k + c]) * exact[0][j * k + c];
      double actual = y[i * n + j];
      wrong += std::isnan(expected) ? !std::isnan(actual) : actual != expected;
    }
  return wrong;
}

} // namespace quant_llm::testing
