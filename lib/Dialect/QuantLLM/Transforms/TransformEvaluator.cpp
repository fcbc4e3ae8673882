//===- TransformEvaluator.cpp - Transformed parameters as numbers ---------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TransformEvaluator.h"

#include "quant-llm/Dialect/QuantLLM/Transforms/EquivalenceTransforms.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/Rotation.h"
#include "quant-llm/Support/Parallel.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"

#include <cmath>

using namespace mlir;
using namespace quant_llm;

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
  case DType::I16:
    convert(static_cast<const int16_t *>(data), identity);
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

LogicalResult Evaluator::verifyInverse(Operation *op, Value value,
                                       const Elements &a, Value inverse,
                                       const Elements &b) {
  const bool transposed = !inverse;
  ParameterOp parameter = getParameterOf(value);
  ParameterOp other = inverse ? getParameterOf(inverse) : ParameterOp();
  // Constants alone are the verifier's.
  if (matchPattern(value, m_Constant()) &&
      (transposed || matchPattern(inverse, m_Constant())))
    return success();
  // Other values have no name that would be theirs as long as this is used.
  const bool isNamed = parameter && (transposed || other);
  std::pair<Operation *, Operation *> key(parameter, other);
  if (isNamed && verified.contains(key))
    return success();
  const int64_t n = a.shape[0];
  std::vector<double> errors(static_cast<size_t>(n));
  parallelFor(n, /*threads=*/0, [&](int64_t first, int64_t last) {
    std::vector<double> row(static_cast<size_t>(n));
    for (int64_t i = first; i < last; ++i) {
      const double *left = a.values.data() + i * n;
      std::fill(row.begin(), row.end(), 0.0);
      for (int64_t k = 0; k < n; ++k) {
        const double *right = b.values.data() + k * n;
        for (int64_t j = 0; j < n; ++j)
          if (transposed)
            row[k] += left[j] * right[j];
          else
            row[j] += left[k] * right[j];
      }
      row[i] -= 1.0;
      double &error = errors[i];
      for (double value : row)
        // NaN, too.
        if (!(std::fabs(value) <= error))
          error = std::isnan(value) ? HUGE_VAL : std::fabs(value);
    }
  });
  double error = *llvm::max_element(errors);
  if (error > getIdentityTolerance(value)) {
    ParameterOp named = parameter ? parameter : other;
    const std::string name =
        named ? "'" + named.getSymName().str() + "'" : "a computed matrix";
    return op->emitOpError("expected ")
           << (transposed ? "an orthogonal matrix but R R^T of "
                          : "matrices that are inverses of each other but the "
                            "product of ")
           << name << (transposed ? " differs" : " and its inverse differs")
           << " from the identity by " << llvm::formatv("{0:e2}", error).str();
  }
  if (isNamed)
    verified.insert(key);
  return success();
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
    FailureOr<Elements> other =
        evaluate(transform.data[transform.inverse ? 0 : 1]);
    if (failed(other) ||
        failed(verifyInverse(op, transform.data[transform.inverse ? 1 : 0],
                             *matrix, transform.data[transform.inverse ? 0 : 1],
                             *other)))
      return failure();
    matrices.push_back(std::move(*matrix));
    transposed = false;
  } else {
    for (Value value : transform.data) {
      FailureOr<Elements> matrix = evaluate(value);
      if (failed(matrix) ||
          failed(verifyInverse(op, value, *matrix, {}, *matrix)))
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

void quant_llm::sliceRows(tensor::ExtractSliceOp slice, Elements &x) {
  const int64_t first = slice.getStaticOffsets()[0];
  const auto columns = static_cast<int64_t>(x.values.size()) / x.shape[0];
  x.shape[0] = slice.getType().getDimSize(0);
  x.values.erase(x.values.begin() + (first + x.shape[0]) * columns,
                 x.values.end());
  x.values.erase(x.values.begin(), x.values.begin() + first * columns);
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
  if (isRowSlice(op)) {
    sliceRows(cast<tensor::ExtractSliceOp>(op), *x);
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
