//===- ParameterArchives.cpp - From parameters to their bytes -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"

#include "quant-llm/Formats/Fingerprint.h"

#include "mlir/IR/SymbolTable.h"

using namespace mlir;

namespace quant_llm {

std::optional<DType> getStoredType(Type type) {
  if (type.isF16())
    return DType::F16;
  if (type.isBF16())
    return DType::BF16;
  if (type.isF32())
    return DType::F32;
  if (type.isF64())
    return DType::F64;
  if (isa<Float8E4M3FNType>(type))
    return DType::F8E4M3;
  if (isa<Float8E5M2Type>(type))
    return DType::F8E5M2;
  if (isa<Float8E8M0FNUType>(type))
    return DType::F8E8M0;
  if (type.isInteger(1))
    return DType::Bool;
  if (type.isInteger(8))
    return DType::I8;
  if (type.isInteger(16))
    return DType::I16;
  if (type.isInteger(32))
    return DType::I32;
  if (type.isInteger(64))
    return DType::I64;
  return std::nullopt;
}

FailureOr<const Archive *> ParameterArchives::open(ParameterOp op) {
  auto archiveOp = SymbolTable::lookupNearestSymbolFrom<ArchiveOp>(
      op->getParentOp(), op.getArchiveAttr());
  if (!archiveOp)
    return op.emitOpError("expected the symbol of a quant_llm.archive but got ")
           << op.getArchiveAttr();
  auto [entry, inserted] = archives.try_emplace(archiveOp, nullptr);
  if (inserted) {
    std::string path = resolveArchivePath(archiveOp, baseDir);
    Result<std::unique_ptr<Archive>> archive = Archive::open(path);
    if (!archive.ok()) {
      archiveOp.emitOpError("cannot be opened: ") << archive.message();
      return failure();
    }
    entry->second = archive.take();
  }
  if (!entry->second)
    return failure(); // diagnosed before
  return const_cast<const Archive *>(entry->second.get());
}

ArchiveOp ParameterArchives::findArchiveOfFile(ModuleOp module,
                                               StringRef path) {
  std::optional<FileId> id = FileId::of(path.str());
  if (!id)
    return nullptr;
  for (auto op : module.getOps<ArchiveOp>()) {
    // Also one that cannot be opened or that no parameter uses.
    std::string archivePath = resolveArchivePath(op, baseDir);
    if (FileId::of(archivePath) == id)
      return op;
    std::shared_ptr<Archive> &archive = archives[op];
    if (!archive) {
      Result<std::unique_ptr<Archive>> opened = Archive::open(archivePath);
      if (!opened.ok()) {
        archives.erase(op); // open() shall say why
        continue;
      }
      archive = opened.take();
    }
    if (archive->findFile(path.str()))
      return op;
  }
  return nullptr;
}

FailureOr<TensorInfo> ParameterArchives::find(ParameterOp op, StringRef key,
                                              RankedTensorType type) {
  FailureOr<const Archive *> archive = open(op);
  if (failed(archive))
    return failure();
  Result<TensorInfo> info = (*archive)->find(key);
  if (!info.ok()) {
    op.emitOpError("cannot be read: ") << info.message();
    return failure();
  }
  if (ArrayRef<int64_t>(info->shape) != type.getShape()) {
    op.emitOpError("expected tensor '")
        << key << "' of shape " << shapeToString(type.getShape().vec())
        << " in the archive but got " << shapeToString(info->shape);
    return failure();
  }
  std::optional<DType> wanted = getStoredType(type.getElementType());
  if (!wanted || !isReadableAs(info->dtype, *wanted)) {
    InFlightDiagnostic diag = op.emitOpError("expected tensor '")
                              << key << "' of type " << type.getElementType()
                              << " in the archive but got "
                              << std::string(getDTypeName(info->dtype));
    if (info->blockType)
      diag << " (block types are read as F16)";
    return failure();
  }
  return info.take();
}

FailureOr<TensorInfo> ParameterArchives::find(ParameterOp op) {
  auto type = dyn_cast<RankedTensorType>(op.getType());
  if (!type) {
    op.emitOpError("expected a parameter of tensor type but got ")
        << op.getType();
    return failure();
  }
  return find(op, op.getArchiveKey(), type);
}

FailureOr<SmallVector<TensorInfo>>
ParameterArchives::findComponents(ParameterOp op) {
  auto type = dyn_cast<WeightType>(op.getType());
  if (!type) {
    op.emitOpError("expected a parameter of weight type but got ")
        << op.getType();
    return failure();
  }
  SmallVector<TensorInfo> components;
  for (auto [name, componentType] :
       llvm::zip_equal(type.getComponentNames(), type.getComponentTypes())) {
    FailureOr<TensorInfo> info =
        find(op, (op.getArchiveKey() + "." + name).str(), componentType);
    if (failed(info))
      return failure();
    components.push_back(std::move(*info));
  }
  return components;
}

FailureOr<LoadedMatrix> ParameterArchives::load(ParameterOp op,
                                                const TensorInfo &info) {
  LoadedMatrix matrix;
  if (info.shape.size() != 2) {
    op.emitOpError("expected a matrix but got ") << op.getType();
    return failure();
  }
  switch (info.dtype) {
  case DType::F32:
    matrix.view.type = SourceType::F32;
    break;
  case DType::F16:
    matrix.view.type = SourceType::F16;
    break;
  case DType::BF16:
    matrix.view.type = SourceType::BF16;
    break;
  default:
    op.emitOpError("expected elements of type f16, bf16 or f32 but got ")
        << op.getType();
    return failure();
  }
  // The readers of matrices need no alignment.
  Result<TensorBuffer> buffer = loadTensor(info, /*alignment=*/1);
  if (!buffer.ok()) {
    op.emitOpError("cannot be read: ") << buffer.message();
    return failure();
  }
  matrix.buffer = buffer.take();
  matrix.view.data = matrix.buffer.data;
  matrix.view.n = info.shape[0];
  matrix.view.k = info.shape[1];
  return matrix;
}

LogicalResult ParameterArchives::addToFingerprint(ParameterOp op,
                                                  Fingerprint &fingerprint) {
  std::string name = op.getSymName().str();
  auto weight = dyn_cast<WeightType>(op.getType());
  if (!weight) {
    FailureOr<TensorInfo> info = find(op);
    if (failed(info))
      return failure();
    fingerprint.add(name, *info);
    return success();
  }
  FailureOr<SmallVector<TensorInfo>> infos = findComponents(op);
  if (failed(infos))
    return failure();
  for (auto [component, info] :
       llvm::zip_equal(weight.getComponentNames(), *infos))
    fingerprint.add(name + "." + component.str(), info);
  return success();
}

FailureOr<std::string> ParameterArchives::computeFingerprint(ModuleOp module) {
  Fingerprint fingerprint;
  for (auto op : module.getOps<ParameterOp>())
    if (failed(addToFingerprint(op, fingerprint)))
      return failure();
  return fingerprint.finish();
}

void ParameterArchives::release(ParameterOp op, const TensorInfo &info) {
  FailureOr<const Archive *> archive = open(op);
  if (succeeded(archive))
    (*archive)->release(info);
}

} // namespace quant_llm
