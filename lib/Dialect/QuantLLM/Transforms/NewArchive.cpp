//===- NewArchive.cpp - Passes that move weights to a new file ------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "NewArchive.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

#include <cstring>
#include <filesystem>

using namespace mlir;
using namespace quant_llm;

void quant_llm::findOtherUses(ModuleOp module,
                              function_ref<MovedWeight *(ParameterOp)> find) {
  // Of get_parameter's results, and of the symbol by ops that we do not know.
  SymbolTableCollection tables;
  module->walk([&](GetParameterOp get) {
    MovedWeight *weight = find(getParameterOf(get.getResult(), &tables));
    if (!weight)
      return;
    for (OpOperand &use : get->getUses()) {
      auto linear = dyn_cast<LinearOpInterface>(use.getOwner());
      if (!linear || !llvm::is_contained(weight->linears, linear) ||
          use.get() == linear.getInput())
        weight->keepOld = true;
    }
  });
}

uint64_t CopiedParameter::getBytes() const {
  uint64_t bytes = 0;
  for (const TensorInfo &info : infos)
    bytes += getByteSize(info.dtype, info.shape).value_or(0);
  return bytes;
}

FailureOr<CopiedParameter> quant_llm::findCopied(ParameterArchives &archives,
                                                 ParameterOp parameter) {
  CopiedParameter copy;
  copy.parameter = parameter;
  if (isa<WeightType>(parameter.getType())) {
    FailureOr<SmallVector<TensorInfo>> infos =
        archives.findComponents(parameter);
    if (failed(infos))
      return failure();
    copy.infos = std::move(*infos);
  } else {
    FailureOr<TensorInfo> info = archives.find(parameter);
    if (failed(info))
      return failure();
    copy.infos.push_back(std::move(*info));
  }
  return copy;
}

/// What is easily read after an @; a - is quoted there.
static bool isIdentifier(StringRef name) {
  return (llvm::isAlpha(name.front()) || name.front() == '_') &&
         llvm::all_of(name, [](char c) {
           return llvm::isAlnum(c) || StringRef("_$.-").contains(c);
         });
}

LogicalResult NewArchive::verifyOptions(ParameterArchives &archives,
                                        ArrayRef<OptionFile> inputs) {
  const std::string &output = options.output, &report = options.report;
  if (output.empty())
    return invalid("output",
                   "expected a safetensors file to write but got none");
  if (!report.empty()) {
    SmallString<128> a(output), b(report);
    bool same =
        !llvm::sys::fs::make_absolute(a) && !llvm::sys::fs::make_absolute(b);
    llvm::sys::path::remove_dots(a, true);
    llvm::sys::path::remove_dots(b, true);
    if ((same && a == b) || llvm::sys::fs::equivalent(output, report))
      return fail()
             << "expected different files for 'output' and 'report' but got '"
             << report << "' for both";
  }
  auto begin = [&] { return fail(); };
  if (failed(verifyOutputFile(module, archives, {"output", output}, inputs,
                              begin)) ||
      failed(verifyReportFile(module, archives, report, inputs, begin)))
    return failure();
  // Readers tell the formats of files by their names.
  if (!StringRef(output).ends_with(".safetensors"))
    return invalid("output",
                   "expected the name of a .safetensors file but got '" +
                       Twine(output) + "'");
  if (Operation *other = module.lookupSymbol(options.archiveName)) {
    InFlightDiagnostic diag =
        invalid("archive-name", "expected a new name but got '" +
                                    Twine(options.archiveName) +
                                    "', which is the name of another symbol");
    diag.attachNote(other->getLoc()) << "the other symbol is here";
    return diag;
  }
  if (options.archiveName.empty())
    return invalid("archive-name", "expected a symbol name but got none");
  if (!isIdentifier(options.archiveName))
    return invalid("archive-name",
                   "expected a letter or _, then letters, digits, _, $, . or - "
                   "but got '" +
                       Twine(options.archiveName) + "'");
  if (!options.moduleDir.empty() &&
      !llvm::sys::fs::is_directory(options.moduleDir))
    return invalid("module-dir",
                   "expected a directory, where the module will be written, "
                   "but got '" +
                       Twine(options.moduleDir) + "'");
  return success();
}

//===----------------------------------------------------------------------===//
// Declaring
//===----------------------------------------------------------------------===//

LogicalResult NewArchive::declare(ParameterOp op, const std::string &name,
                                  DType dtype, ArrayRef<int64_t> shape) {
  auto [entry, inserted] = declaredBy.try_emplace(name, op);
  if (!inserted) {
    InFlightDiagnostic diag = op.emitOpError("needs the tensor '")
                              << name << "' in the new archive";
    diag.attachNote(entry->second.getLoc())
        << "which this parameter needs as well";
    return diag;
  }
  declarations.push_back({name, dtype, shape.vec()});
  return success();
}

LogicalResult NewArchive::declare(const MovedWeight &weight,
                                  function_ref<bool(StringRef)> filter) {
  for (const WeightComponent &component : weight.type.getComponents()) {
    if (!filter(component.name))
      continue;
    // Bytes of codes have no sign.
    Type element = component.type.getElementType();
    DType dtype = element.isInteger(8) ? DType::U8 : *getStoredType(element);
    if (failed(declare(weight.parameter,
                       weight.key + "." + component.name.str(), dtype,
                       component.type.getShape())))
      return failure();
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Writing
//===----------------------------------------------------------------------===//

LogicalResult NewArchive::declare(std::vector<CopiedParameter> &copies) {
  std::vector<CopiedParameter> sorted;
  for (unsigned width : {64u, 32u, 16u, 8u, 6u, 4u})
    for (const CopiedParameter &copy : copies)
      if (getBitWidth(copy.infos.front().dtype) == width)
        sorted.push_back(copy);
  copies = std::move(sorted);
  for (CopiedParameter &copy : copies) {
    copy.key = getNewKey(copy.parameter);
    StringRef oldKey = copy.parameter.getArchiveKey();
    for (const TensorInfo &info : copy.infos) {
      // The component's suffix, if any, stays.
      copy.keys.push_back(copy.key +
                          StringRef(info.name).drop_front(oldKey.size()).str());
      if (failed(declare(copy.parameter, copy.keys.back(), info.dtype,
                         info.shape)))
        return failure();
    }
  }
  return success();
}

LogicalResult NewArchive::open() {
  if (!options.report.empty()) {
    Result<AtomicFile> file = AtomicFile::create(options.report);
    if (!file.ok())
      return fail() << file.message();
    reportFile.emplace(file.take());
  }
  std::map<std::string, std::string> metadata{{"format", "quant-llm"}};
  Result<SafetensorsWriter> file =
      SafetensorsWriter::create(options.output, declarations, metadata);
  if (!file.ok())
    return fail() << file.message();
  writer.emplace(file.take());
  return success();
}

LogicalResult NewArchive::append(StringRef name, const void *data,
                                 size_t bytes) {
  Status status = writer->append(name, data, bytes);
  if (!status.ok())
    return fail() << status.message();
  return success();
}

/// The index of the first element whose bits without the sign are above those
/// of infinity.
template <typename Bits>
static std::optional<uint64_t> findNan(const TensorBuffer &buffer,
                                       Bits infinity) {
  for (uint64_t at = 0; at < buffer.bytes; at += sizeof(Bits)) {
    Bits bits; // the buffer is not aligned
    std::memcpy(&bits, buffer.data + at, sizeof(Bits));
    if (static_cast<Bits>(bits << 1) > static_cast<Bits>(infinity << 1))
      return at / sizeof(Bits);
  }
  return std::nullopt;
}

static std::optional<uint64_t> findNan(const TensorBuffer &buffer,
                                       DType dtype) {
  switch (dtype) {
  case DType::F16:
    return findNan<uint16_t>(buffer, 0x7c00);
  case DType::BF16:
    return findNan<uint16_t>(buffer, 0x7f80);
  case DType::F32:
    return findNan<uint32_t>(buffer, 0x7f800000);
  case DType::F64:
    return findNan<uint64_t>(buffer, 0x7ff0000000000000);
  default: // no floats, or so narrow that they are codes of a weight
    return std::nullopt;
  }
}

LogicalResult NewArchive::append(
    const CopiedParameter &copy, ParameterArchives &archives,
    function_ref<LogicalResult(const std::string &, uint64_t)> advance) {
  ParameterOp parameter = copy.parameter;
  for (auto [info, name] : llvm::zip_equal(copy.infos, copy.keys)) {
    Result<TensorBuffer> buffer = loadTensor(info, /*alignment=*/1);
    if (!buffer.ok())
      return parameter.emitOpError("cannot be read: ") << buffer.message();
    // Infinities may be meant, as in masks.
    if (std::optional<uint64_t> at = findNan(*buffer, info.dtype))
      return parameter.emitOpError("cannot be copied: tensor '")
             << info.name << "' has nan at row " << *at / info.numColumns()
             << ", column " << *at % info.numColumns() << "; expected numbers";
    // In pieces, so that a large tensor does not stay in memory as a whole.
    if (failed(append(name, buffer->data, buffer->bytes)))
      return failure();
    archives.release(parameter, info);
    if (failed(advance(name, buffer->bytes)))
      return failure();
  }
  return success();
}

LogicalResult NewArchive::finish(function_ref<std::string()> makeReport) {
  // The report is complete on disk, but not yet visible, before the archive
  // appears, and both appear or none.
  if (reportFile) {
    std::string text = makeReport();
    if (Status status = reportFile->write(text.data(), text.size());
        !status.ok())
      return fail() << status.message();
  }
  FileTransaction files;
  if (Status status = writer->finish(); !status.ok())
    return fail() << status.message();
  if (reportFile)
    if (Status status = reportFile->commit(); !status.ok())
      return fail() << status.message();
  if (Status status = files.commit(); !status.ok())
    return fail() << status.message();
  return success();
}

//===----------------------------------------------------------------------===//
// Rewriting
//===----------------------------------------------------------------------===//

/// `path` as seen from `directory`, both as the user wrote them; absolute if
/// there is no way (or no current directory).
static std::string makeRelative(StringRef path, StringRef directory) {
  SmallString<128> absolutePath(path), absoluteDirectory(directory);
  if (llvm::sys::fs::make_absolute(absolutePath) ||
      llvm::sys::fs::make_absolute(absoluteDirectory))
    return path.str();
  namespace fs = std::filesystem;
  fs::path relative =
      fs::path(std::string(absolutePath))
          .lexically_normal()
          .lexically_relative(
              fs::path(std::string(absoluteDirectory)).lexically_normal());
  return relative.empty() ? std::string(absolutePath) : relative.string();
}

std::string NewArchive::getModuleDirectory() const {
  return options.moduleDir.empty()
             ? llvm::sys::path::parent_path(options.output).str()
             : options.moduleDir;
}

/// Paths of archives are relative to the file of their location. The module
/// will be in `directory`, so this is what the location of every archive says
/// after the pass.
static Location getArchiveLocation(MLIRContext *context, StringRef directory) {
  SmallString<128> file(directory);
  llvm::sys::path::append(file, "module.mlir");
  return FileLineColLoc::get(context, file, 0, 0);
}

void NewArchive::beginRewrite() {
  std::string directory = getModuleDirectory();
  OpBuilder builder(module.getContext());
  oldArchives = llvm::to_vector(module.getOps<ArchiveOp>());
  if (oldArchives.empty())
    builder.setInsertionPointToStart(module.getBody());
  else
    builder.setInsertionPointAfter(oldArchives.back());
  auto archive = ArchiveOp::create(
      builder, getArchiveLocation(module.getContext(), directory),
      options.archiveName, makeRelative(options.output, directory));
  newArchive = FlatSymbolRefAttr::get(archive.getSymNameAttr());
}

void NewArchive::move(ParameterOp op, StringRef key) {
  op.setArchiveAttr(newArchive);
  op.setKeyAttr(key == op.getSymName() ? StringAttr()
                                       : StringAttr::get(op.getContext(), key));
}

void NewArchive::move(const MovedWeight &weight, StringRef suffix) {
  ParameterOp old = weight.parameter;
  ParameterOp parameter = old;
  if (weight.keepOld) {
    // A second parameter beside the old one.
    parameter = cast<ParameterOp>(old->clone());
    parameter.setSymName((old.getSymName() + suffix).str());
    SymbolTable(module).insert(parameter, std::next(Block::iterator(old)));
  }
  parameter.setTypeAttr(TypeAttr::get(weight.type));
  move(parameter, weight.key);
  OpBuilder builder(module.getContext());
  for (LinearOpInterface linear : weight.linears) {
    for (OpOperand &operand : linear.getWeightsMutable()) {
      auto get = operand.get().getDefiningOp<GetParameterOp>();
      if (!get || get.getParameter() != old.getSymName() ||
          get.getType() == weight.type)
        continue;
      builder.setInsertionPoint(get);
      auto newGet = GetParameterOp::create(
          builder, get.getLoc(), weight.type,
          FlatSymbolRefAttr::get(parameter.getSymNameAttr()));
      operand.set(newGet);
      if (get->use_empty())
        get.erase();
    }
  }
}

void NewArchive::endRewrite() {
  // A get_parameter of a parameter that changed its type and that nobody used.
  SymbolTable table(module);
  module->walk([&](GetParameterOp get) {
    auto parameter = table.lookup<ParameterOp>(get.getParameter());
    if (parameter && get->use_empty() && parameter.getType() != get.getType())
      get.erase();
  });

  std::string directory = getModuleDirectory();
  for (ArchiveOp archive : oldArchives) {
    if (SymbolTable::symbolKnownUseEmpty(archive, module)) {
      archive.erase();
      continue;
    }
    std::string path = resolveArchivePath(archive, options.baseDir);
    if (!llvm::sys::path::is_absolute(archive.getPath()))
      archive.setPath(makeRelative(path, directory));
    archive->setLoc(getArchiveLocation(module.getContext(), directory));
  }
}
