//===- MaterializeTransforms.cpp - Compute transformed parameters ---------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "NewArchive.h"

#include "quant-llm/Dialect/QuantLLM/Transforms/EquivalenceTransforms.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/Rotation.h"
#include "quant-llm/Support/Parallel.h"
#include "quant-llm/Support/Progress.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Iterators.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/Remarks.h"
#include "mlir/IR/TypeUtilities.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/raw_ostream.h"

#include <cmath>
#include <cstring>

namespace quant_llm {
#define GEN_PASS_DEF_MATERIALIZETRANSFORMS
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-materialize-transforms";

//===----------------------------------------------------------------------===//
// Evaluation
//===----------------------------------------------------------------------===//

namespace {

/// The elements of a tensor, in f64; indices of permutations are exact in it.
struct Elements {
  SmallVector<int64_t> shape;
  std::vector<double> values;

  /// Seen as [outer, size of dim, inner].
  int64_t getInner(int64_t dim) const {
    int64_t inner = 1;
    for (int64_t size : ArrayRef(shape).drop_front(dim + 1))
      inner *= size;
    return inner;
  }
};

/// Computes the values of chains.
class Evaluator {
public:
  explicit Evaluator(ParameterArchives &archives) : archives(archives) {}
  FailureOr<Elements> evaluate(Value value);

private:
  FailureOr<Elements> load(GetParameterOp get);
  FailureOr<Elements> readConstant(Operation *op);
  LogicalResult apply(Operation *op, const ChannelTransform &transform,
                      Elements &x);
  LogicalResult multiply(Operation *op, const ChannelTransform &transform,
                         Elements &x);
  static void forEachElement(Elements &x, ArrayRef<int64_t> dims,
                             function_ref<void(double &, int64_t)> body);

  ParameterArchives &archives;
};

} // namespace

/// Calls `body` with every element and the index of its channel, from several
/// threads.
void Evaluator::forEachElement(Elements &x, ArrayRef<int64_t> dims,
                               function_ref<void(double &, int64_t)> body) {
  SmallVector<int64_t> inner, strides(dims.size(), 1);
  for (int64_t dim : dims)
    inner.push_back(x.getInner(dim));
  for (int64_t i = static_cast<int64_t>(dims.size()) - 2; i >= 0; --i)
    strides[i] = strides[i + 1] * x.shape[dims[i + 1]];
  const int64_t count = x.values.size();
  parallelFor(count, /*threads=*/0, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t channel = 0;
      for (size_t d = 0; d < dims.size(); ++d)
        channel += i / inner[d] % x.shape[dims[d]] * strides[d];
      body(x.values[i], channel);
    }
  });
}

FailureOr<Elements> Evaluator::load(GetParameterOp get) {
  ParameterOp parameter = getParameterOf(get.getResult());
  FailureOr<TensorInfo> info = archives.find(parameter);
  if (failed(info))
    return failure();
  Elements result;
  result.shape.assign(info->shape.begin(), info->shape.end());
  Result<TensorBuffer> buffer = loadTensor(*info);
  if (!buffer.ok())
    return parameter.emitOpError("cannot be read: ") << buffer.message();
  int64_t count = 1;
  for (int64_t size : info->shape)
    count *= size;
  result.values.resize(count);
  auto convert = [&](auto *from, auto toDouble) {
    for (int64_t i = 0; i < count; ++i)
      result.values[i] = static_cast<double>(toDouble(from[i]));
  };
  auto identity = [](auto x) { return x; };
  const void *data = buffer->data;
  switch (info->dtype) {
  case DType::F64:
    convert(static_cast<const double *>(data), identity);
    break;
  case DType::F32:
    convert(static_cast<const float *>(data), identity);
    break;
  case DType::F16:
    convert(static_cast<const uint16_t *>(data),
            [](uint16_t x) { return f16ToFloat(x); });
    break;
  case DType::BF16:
    convert(static_cast<const uint16_t *>(data),
            [](uint16_t x) { return bf16ToFloat(x); });
    break;
  case DType::I32:
    convert(static_cast<const int32_t *>(data), identity);
    break;
  case DType::I64:
    convert(static_cast<const int64_t *>(data), identity);
    break;
  default:
    return parameter.emitOpError("expected elements of a float type to "
                                 "transform but got ")
           << parameter.getType();
  }
  archives.release(parameter, *info);
  return result;
}

FailureOr<Elements> Evaluator::readConstant(Operation *op) {
  DenseElementsAttr attr;
  if (!matchPattern(op->getResult(0), m_Constant(&attr)))
    return op->emitOpError("expected the elements of the constant as a dense "
                           "attribute, to compute transformed parameters");
  Elements result;
  result.shape = llvm::to_vector(attr.getType().getShape());
  if (isa<IntegerType>(attr.getElementType())) {
    for (const APInt &value : attr.getValues<APInt>())
      result.values.push_back(static_cast<double>(value.getSExtValue()));
    return result;
  }
  for (APFloat value : attr.getValues<APFloat>()) {
    bool losesInfo;
    value.convert(APFloat::IEEEdouble(), APFloat::rmNearestTiesToEven,
                  &losesInfo);
    result.values.push_back(value.convertToDouble());
  }
  return result;
}

/// Rotations and affine transforms: every block of channels times a matrix.
LogicalResult Evaluator::multiply(Operation *op,
                                  const ChannelTransform &transform,
                                  Elements &x) {
  const int64_t dim = transform.dims.front(), size = x.shape[dim];
  const int64_t inner = x.getInner(dim), block = transform.getBlock();
  std::optional<HadamardMatrix> hadamard;
  std::vector<int8_t> signs;
  SmallVector<Elements> matrices;
  bool transposed = transform.inverse;
  if (transform.hadamard) {
    Result<HadamardMatrix> matrix = HadamardMatrix::get(transform.hadamard);
    if (!matrix.ok())
      return op->emitOpError(matrix.message());
    hadamard = matrix.take();
    if (transform.seed)
      signs = getRandomSigns(*transform.seed, block);
  } else if (transform.kind == TransformKind::Affine) {
    // The inverse has a matrix of its own.
    FailureOr<Elements> matrix =
        evaluate(transform.data[transform.inverse ? 1 : 0]);
    if (failed(matrix))
      return failure();
    matrices.push_back(std::move(*matrix));
    transposed = false;
  } else {
    for (Value value : transform.data) {
      FailureOr<Elements> matrix = evaluate(value);
      if (failed(matrix))
        return failure();
      matrices.push_back(std::move(*matrix));
    }
  }

  // Every vector is copied, so that it is contiguous.
  const int64_t numVectors = static_cast<int64_t>(x.values.size()) / block;
  const int64_t blocks = size / block;
  const double root = std::sqrt(static_cast<double>(block));
  auto multiplyVector = [&](int64_t index, std::vector<double> &v,
                            std::vector<double> &w) {
    int64_t i = index % inner;
    int64_t b = index / inner % blocks, outer = index / inner / blocks;
    double *begin = x.values.data() + (outer * size + b * block) * inner + i;
    for (int64_t k = 0; k < block; ++k)
      v[k] = begin[k * inner];
    if (hadamard) {
      if (!signs.empty() && !transposed)
        for (int64_t k = 0; k < block; ++k)
          v[k] *= signs[k];
      hadamard->multiply(v.data(), 1, transposed);
      for (int64_t k = 0; k < block; ++k)
        v[k] /= root;
      if (!signs.empty() && transposed)
        for (int64_t k = 0; k < block; ++k)
          v[k] *= signs[k];
    }
    // Factors of a Kronecker product, from the outer to the inner one.
    int64_t stride = block;
    for (const Elements &matrix : matrices) {
      int64_t n = matrix.shape[0];
      stride /= n;
      std::fill(w.begin(), w.end(), 0.0);
      for (int64_t first = 0; first < block; first += n * stride)
        for (int64_t r = 0; r < n; ++r)
          for (int64_t c = 0; c < n; ++c) {
            double factor = transposed ? matrix.values[c * n + r]
                                       : matrix.values[r * n + c];
            for (int64_t s = 0; s < stride; ++s)
              w[first + c * stride + s] += v[first + r * stride + s] * factor;
          }
      std::swap(v, w);
    }
    for (int64_t k = 0; k < block; ++k)
      begin[k * inner] = v[k];
  };
  parallelFor(numVectors, /*threads=*/0, [&](int64_t first, int64_t last) {
    std::vector<double> v(block), w(block);
    for (int64_t index = first; index < last; ++index)
      multiplyVector(index, v, w);
  });
  return success();
}

LogicalResult Evaluator::apply(Operation *op, const ChannelTransform &transform,
                               Elements &x) {
  auto addOffset = [&](const Elements &offset, bool subtract) {
    int64_t count = offset.values.size();
    forEachElement(x, transform.dims, [&](double &value, int64_t channel) {
      double d = offset.values[channel % count];
      value += subtract ? -d : d;
    });
  };
  switch (transform.kind) {
  case TransformKind::Scale: {
    FailureOr<Elements> scale = evaluate(transform.data[0]);
    if (failed(scale))
      return failure();
    for (double value : scale->values)
      if (value == 0 && transform.inverse)
        return op->emitOpError("divides by a scale that is 0");
    forEachElement(x, transform.dims, [&](double &value, int64_t channel) {
      double s = scale->values[channel];
      value = transform.inverse ? value / s : value * s;
    });
    return success();
  }
  case TransformKind::Shift: {
    FailureOr<Elements> offset = evaluate(transform.data[0]);
    if (failed(offset))
      return failure();
    addOffset(*offset, transform.inverse);
    return success();
  }
  case TransformKind::Permute: {
    FailureOr<Elements> indices = evaluate(transform.data[0]);
    if (failed(indices))
      return failure();
    int64_t dim = transform.dims.front(), size = x.shape[dim];
    int64_t inner = x.getInner(dim);
    std::vector<bool> seen(size);
    for (double index : indices->values) {
      if (!(index >= 0 && index < static_cast<double>(size)) ||
          seen[static_cast<int64_t>(index)])
        return op->emitOpError("expected a permutation that holds every number "
                               "from 0 to ")
               << size - 1 << " once";
      seen[static_cast<int64_t>(index)] = true;
    }
    std::vector<double> old = x.values;
    for (int64_t i = 0, e = old.size(); i < e; ++i) {
      int64_t c = i / inner % size, rest = i - c * inner;
      int64_t p = static_cast<int64_t>(indices->values[c]);
      if (transform.inverse)
        x.values[rest + p * inner] = old[i];
      else
        x.values[i] = old[rest + p * inner];
    }
    return success();
  }
  case TransformKind::Rotate:
    return multiply(op, transform, x);
  case TransformKind::Affine: {
    Elements offset;
    if (transform.data.size() > 2) {
      FailureOr<Elements> found = evaluate(transform.data[2]);
      if (failed(found))
        return failure();
      offset = std::move(*found);
      if (transform.inverse)
        addOffset(offset, true);
    }
    if (failed(multiply(op, transform, x)))
      return failure();
    if (!offset.values.empty() && !transform.inverse)
      addOffset(offset, false);
    return success();
  }
  }
  return failure();
}

FailureOr<Elements> Evaluator::evaluate(Value value) {
  Operation *op = value.getDefiningOp();
  if (auto get = dyn_cast<GetParameterOp>(op))
    return load(get);
  if (op->hasTrait<OpTrait::ConstantLike>())
    return readConstant(op);
  FailureOr<Elements> x = evaluate(op->getOperand(0));
  if (failed(x))
    return failure();
  if (std::optional<ChannelTransform> transform = ChannelTransform::of(op)) {
    if (failed(apply(op, *transform, *x)))
      return failure();
    return x;
  }
  auto shape =
      llvm::to_vector(cast<RankedTensorType>(value.getType()).getShape());
  if (isa<tensor::ExpandShapeOp, tensor::CollapseShapeOp>(op)) {
    x->shape = shape;
    return x;
  }
  Elements result;
  result.shape = shape;
  if (auto linear = dyn_cast<LinearOp>(op)) {
    FailureOr<Elements> weight = evaluate(linear.getWeights().front());
    if (failed(weight))
      return failure();
    int64_t n = linear.getN(), k = linear.getK();
    for (int64_t row = 0, e = x->values.size() / k; row < e; ++row)
      for (int64_t i = 0; i < n; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < k; ++j)
          sum += x->values[row * k + j] * weight->values[i * k + j];
        result.values.push_back(sum);
      }
    return result;
  }
  // A transpose or a broadcast: the source element of every result element.
  SmallVector<int64_t> sourceStride(shape.size(), 0);
  if (auto transpose = dyn_cast<linalg::TransposeOp>(op)) {
    for (auto [i, dim] : llvm::enumerate(transpose.getPermutation()))
      sourceStride[i] = x->getInner(dim);
  } else {
    auto broadcast = cast<linalg::BroadcastOp>(op);
    int64_t dim = 0;
    for (size_t i = 0; i < shape.size(); ++i)
      if (!llvm::is_contained(broadcast.getDimensions(),
                              static_cast<int64_t>(i)))
        sourceStride[i] = x->getInner(dim++);
  }
  int64_t count = 1;
  for (int64_t size : shape)
    count *= size;
  result.values.resize(count);
  for (int64_t i = 0; i < count; ++i) {
    int64_t source = 0;
    for (size_t d = 0; d < shape.size(); ++d)
      source += i / result.getInner(d) % shape[d] * sourceStride[d];
    result.values[i] = x->values[source];
  }
  return result;
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

namespace {

/// A parameter to be computed.
struct Computed {
  /// What it replaces: equal chains.
  SmallVector<Value> roots;
  /// The parameter that the chain transforms; null if there is none.
  ParameterOp source;
  /// In the new archive and in the module.
  std::string name;
  bool keepsName = false;
  /// What a linear with that parameter makes of the data of a shift.
  bool isOffset = false;
};

struct MaterializeTransforms
    : public quant_llm::impl::MaterializeTransformsBase<MaterializeTransforms> {
  using MaterializeTransformsBase::MaterializeTransformsBase;

  void runOnOperation() override {
    if (failed(run()))
      signalPassFailure();
  }

private:
  LogicalResult run();
  void collect();
  void chooseNames();
  LogicalResult plan(ParameterArchives &archives, NewArchive &newArchive);
  LogicalResult write(ParameterArchives &archives, NewArchive &newArchive);
  void rewrite(NewArchive &newArchive);

  std::vector<Computed> computed;
  std::vector<CopiedParameter> copied;
  /// Parameters that only chains use.
  llvm::SetVector<Operation *> consumed;
  /// Whether any parameter has more than one form now. (Statistics count
  /// nothing in a release build of LLVM.)
  bool hasUntied = false;
};

} // namespace

/// Whether `value` is an operand of a longer chain in all its uses.
static bool isRoot(Value value) {
  Operation *op = value.getDefiningOp();
  if (!op || isa<GetParameterOp>(op) || op->hasTrait<OpTrait::ConstantLike>() ||
      !isParameterLike(value))
    return false;
  return llvm::any_of(value.getUsers(), [](Operation *user) {
    return user->getNumResults() != 1 || !isParameterLike(user->getResult(0));
  });
}

/// A text that is the same for chains that compute the same.
static void describeChain(Value value, raw_ostream &os) {
  Operation *op = value.getDefiningOp();
  os << op->getName() << op->getAttrDictionary() << value.getType() << "(";
  for (Value operand : op->getOperands())
    if (!operand.getDefiningOp<tensor::EmptyOp>())
      describeChain(operand, os);
  os << ")";
}

/// The parameter that a chain transforms. For what a linear makes of the data
/// of a shift it is the weight.
static ParameterOp getSource(Value value, bool &isOffset) {
  isOffset = false;
  while (Operation *op = value.getDefiningOp()) {
    if (isa<GetParameterOp>(op))
      return getParameterOf(value);
    if (op->getNumOperands() == 0)
      break;
    auto linear = dyn_cast<LinearOp>(op);
    isOffset |= linear != nullptr;
    value = linear ? linear.getWeights().front() : op->getOperand(0);
  }
  return nullptr;
}

void MaterializeTransforms::collect() {
  computed.clear();
  copied.clear();
  consumed.clear();
  llvm::StringMap<size_t> byChain;
  DenseSet<Operation *> usedDirectly;
  SymbolTableCollection tables;
  getOperation()->walk([&](Operation *op) {
    if (auto get = dyn_cast<GetParameterOp>(op)) {
      ParameterOp parameter = getParameterOf(get.getResult(), &tables);
      consumed.insert(parameter);
      for (Operation *user : get->getUsers())
        if (user->getNumResults() != 1 || !isParameterLike(user->getResult(0)))
          usedDirectly.insert(parameter);
      return;
    }
    if (op->getNumResults() != 1 || !isRoot(op->getResult(0)))
      return;
    std::string chain;
    llvm::raw_string_ostream stream(chain);
    describeChain(op->getResult(0), stream);
    auto [found, inserted] = byChain.try_emplace(chain, computed.size());
    if (inserted) {
      Computed &entry = computed.emplace_back();
      entry.source = getSource(op->getResult(0), entry.isOffset);
    }
    computed[found->second].roots.push_back(op->getResult(0));
  });
  // Names of symbols alone are no use.
  consumed.remove_if(
      [&](Operation *parameter) { return usedDirectly.contains(parameter); });
}

void MaterializeTransforms::chooseNames() {
  ModuleOp module = getOperation();
  llvm::StringSet<> taken;
  for (auto op : module.getOps<SymbolOpInterface>())
    taken.insert(op.getName());
  DenseSet<Operation *> named, untied;
  for (Computed &entry : computed) {
    // The first form of a parameter that is used no other way is that
    // parameter.
    if (entry.source && !entry.isOffset &&
        entry.source.getType() == entry.roots.front().getType() &&
        consumed.contains(entry.source) && named.insert(entry.source).second) {
      entry.keepsName = true;
      entry.name = entry.source.getSymName().str();
      continue;
    }
    std::string base = "transform";
    if (entry.source)
      base =
          (entry.source.getSymName() + (entry.isOffset ? ".offset" : ".untied"))
              .str();
    entry.name = base;
    for (int i = 1; !taken.insert(entry.name).second; ++i)
      entry.name = base + "_" + std::to_string(i);
    if (!entry.source || entry.isOffset || !untied.insert(entry.source).second)
      continue;
    ++numUntied;
    hasUntied = true;
    using Arg = remark::detail::Remark::Arg;
    remark::passed(entry.source.getLoc(),
                   remark::RemarkOpts::name("untied").category(kPassName))
        << Arg("parameter", entry.source.getSymName())
        << Arg("further form", entry.name);
  }
}

LogicalResult MaterializeTransforms::plan(ParameterArchives &archives,
                                          NewArchive &newArchive) {
  bool ok = true;
  for (Computed &entry : computed) {
    Type element = getElementTypeOrSelf(entry.roots.front().getType());
    std::optional<DType> dtype = getStoredType(element);
    if (!dtype || !isa<mlir::FloatType>(element)) {
      entry.roots.front().getDefiningOp()->emitOpError(
          "has elements that archives do not hold");
      ok = false;
    }
  }
  for (auto parameter : getOperation().getOps<ParameterOp>()) {
    if (!copyDense || consumed.contains(parameter))
      continue;
    FailureOr<CopiedParameter> copy = findCopied(archives, parameter);
    if (succeeded(copy))
      copied.push_back(std::move(*copy));
    ok &= succeeded(copy);
  }
  if (!ok)
    return failure();
  for (CopiedParameter &copy : copied)
    newArchive.addParameter(copy.parameter);
  // Wide elements first: all are then aligned to their type. Copies lie
  // behind.
  std::vector<Computed> sorted;
  for (unsigned width : {64u, 32u, 16u})
    for (Computed &entry : computed)
      if (getElementTypeOrSelf(entry.roots.front().getType())
              .getIntOrFloatBitWidth() == width)
        sorted.push_back(entry);
  computed = std::move(sorted);
  for (Computed &entry : computed) {
    auto type = cast<RankedTensorType>(entry.roots.front().getType());
    ParameterOp owner = entry.source
                            ? entry.source
                            : *getOperation().getOps<ParameterOp>().begin();
    if (failed(newArchive.declare(owner, entry.name,
                                  *getStoredType(type.getElementType()),
                                  type.getShape())))
      return failure();
  }
  return newArchive.declare(copied);
}

/// To f16 or bf16 with one rounding: to odd in f32, whose last bit then stands
/// for all that were cut off.
static float roundToOdd(double value) {
  float narrow = static_cast<float>(value);
  if (std::isfinite(narrow) && static_cast<double>(narrow) != value) {
    uint32_t bits;
    std::memcpy(&bits, &narrow, sizeof(bits));
    // Toward zero, then odd.
    if (std::fabs(static_cast<double>(narrow)) > std::fabs(value))
      --bits;
    bits |= 1;
    std::memcpy(&narrow, &bits, sizeof(bits));
  }
  return narrow;
}

/// The bytes of elements of a stored type; the index of the first element that
/// is not finite, if there is one.
static std::optional<int64_t> store(const Elements &x, DType dtype,
                                    std::vector<uint8_t> &bytes) {
  const int64_t count = x.values.size();
  std::optional<int64_t> bad;
  auto convert = [&](auto toStored, auto isBad) {
    using T = decltype(toStored(0.0));
    bytes.resize(count * sizeof(T));
    for (int64_t i = 0; i < count; ++i) {
      T stored = toStored(x.values[i]);
      if (isBad(stored) && !bad)
        bad = i;
      std::memcpy(bytes.data() + i * sizeof(T), &stored, sizeof(T));
    }
  };
  switch (dtype) {
  case DType::F64:
    convert([](double v) { return v; },
            [](double v) { return !std::isfinite(v); });
    break;
  case DType::F16:
    convert([](double v) { return floatToF16(roundToOdd(v)); },
            [](uint16_t v) { return !std::isfinite(f16ToFloat(v)); });
    break;
  case DType::BF16:
    convert([](double v) { return floatToBF16(roundToOdd(v)); },
            [](uint16_t v) { return !std::isfinite(bf16ToFloat(v)); });
    break;
  default:
    convert([](double v) { return static_cast<float>(v); },
            [](float v) { return !std::isfinite(v); });
    break;
  }
  return bad;
}

LogicalResult MaterializeTransforms::write(ParameterArchives &archives,
                                           NewArchive &newArchive) {
  Progress progress{"computing transformed parameters", "", 0, 0};
  auto getBytes = [](Value value) -> uint64_t {
    auto type = cast<RankedTensorType>(value.getType());
    return type.getNumElements() * type.getElementTypeBitWidth() / 8;
  };
  for (const Computed &entry : computed)
    progress.total += getBytes(entry.roots.front());
  for (const CopiedParameter &copy : copied)
    progress.total += copy.getBytes();
  auto advance = [&](const std::string &item, uint64_t bytes) {
    progress.item = item;
    progress.done += bytes;
    announceProgress(progress);
  };
  for (const Computed &entry : computed) {
    Value root = entry.roots.front();
    Evaluator evaluator(archives);
    FailureOr<Elements> elements = evaluator.evaluate(root);
    if (failed(elements))
      return failure();
    std::vector<uint8_t> bytes;
    Type element = getElementTypeOrSelf(root.getType());
    if (std::optional<int64_t> bad =
            store(*elements, *getStoredType(element), bytes))
      return root.getDefiningOp()->emitOpError("computes parameter '")
             << entry.name << "', whose element " << *bad
             << " is not a finite number of type " << element;
    if (failed(newArchive.append(entry.name, bytes.data(), bytes.size())))
      return failure();
    advance(entry.name, bytes.size());
  }
  for (const CopiedParameter &copy : copied)
    if (failed(newArchive.append(copy, archives, advance)))
      return failure();
  return success();
}

void MaterializeTransforms::rewrite(NewArchive &newArchive) {
  ModuleOp module = getOperation();
  newArchive.beginRewrite();
  OpBuilder builder(module.getContext());
  for (Computed &entry : computed) {
    ParameterOp parameter = entry.source;
    Type type = entry.roots.front().getType();
    if (!entry.keepsName) {
      // Beside the source, or at the end of the parameters.
      if (parameter)
        builder.setInsertionPointAfter(parameter);
      else
        builder.setInsertionPointAfter(*module.getOps<ArchiveOp>().begin());
      parameter = ParameterOp::create(
          builder, entry.roots.front().getLoc(), entry.name, archiveName,
          /*key=*/StringAttr(), cast<RankedTensorType>(type));
    }
    newArchive.move(parameter, entry.name);
    for (Value root : entry.roots) {
      builder.setInsertionPointAfterValue(root);
      auto get = GetParameterOp::create(
          builder, root.getLoc(), type,
          FlatSymbolRefAttr::get(builder.getContext(), entry.name));
      root.replaceAllUsesWith(get);
    }
    ++numMaterialized;
  }
  for (const CopiedParameter &copy : copied)
    newArchive.move(copy.parameter, copy.key);
  // What the chains were made of.
  eraseUnusedData(module, /*constants=*/true);
  for (Operation *parameter : consumed)
    if (SymbolTable::symbolKnownUseEmpty(parameter, module))
      parameter->erase();
  // The importer's note that embedding and head are one parameter.
  auto model = module->getAttrOfType<DictionaryAttr>("quant_llm.model");
  if (hasUntied && model && model.contains("tied_embeddings")) {
    NamedAttrList entries(model);
    entries.set("tied_embeddings", builder.getBoolAttr(false));
    module->setAttr("quant_llm.model",
                    entries.getDictionary(module.getContext()));
  }
  newArchive.endRewrite();
}

LogicalResult MaterializeTransforms::run() {
  ParameterArchives archives(baseDir);
  NewArchive newArchive(getOperation(), {kPassName, output, /*report=*/"",
                                         archiveName, moduleDir, baseDir});
  hasUntied = false;
  collect();
  if (computed.empty())
    return newArchive.fail() << "no parameter is transformed; run "
                                "quant-llm-fold-transforms first";
  if (failed(newArchive.verifyOptions(archives)))
    return failure();
  chooseNames();
  if (failed(plan(archives, newArchive)) || failed(newArchive.open()) ||
      failed(write(archives, newArchive)) ||
      failed(newArchive.finish([] { return std::string(); })))
    return failure();
  rewrite(newArchive);
  return success();
}
