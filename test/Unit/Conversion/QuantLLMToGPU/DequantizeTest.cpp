//===- DequantizeTest.cpp - Operand A from packed words -------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What the generator emits between packed words and operand A has no
// instruction of a GPU in it, so it runs here: random weights are quantized and
// packed by the plain C++ libraries, the fragments of every lane are computed
// by compiled IR, and each element must be the weight rounded to the type of
// the activations.
//
//===----------------------------------------------------------------------===//

#include "Dequantize.h"

#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Packing/FragmentLayout.h"

#include "mlir/Conversion/ArithToLLVM/ArithToLLVM.h"
#include "mlir/Conversion/ControlFlowToLLVM/ControlFlowToLLVM.h"
#include "mlir/Conversion/ReconcileUnrealizedCasts/ReconcileUnrealizedCasts.h"
#include "mlir/Conversion/SCFToControlFlow/SCFToControlFlow.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/Transforms/Passes.h"
#include "mlir/ExecutionEngine/ExecutionEngine.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Target/LLVMIR/Dialect/All.h"
#include "llvm/Support/TargetSelect.h"

#include "gtest/gtest.h"

#include <cmath>
#include <cstring>
#include <random>
#include <sys/mman.h>

using namespace mlir;
using namespace quant_llm;

namespace {

/// Memory with a 32-bit address, like that of shared memory.
class LowMemory {
public:
  explicit LowMemory(size_t size) : size(std::max<size_t>(size, 16)) {
    data = mmap(nullptr, this->size, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
  }
  ~LowMemory() { munmap(data, size); }
  LowMemory(const LowMemory &) = delete;

  bool isValid() const { return data != MAP_FAILED; }
  void fill(const std::vector<uint8_t> &bytes) {
    std::memcpy(data, bytes.data(), bytes.size());
  }
  uint32_t address() const {
    return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(data));
  }

private:
  size_t size;
  void *data;
};

using Function = void (*)(uint32_t codes, uint32_t scales, uint32_t zeros,
                          uint32_t table, uint32_t thread, uint32_t *out);

/// Compiled fragments of the strip whose packed parts begin at the addresses:
/// out[4 * (8 * unit + step) + r] is register r of the lane of a thread. A call
/// fills that thread's part of the table first; registers are right when every
/// thread of the CTA has been called.
class Fragments {
public:
  Fragments(const KernelProblem &problem, int64_t units, int64_t threads)
      : registry(makeRegistry()), context(registry) {
    context.loadAllAvailableDialects();
    OpBuilder builder(&context);
    Location loc = builder.getUnknownLoc();
    OwningOpRef<ModuleOp> module = ModuleOp::create(loc);
    builder.setInsertionPointToStart(module->getBody());
    auto gpuModule = gpu::GPUModuleOp::create(builder, loc, "kernels");
    PTXBuilder b(loc, builder);
    b.setInsertionPointToEnd(&gpuModule.getBodyRegion().front());
    emit(b, problem, units, threads);

    // Nothing here is for a GPU but the products of halves, which are written
    // out: a host compiler takes it.
    gpuModule.walk([&](NVVM::DotAccumulate2WayOp op) {
      PTXBuilder b(loc, builder);
      b.setInsertionPoint(op);
      Value halves = b.bitcast(op.getA(), b.i32Type());
      Value factors = b.bitcast(op.getB(), b.i32Type());
      Value low = b.mul(b.bitAnd(halves, 0xffff), b.bitAnd(factors, 0xff));
      Value high = b.mul(b.shiftRight(halves, 16),
                         b.bitAnd(b.shiftRight(factors, 8), 0xff));
      op.getRes().replaceAllUsesWith(b.add(op.getC(), b.add(low, high)));
      op.erase();
    });
    for (Operation &op : llvm::make_early_inc_range(
             gpuModule.getBodyRegion().front().getOperations()))
      op.moveBefore(gpuModule);
    gpuModule.erase();
    PassManager pm(&context);
    pm.addPass(createSCFToControlFlowPass());
    pm.addPass(createConvertControlFlowToLLVMPass());
    pm.addPass(createArithToLLVMConversionPass());
    pm.addPass(createReconcileUnrealizedCastsPass());
    if (failed(verify(*module)) || failed(pm.run(*module)))
      return;
    llvm::InitializeNativeTarget();
    llvm::InitializeNativeTargetAsmPrinter();
    auto created = ExecutionEngine::create(*module);
    if (!created) {
      llvm::consumeError(created.takeError());
      return;
    }
    engine = std::move(*created);
    auto pointer = engine->lookup("fragments");
    if (!pointer) {
      llvm::consumeError(pointer.takeError());
      return;
    }
    function = reinterpret_cast<Function>(*pointer);
  }

  Function function = nullptr;
  float outputFactor = 1;
  int64_t tableBytes = 0;

private:
  static DialectRegistry makeRegistry() {
    DialectRegistry registry;
    registry.insert<arith::ArithDialect, gpu::GPUDialect, LLVM::LLVMDialect,
                    NVVM::NVVMDialect, scf::SCFDialect>();
    registerAllToLLVMIRTranslations(registry);
    return registry;
  }

  void emit(PTXBuilder &b, const KernelProblem &problem, int64_t units,
            int64_t threads) {
    Type i32 = b.i32Type();
    auto type = LLVM::LLVMFunctionType::get(
        LLVM::LLVMVoidType::get(&context),
        {i32, i32, i32, i32, i32, b.pointer(kGenericSpace)});
    auto func = LLVM::LLVMFuncOp::create(b, "fragments", type);
    b.setInsertionPointToStart(func.addEntryBlock(b));
    Value codes = func.getArgument(0), scales = func.getArgument(1),
          zeros = func.getArgument(2), thread = func.getArgument(4),
          out = func.getArgument(5);
    Value lane = b.bitAnd(thread, kWarpLanes - 1);
    const Scheme &scheme = problem.scheme;
    if (scheme.zero == ZeroKind::None)
      zeros = {};
    Dequantizer dequantizer(b, problem, "test");
    outputFactor = dequantizer.outputFactor();
    tableBytes = getTableBytes(scheme);
    dequantizer.fillTable(func.getArgument(3), thread, threads);

    int64_t groups = getNumGroups(problem);
    int64_t block = groups == 1 ? problem.k : scheme.blockK;
    auto at = [&](Value base, int64_t index, int64_t bytes) {
      return base ? b.add(base, index * bytes) : Value();
    };
    auto groupRegisters = [&](int64_t group) {
      group = std::min(group, groups - 1);
      return dequantizer.groupRegisters(
          at(scales, group, kStripRows * getScaleBytes(scheme)),
          at(zeros, group, kStripRows * getZeroBytes(scheme)), lane);
    };
    for (int64_t unit = 0; unit != units; ++unit) {
      PackedUnit packed(b, scheme.element.bits,
                        b.add(codes, unit * 256 * scheme.element.bits), lane);
      for (unsigned step = 0; step != kStepsPerUnit; ++step) {
        int64_t column = unit * kUnitColumns + step * kStepColumns;
        Values fragment;
        switch (dequantizer.mode()) {
        case ScaleMode::Channel:
          fragment = dequantizer.fragment(
              packed, step, dequantizer.channelRegisters(zeros, lane));
          break;
        case ScaleMode::Column:
          fragment = dequantizer.fragment(
              packed, step,
              dequantizer.columnRegisters(
                  at(scales, column, getScaleBytes(scheme)),
                  at(zeros, column, getZeroBytes(scheme)), lane));
          break;
        case ScaleMode::Static:
          fragment = dequantizer.fragment(packed, step,
                                          groupRegisters(column / block));
          break;
        case ScaleMode::General: {
          int64_t group = column / block;
          fragment = dequantizer.fragment(
              packed, step, groupRegisters(group), groupRegisters(group + 1),
              b.i32((group + 1) * block - column), lane);
          break;
        }
        }
        for (unsigned r = 0; r != 4; ++r)
          b.store(fragment[r],
                  b.offsetPointer(
                      out, b.i64(4 * ((unit * kStepsPerUnit + step) * 4 + r))),
                  4);
      }
    }
    LLVM::ReturnOp::create(b, ValueRange());
  }

  DialectRegistry registry;
  MLIRContext context;
  std::unique_ptr<ExecutionEngine> engine;
};

KernelProblem makeProblem(const std::string &element, int64_t blockK,
                          const std::string &scale, const std::string &zero,
                          quant_llm::TensorType activation) {
  KernelProblem problem;
  problem.n = 40;
  problem.k = 250;
  problem.activation = activation;
  problem.scheme.element = *parseElement(element);
  problem.scheme.blockN = blockK > 0 && blockK < kStepColumns ? -1 : 1;
  problem.scheme.blockK = blockK;
  problem.scheme.scaleType = *parseFloatType(scale);
  problem.scheme.rule = ScaleRule::AbsMax;
  if (zero == "int") {
    problem.scheme.zero = ZeroKind::Integer;
    problem.scheme.rule = ScaleRule::MinMax;
  } else if (zero != "none") {
    problem.scheme.zero = ZeroKind::Float;
    problem.scheme.zeroType = *parseFloatType(zero);
    problem.scheme.rule = ScaleRule::MinMax;
  }
  return problem;
}

/// Every element of the weight against its value, within `ulps` roundings of
/// the largest weight of its row. `deviation` is that of the weights; 0 for
/// what suits the type of the scales. `threads` fill the table.
void expectFragments(const KernelProblem &problem, double ulps,
                     float deviation = 0, int64_t threads = kWarpLanes) {
  SCOPED_TRACE(
      schemeName(problem.scheme) +
      (problem.activation == quant_llm::TensorType::BF16 ? " bf16" : " f16"));
  int64_t n = problem.n, k = problem.k;
  std::mt19937 random(7);
  bool isLarge = problem.scheme.scaleType == quant_llm::FloatType::F8E4M3FN;
  std::normal_distribution<float> normal(0.0f, deviation ? deviation
                                               : isLarge ? 4000.0f
                                                         : 0.02f);
  std::vector<float> weights(n * k);
  for (float &weight : weights)
    weight = normal(random);
  MatrixView view;
  view.data = weights.data();
  view.n = n;
  view.k = k;
  view.type = SourceType::F32;
  auto quantized = quantize(view, problem.scheme, "w", 1);
  ASSERT_TRUE(quantized.ok()) << quantized.message();
  std::vector<float> expected(n * k);
  ASSERT_TRUE(dequantize(*quantized, problem.scheme, expected.data(), 1).ok());
  auto packed = packWeight(quantized->view(), problem.scheme, 1);
  ASSERT_TRUE(packed.ok()) << packed.message();
  auto layout = FragmentLayout::get(problem.scheme, n, k);
  ASSERT_TRUE(layout.ok());

  int64_t units = layout->getNumUnits();
  Fragments fragments(problem, units, threads);
  ASSERT_TRUE(fragments.function);
  LowMemory codes(packed->codes.size()), scales(packed->scales.size()),
      zeros(packed->zeros.size()), table(fragments.tableBytes);
  ASSERT_TRUE(codes.isValid() && scales.isValid() && zeros.isValid() &&
              table.isValid());
  codes.fill(packed->codes);
  scales.fill(packed->scales);
  zeros.fill(packed->zeros);
  // What no thread fills is no number.
  table.fill(std::vector<uint8_t>(fragments.tableBytes, 0xff));
  std::vector<uint32_t> out(units * kStepsPerUnit * 4);
  for (int64_t thread = 0; thread != threads && fragments.tableBytes; ++thread)
    fragments.function(codes.address(), scales.address(), zeros.address(),
                       table.address(), thread, out.data());

  bool isBF16 = problem.activation == quant_llm::TensorType::BF16;
  double epsilon = isBF16 ? 0x1p-8 : 0x1p-11;
  int64_t perStrip =
      layout->hasColumnScales() ? 0 : layout->getNumGroups() * kStripRows;
  int64_t scaleBytes = getScaleBytes(problem.scheme);
  int64_t wrong = 0;
  double worst = 0;
  for (int64_t strip = 0; strip != layout->getNumStrips(); ++strip)
    for (unsigned lane = 0; lane != 32; ++lane) {
      fragments.function(
          codes.address() + strip * units * layout->getUnitBytes(),
          scales.address() + strip * perStrip * scaleBytes,
          zeros.address() + strip * perStrip * getZeroBytes(problem.scheme),
          table.address(), lane, out.data());
      for (size_t i = 0; i != out.size() * 2; ++i) {
        FragmentPosition position{lane, unsigned(i / 8 % kStepsPerUnit),
                                  unsigned(i / 2 % 4), unsigned(i % 2)};
        int64_t row = strip * kStripRows + getFragmentRow(position);
        int64_t column = int64_t(i / 8 / kStepsPerUnit) * kUnitColumns +
                         getFragmentColumn(position);
        uint16_t bits = out[i / 2] >> 16 * (i % 2);
        double value = isBF16 ? bf16ToFloat(bits) : f16ToFloat(bits);
        if (row >= n || column >= k) {
          wrong += !std::isfinite(value);
          continue;
        }
        value *= double(fragments.outputFactor) * packed->outputScale;
        if (getScaleMode(problem) == ScaleMode::Channel)
          value *=
              loadFloat(getPackedScaleType(problem.scheme),
                        packed->scales.data() +
                            layout->getScaleIndex(row, column) * scaleBytes);
        double largest = 0;
        for (int64_t c = 0; c != k; ++c)
          largest = std::max<double>(largest, std::fabs(expected[row * k + c]));
        double error = std::fabs(value - expected[row * k + column]);
        double bound = ulps * epsilon * largest;
        // Nothing vanishes that the activation type has.
        if (problem.scheme.zero == ZeroKind::None && value == 0 &&
            std::fabs(expected[row * k + column]) >= 0x1p-24)
          error = INFINITY;
        worst = std::max(worst, bound > 0 ? error / bound : error);
        if (!(error <= bound) && wrong++ < 3)
          ADD_FAILURE() << "row " << row << ", column " << column
                        << ": expected " << expected[row * k + column]
                        << " but got " << value;
      }
    }
  EXPECT_EQ(wrong, 0) << "worst error is " << worst << " of the bound";
}

constexpr quant_llm::TensorType kF16 = quant_llm::TensorType::F16;
constexpr quant_llm::TensorType kBF16 = quant_llm::TensorType::BF16;

TEST(DequantizeTest, EveryElement) {
  std::vector<std::string> elements = {"ternary",  "f4E2M1FN", "f6E2M3FN",
                                       "f6E3M2FN", "f8E4M3FN", "f8E5M2",
                                       "nf4"};
  for (unsigned bits = 2; bits <= 8; ++bits)
    elements.push_back("int" + std::to_string(bits));
  for (const std::string &element : elements)
    for (quant_llm::TensorType activation : {kF16, kBF16}) {
      // One rounding of the weight in f16; in bf16 also one of the scale.
      expectFragments(makeProblem(element, 32, "f16", "none", activation), 2);
      expectFragments(makeProblem(element, -1, "f16", "none", activation), 1);
    }
}

TEST(DequantizeTest, EveryZero) {
  for (unsigned bits = 1; bits <= 8; ++bits)
    for (const char *zero : {"int", "f16", "f32"})
      for (int64_t block : {64, -1})
        for (quant_llm::TensorType activation : {kF16, kBF16})
          expectFragments(makeProblem("uint" + std::to_string(bits), block,
                                      "f16", zero, activation),
                          4);
}

TEST(DequantizeTest, LargeValuesAndScales) {
  // f8E4M3FN scales are not normalized: products and zeros must stay in range.
  for (const char *element : {"f8E5M2", "f8E4M3FN", "f6E2M3FN", "f6E3M2FN",
                              "f4E2M1FN", "nf4", "int8", "ternary"})
    for (quant_llm::TensorType activation : {kF16, kBF16})
      expectFragments(makeProblem(element, 32, "f8E4M3FN", "none", activation),
                      2);
  for (const char *element : {"uint4", "uint8", "int4"})
    for (quant_llm::TensorType activation : {kF16, kBF16})
      expectFragments(makeProblem(element, 32, "f8E4M3FN", "f16", activation),
                      4);
  expectFragments(makeProblem("uint8", 32, "f8E4M3FN", "int", kF16), 4);
}

TEST(DequantizeTest, SmallValuesUnderSmallFloatScales) {
  for (const char *element :
       {"f8E5M2", "f8E4M3FN", "f6E2M3FN", "f6E3M2FN", "f4E2M1FN", "nf4"})
    for (float deviation : {0.02f, 0.0005f})
      for (quant_llm::TensorType activation : {kF16, kBF16})
        expectFragments(
            makeProblem(element, 32, "f8E4M3FN", "none", activation), 2,
            deviation);
}

TEST(DequantizeTest, Codebook) {
  // Values beyond 2 are stored divided by a power of two, zeros must be, too.
  const char *table = "codebook<3, [-4, -2.5, -1, -0.25, 0, 0.5, 1.5, 3]>";
  for (const char *zero : {"none", "f16"})
    for (int64_t block : {32, -1})
      for (quant_llm::TensorType activation : {kF16, kBF16})
        expectFragments(makeProblem(table, block, "f16", zero, activation), 4);
}

TEST(DequantizeTest, TablesOfAnyThreads) {
  // 1 to 4 bits: tables of pairs. Fewer and more threads than there are stores,
  // and numbers that do not divide theirs.
  for (const char *element :
       {"codebook<1, [-1, 0.75]>", "codebook<2, [-1, -0.25, 0.5, 1]>",
        "codebook<3, [-4, -2.5, -1, -0.25, 0, 0.5, 1.5, 3]>", "nf4",
        "codebook<5, [-16, -15, -14, -13, -12, -11, -10, -9, -8, -7, -6, -5, "
        "-4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, "
        "15]>"})
    for (int64_t threads : {32, 96, 384})
      expectFragments(makeProblem(element, 32, "f16", "none", kBF16), 4,
                      /*deviation=*/0, threads);
}

TEST(DequantizeTest, EveryScaleType) {
  for (const char *scale : {"f16", "bf16", "f32", "f8E8M0FNU", "f8E4M3FN"})
    for (const char *element : {"int4", "f4E2M1FN", "int8"})
      for (int64_t block : {16, 128, -1})
        for (quant_llm::TensorType activation : {kF16, kBF16})
          expectFragments(
              makeProblem(element, block, scale, "none", activation), 2);
}

TEST(DequantizeTest, EveryGroup) {
  for (int64_t block : {1, 3, 15, 16, 17, 48, 64, 96, 100, 128, 200, 249})
    for (const char *element : {"int4", "uint3"})
      expectFragments(makeProblem(element, block, "f16",
                                  element[0] == 'u' ? "int" : "none", kF16),
                      4);
}

} // namespace
