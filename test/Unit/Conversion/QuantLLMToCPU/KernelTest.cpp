//===- KernelTest.cpp - CPU kernels against float64 -----------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelHarness.h"

#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/AffineExpr.h"

#include "gtest/gtest.h"

#include <cmath>
#include <map>

using namespace mlir;
using namespace quant_llm;
using namespace quant_llm::testing;

namespace {

MLIRContext &context() {
  static MLIRContext *shared = makeContext().release();
  return *shared;
}

template <typename T>
T pick(std::mt19937 &random, std::initializer_list<T> list) {
  return list.begin()[random() % list.size()];
}

/// f32 sums of k products in any order, relative to the largest result.
double tolerance(const LayerConfig &config) {
  return 2e-6 * std::sqrt(double(config.k)) + 1e-6;
}

void checkLayer(const LayerConfig &config,
                std::initializer_list<int64_t> tokens, unsigned seed) {
  auto layer =
      Layer::create(context(), config, seed, /*optLevel=*/1, /*openMP=*/true);
  ASSERT_TRUE(layer) << config.toString();
  for (int64_t m : tokens)
    EXPECT_LE(layer->check(m, seed + m), tolerance(config))
        << config.toString() << " tokens " << m << " seed " << seed;
}

LayerConfig randomConfig(std::mt19937 &random) {
  LayerConfig config;
  config.n = pick<int64_t>(random, {1, 3, 16, 17, 31, 33, 48, 64, 100, 129});
  config.k =
      pick<int64_t>(random, {1, 7, 16, 17, 40, 64, 100, 129, 172, 192, 576});
  auto element = [&] {
    return pick<std::string>(
        random, {"int1",      "int2",      "int3",      "int4",    "int4",
                 "int5",      "int6",      "int7",      "int8",    "uint1",
                 "uint2",     "uint3",     "uint4",     "uint4",   "uint5",
                 "uint6",     "uint7",     "uint8",     "ternary", "f4E2M1FN",
                 "f6E2M3FN",  "f6E3M2FN",  "f8E4M3FN",  "f8E5M2",  "codebook1",
                 "codebook3", "codebook4", "codebook8", "nf4",     "f32",
                 "f16",       "bf16"});
  };
  config.elements = {element()};
  if (random() % 4 == 0)
    config.elements.push_back(random() % 2 ? element() : config.elements[0]);
  config.blockN = pick<int64_t>(random, {1, 1, 1, 2, 16, 24, -1});
  config.blockK = pick<int64_t>(random, {-1, 1, 3, 8, 16, 32, 40, 64, 64, 128});
  config.scale = pick<std::string>(
      random, {"f16", "bf16", "f32", "f8E8M0FNU", "f8E4M3FN"});
  config.zero = pick<std::string>(
      random, {"none", "none", "int", "f16", "bf16", "f32", "f8E4M3FN"});
  config.input =
      pick<std::string>(random, {"f32", "f32", "f32", "f16", "bf16"});
  config.result =
      pick<std::string>(random, {"f32", "f32", "f32", "f16", "bf16"});
  config.epilogue = random() % 2;
  config.vectorBits = pick<unsigned>(random, {0, 0, 0, 256});
  config.panelDepth = pick<int64_t>(random, {0, 0, 32, 64});
  config.rowsPerPass = pick<int64_t>(random, {0, 0, 1, 4});
  config.tokensPerPass = pick<int64_t>(random, {0, 0, 2, 3});
  return config;
}

/// Every combination cannot be tested; a fixed random sample of them is, and
/// the seed of a failure is printed.
class RandomLayers : public ::testing::TestWithParam<unsigned> {};

TEST_P(RandomLayers, MatchFloat64) {
  std::mt19937 random(GetParam());
  for (int i = 0; i < 5; ++i) {
    unsigned seed = random();
    std::mt19937 local(seed);
    LayerConfig config = randomConfig(local);
    checkLayer(config, {1, 3, 4, 9, 21}, seed);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomLayers, ::testing::Range(0u, 16u));

TEST(LinearKernel, RaggedLastGroup) {
  LayerConfig config;
  config.n = 72;
  config.k = 576;
  config.blockK = 128;
  checkLayer(config, {1, 2, 8, 20}, 1);
  config.n = 40;
  config.k = 172;
  config.blockK = 32;
  config.zero = "int";
  checkLayer(config, {1, 2, 8, 20}, 2);
}

TEST(LinearKernel, LongRowsAreSplit) {
  LayerConfig config;
  config.n = 33;
  config.k = 4100;
  config.blockK = 64;
  checkLayer(config, {1, 13}, 3);
  config.elements = {"int4", "int4"};
  config.epilogue = true;
  checkLayer(config, {1, 13}, 4);
}

TEST(LinearKernel, OneScalePerInputChannel) {
  LayerConfig config;
  config.n = 50;
  config.k = 130;
  config.blockN = -1;
  config.blockK = 1;
  checkLayer(config, {1, 9}, 5);
}

TEST(LinearKernel, NoTokens) {
  LayerConfig config;
  config.n = 32;
  config.k = 64;
  auto layer = Layer::create(context(), config, 1, 0, /*openMP=*/false);
  ASSERT_TRUE(layer);
  float x = 0, y = 7;
  layer->run(0, &x, 64, &y, 32);
  EXPECT_EQ(y, 7);
}

/// What IEEE arithmetic makes of infinite and undefined inputs must not depend
/// on the path that a number of tokens takes.
TEST(LinearKernel, InfiniteInputs) {
  for (auto [element, zero] :
       std::vector<std::pair<const char *, const char *>>{{"int4", "none"},
                                                          {"int4", "f32"},
                                                          {"int3", "f32"},
                                                          {"uint4", "int"},
                                                          {"uint8", "int"},
                                                          {"nf4", "f32"},
                                                          {"f4E2M1FN", "f32"},
                                                          {"f4E2M1FN", "none"},
                                                          {"bf16", "none"}})
    for (unsigned bits : {0u, 256u}) {
      LayerConfig config;
      config.n = 33;
      config.k = 192;
      config.blockK = 64;
      config.elements = {element};
      config.zero = zero;
      config.vectorBits = bits;
      auto layer =
          Layer::create(context(), config, 7, /*optLevel=*/1, /*openMP=*/true);
      ASSERT_TRUE(layer) << config.toString();
      for (int64_t m : {1, 4, 8, 24})
        EXPECT_EQ(layer->countWrongInfinities(m, 11 + m), 0)
            << config.toString() << " tokens " << m;
    }
}

/// A parallel region cannot be left, so what it allocates is looked at.
TEST(LinearKernel, NoMemoryInParallelRegions) {
  LayerConfig config;
  config.n = 96;
  config.k = 4100;
  auto layer = Layer::create(context(), config, 1, 1, /*openMP=*/true);
  ASSERT_TRUE(layer);
  // Sums of so many tokens have no room, so nothing is read or written.
  float x = 0, y = 7;
  layer->run(int64_t(1) << 45, &x, config.k, &y, config.n);
  EXPECT_EQ(y, 7);
}

/// The IR of a kernel for [96, 576] weights in groups of 64.
OwningOpRef<ModuleOp> emitTypical(ElementKind kind, unsigned bits,
                                  Type dense = {}) {
  OwningOpRef<ModuleOp> module = ModuleOp::create(UnknownLoc::get(&context()));
  OpBuilder builder = OpBuilder::atBlockEnd(module->getBody());
  LinearKernelSpec spec;
  spec.n = 96;
  spec.k = 576;
  KernelWeight &weight = spec.weights.emplace_back();
  weight.denseType = dense;
  weight.scheme.element.kind = kind;
  weight.scheme.element.bits = bits;
  weight.scheme.blockK = 64;
  spec.inputType = spec.resultType = builder.getF32Type();
  EXPECT_TRUE(
      succeeded(emitLinearKernel(builder, module->getLoc(), "kernel", spec)));
  return module;
}

TEST(LinearKernel, EmitsRegistersAndOneSourceOfThreads) {
  Type f16 = Float16Type::get(&context());
  OwningOpRef<ModuleOp> modules[] = {
      emitTypical(ElementKind::Int, 4), emitTypical(ElementKind::UInt, 3),
      emitTypical(ElementKind::NF4, 4), emitTypical(ElementKind::Int, 4, f16)};
  for (OwningOpRef<ModuleOp> &module : modules) {
    int ops = 0, parallel = 0, prefetch = 0, tiles = 0;
    module->walk([&](Operation *op) {
      ++ops;
      StringRef name = op->getName().getStringRef();
      StringRef dialect = op->getName().getDialectNamespace();
      EXPECT_TRUE(llvm::is_contained({"builtin", "func", "scf", "memref",
                                      "vector", "arith", "math"},
                                     dialect.str()) ||
                  name == "llvm.call_intrinsic")
          << name.str();
      if (name == "scf.parallel") {
        ++parallel;
        EXPECT_FALSE(op->getParentOfType<scf::ParallelOp>());
      }
      prefetch += name == "memref.prefetch";
      // The register tile: 8 rows of two vectors.
      tiles += name == "scf.for" && op->getNumResults() == 16;
      if (isa<memref::AllocOp>(op) && op->getParentOfType<scf::ParallelOp>()) {
        EXPECT_TRUE(llvm::any_of(
            op->getUsers(),
            llvm::IsaPred<memref::ExtractAlignedPointerAsIndexOp>));
      }
      for (Type type : op->getResultTypes())
        if (auto vector = dyn_cast<VectorType>(type)) {
          EXPECT_EQ(vector.getRank(), 1);
          EXPECT_LE(vector.getNumElements() * vector.getElementTypeBitWidth(),
                    512);
        }
    });
    // Small IR keeps the compilation of a whole model short.
    EXPECT_LT(ops, 2500);
    EXPECT_GE(parallel, 2);
    EXPECT_GE(prefetch, 2);
    EXPECT_GE(tiles, 1);
  }
}

TEST(LinearKernel, TypesOfArguments) {
  LinearKernelSpec spec;
  spec.n = 10;
  spec.k = 100;
  KernelWeight &weight = spec.weights.emplace_back();
  weight.scheme.element = {ElementKind::UInt, 3, {}};
  weight.scheme.blockN = 4;
  weight.scheme.blockK = 32;
  weight.scheme.scaleType = quant_llm::FloatType::F8E8M0FNU;
  weight.scheme.zero = ZeroKind::Float;
  weight.scheme.zeroType = quant_llm::FloatType::BF16;
  spec.inputType = Float32Type::get(&context());
  spec.resultType = Float16Type::get(&context());
  std::string text;
  llvm::raw_string_ostream stream(text);
  for (Type type : getLinearKernelTypes(&context(), spec))
    stream << type << "\n";
  EXPECT_EQ(text, "memref<?x100xf32, strided<[?, 1], offset: ?>>\n"
                  "memref<10x38xi8>\n"
                  "memref<3x4xi8>\n"
                  "memref<3x4xbf16>\n"
                  "memref<?x10xf16, strided<[?, 1], offset: ?>>\n");
}

TEST(LinearKernel, RefusesWhatItCannotEmit) {
  OwningOpRef<ModuleOp> module = ModuleOp::create(UnknownLoc::get(&context()));
  OpBuilder builder = OpBuilder::atBlockEnd(module->getBody());
  std::string message;
  ScopedDiagnosticHandler handler(&context(), [&](Diagnostic &diagnostic) {
    message = diagnostic.str();
    return success();
  });
  LinearKernelSpec spec;
  auto emit = [&] {
    message.clear();
    EXPECT_TRUE(failed(
        emitLinearKernel(builder, UnknownLoc::get(&context()), "k", spec)));
    return message;
  };
  EXPECT_EQ(emit(),
            "expected a kernel of at least one row and column but got 0x0");
  spec.n = spec.k = 8;
  EXPECT_EQ(emit(), "expected one or two weights but got 0");
  spec.weights.emplace_back();
  EXPECT_EQ(emit(),
            "expected f32, f16 or bf16 as the types of input and result");
  spec.inputType = spec.resultType = builder.getF32Type();
  spec.weights[0].scheme.element.bits = 9;
  EXPECT_EQ(emit(), "expected codes of 1 to 8 bits but got 9");
  spec.weights[0].scheme.element.bits = 0;
  EXPECT_EQ(emit(), "expected codes of 1 to 8 bits but got 0");
  spec.weights[0].scheme.element.bits = 4;
  spec.weights[0].scheme.blockK = 0;
  EXPECT_EQ(emit(), "expected a positive block or -1 but got 0");
  spec.weights[0].scheme.blockK = 8;
  spec.weights[0].scheme.element.kind = ElementKind::Codebook;
  EXPECT_EQ(emit(), "expected 16 values in a codebook of 4 bits but got 0");
  spec.weights[0].denseType = builder.getF64Type();
  EXPECT_EQ(emit(), "expected f32, f16 or bf16 as the type of a dense weight");
  spec.weights[0].denseType = builder.getF32Type();
  spec.vectorBits = 100;
  EXPECT_EQ(emit(),
            "expected a vector width of 128, 256 or 512 bits but got 100");
  EXPECT_TRUE(module->getBody()->empty());
}

//===----------------------------------------------------------------------===//
// Contractions
//===----------------------------------------------------------------------===//

struct Operand {
  Operand(const std::string &dims, const std::string &type,
          const std::map<char, int64_t> &sizes, bool padded)
      : type(type) {
    int64_t count = 1;
    strides.resize(dims.size());
    for (size_t i = dims.size(); i-- > 0;) {
      shape.insert(shape.begin(), sizes.at(dims[i]));
      strides[i] = count;
      count *= sizes.at(dims[i]) + (padded && i > 0 ? 3 : 0);
    }
    data.resize(count);
  }
  std::string type;
  std::vector<int64_t> shape, strides;
  std::vector<float> data;
};

void checkContraction(const std::string &lhs, const std::string &rhs,
                      const std::string &out,
                      const std::map<char, int64_t> &sizes,
                      bool accumulate = false, float scale = 1.0f,
                      unsigned vectorBits = 0) {
  std::vector<char> dims;
  for (auto &[dim, size] : sizes)
    dims.push_back(dim);
  ContractionKernelSpec spec;
  auto map = [&](const std::string &names) {
    SmallVector<AffineExpr> exprs;
    for (char name : names)
      exprs.push_back(
          getAffineDimExpr(llvm::find(dims, name) - dims.begin(), &context()));
    return AffineMap::get(dims.size(), 0, exprs, &context());
  };
  auto type = [&](const std::string &names) {
    SmallVector<int64_t> dynamic(names.size(), ShapedType::kDynamic);
    SmallVector<int64_t> strides(dynamic);
    strides.back() = 1;
    return MemRefType::get(
        dynamic, Float32Type::get(&context()),
        StridedLayoutAttr::get(&context(), ShapedType::kDynamic, strides));
  };
  spec.lhsMap = map(lhs);
  spec.rhsMap = map(rhs);
  spec.outMap = map(out);
  spec.lhsType = type(lhs);
  spec.rhsType = type(rhs);
  spec.outType = type(out);
  spec.accumulate = accumulate;
  spec.scale = scale;
  spec.vectorBits = vectorBits ? vectorBits : getHostVectorBits();
  OwningOpRef<ModuleOp> module = ModuleOp::create(UnknownLoc::get(&context()));
  OpBuilder builder = OpBuilder::atBlockEnd(module->getBody());
  auto function =
      emitContractionKernel(builder, module->getLoc(), "kernel", spec);
  ASSERT_TRUE(succeeded(function));
  (*function)->setAttr("llvm.emit_c_interface", builder.getUnitAttr());
  auto kernel = Compiled::create(module.release(), 1, /*openMP=*/true);
  ASSERT_TRUE(kernel);

  Operand a(lhs, "f32", sizes, true), b(rhs, "f32", sizes, true),
      c(out, "f32", sizes, true);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (Operand *operand : {&a, &b, &c})
    for (float &value : operand->data)
      value = normal(random);
  std::vector<float> before = c.data;
  Buffer ba(a.data.data(), a.shape, a.strides),
      bb(b.data.data(), b.shape, b.strides),
      bc(c.data.data(), c.shape, c.strides);
  kernel->run({&ba, &bb, &bc});

  std::vector<double> expected(before.begin(), before.end());
  std::vector<bool> written(expected.size());
  std::map<char, int64_t> at;
  auto offset = [&](const std::string &names, const Operand &operand) {
    int64_t result = 0;
    for (size_t i = 0; i < names.size(); ++i)
      result += at[names[i]] * operand.strides[i];
    return result;
  };
  int64_t points = 1;
  // An empty sum still has outputs.
  for (auto &[dim, size] : sizes)
    points *= std::max<int64_t>(size, 1);
  for (int64_t point = 0; point < points; ++point) {
    int64_t rest = point;
    for (auto &[dim, size] : sizes) {
      at[dim] = rest % std::max<int64_t>(size, 1);
      rest /= std::max<int64_t>(size, 1);
    }
    int64_t o = offset(out, c);
    if (!written[o] && !accumulate)
      expected[o] = 0;
    written[o] = true;
    if (sizes.at('k') == 0)
      continue;
    expected[o] +=
        double(scale) * a.data[offset(lhs, a)] * b.data[offset(rhs, b)];
  }
  double bound =
      2e-6 * std::sqrt(double(sizes.at('k'))) * std::fabs(scale) * 4 + 2e-6;
  int wrong = 0;
  for (size_t i = 0; i < expected.size(); ++i)
    if (!(std::fabs(expected[i] - c.data[i]) <= bound))
      ++wrong;
  EXPECT_EQ(wrong, 0) << lhs << " " << rhs << " " << out << " m "
                      << sizes.at('m') << " n " << sizes.at('n') << " k "
                      << sizes.at('k');
}

TEST(ContractionKernel, Attention) {
  // Dimensions: h heads of the cache, r queries per head.
  for (int64_t m : {1, 3, 4, 5, 20, 131}) {
    checkContraction("hrmk", "hnk", "hrmn",
                     {{'h', 2}, {'r', 3}, {'m', m}, {'n', 70}, {'k', 64}},
                     false, 0.125f);
    checkContraction("hrmk", "hkn", "hrmn",
                     {{'h', 2}, {'r', 3}, {'m', m}, {'n', 64}, {'k', 37}});
  }
}

TEST(ContractionKernel, OddSizesAndOrders) {
  checkContraction("mk", "nk", "mn", {{'m', 17}, {'n', 33}, {'k', 1}});
  checkContraction("mk", "kn", "mn", {{'m', 1}, {'n', 1}, {'k', 1}});
  checkContraction("mk", "kn", "mn", {{'m', 9}, {'n', 5}, {'k', 2100}}, true,
                   2.0f);
  checkContraction("km", "kn", "mn", {{'m', 2}, {'n', 40}, {'k', 10}}, true);
  checkContraction("km", "nk", "nm", {{'m', 12}, {'n', 40}, {'k', 10}}, true);
  checkContraction("mkh", "nhk", "nhm",
                   {{'h', 3}, {'m', 12}, {'n', 40}, {'k', 10}});
  checkContraction("mhk", "nhk", "hmn",
                   {{'h', 3}, {'m', 4}, {'n', 40}, {'k', 18}}, true);
  checkContraction("mkh", "nkh", "nmh",
                   {{'h', 3}, {'m', 12}, {'n', 40}, {'k', 10}});
  checkContraction("mk", "nk", "mn", {{'m', 20}, {'n', 35}, {'k', 50}}, false,
                   1.0f, 256);
  checkContraction("mk", "nk", "mn", {{'m', 20}, {'n', 35}, {'k', 50}}, false,
                   1.0f, 128);
}

TEST(ContractionKernel, EmptySumIsZero) {
  checkContraction("mk", "nk", "mn", {{'m', 20}, {'n', 35}, {'k', 0}});
  checkContraction("mk", "nk", "mn", {{'m', 5}, {'n', 35}, {'k', 0}}, true);
  checkContraction("mk", "nk", "mn", {{'m', 1}, {'n', 35}, {'k', 0}});
}

TEST(ContractionKernel, RefusesWhatIsNoContraction) {
  OwningOpRef<ModuleOp> module = ModuleOp::create(UnknownLoc::get(&context()));
  OpBuilder builder = OpBuilder::atBlockEnd(module->getBody());
  std::string message;
  ScopedDiagnosticHandler handler(&context(), [&](Diagnostic &diagnostic) {
    message = diagnostic.str();
    return success();
  });
  ContractionKernelSpec spec;
  auto d = [&](unsigned i) { return builder.getAffineDimExpr(i); };
  auto map = [&](ArrayRef<AffineExpr> exprs) {
    return AffineMap::get(3, 0, exprs, &context());
  };
  auto type = MemRefType::get({4, 4}, builder.getF32Type());
  spec.lhsType = spec.rhsType = spec.outType = type;
  auto emit = [&] {
    EXPECT_TRUE(failed(emitContractionKernel(
        builder, UnknownLoc::get(&context()), "k", spec)));
    return message;
  };
  EXPECT_NE(emit().find("expected one projected permutation per operand"),
            std::string::npos);
  spec.lhsMap = map({d(0), d(2)});
  spec.rhsMap = map({d(2), d(0)});
  spec.outMap = map({d(0), d(1)});
  EXPECT_NE(emit().find("expected every dimension in two operands"),
            std::string::npos);
  spec.rhsMap = map({d(2), d(1)});
  spec.outType = MemRefType::get({4, 4}, builder.getI32Type());
  EXPECT_NE(emit().find("expected f32, f16 or bf16 operands"),
            std::string::npos);
  EXPECT_TRUE(module->getBody()->empty());
}

} // namespace
