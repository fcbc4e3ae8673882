//===- CheckedOptions.h - Options of passes, checked first ------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// LLVM's parsers of options write what is wrong with a value to standard error
// themselves, without the name of the pass, and callers of a library get
// nothing. Passes and pipelines whose options are listed here look at the text
// of their options before these parsers do, and report what is wrong as all
// else that is wrong with a pipeline. CheckedPass.td declares such passes.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_UTILS_CHECKEDOPTIONS_H
#define QUANT_LLM_DIALECT_QUANTLLM_UTILS_CHECKEDOPTIONS_H

#include "mlir/IR/Diagnostics.h"
#include "mlir/Pass/Pass.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassOptions.h"
#include "mlir/Pass/PassRegistry.h"
#include "llvm/Support/Regex.h"

#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

namespace quant_llm {

/// What the options of a pass or pipeline take.
class CheckedOptions {
public:
  CheckedOptions() = default;
  // It refers to the options of one pass.
  CheckedOptions(const CheckedOptions &) = delete;
  CheckedOptions &operator=(const CheckedOptions &) = delete;

  template <typename T, bool external, typename Parser>
  void add(llvm::cl::opt<T, external, Parser> &option) {
    addEntry(option, getRule<T>(option.getParser()), /*isList=*/false);
  }
  template <typename T, typename Storage, typename Parser>
  void add(llvm::cl::list<T, Storage, Parser> &option) {
    addEntry(option, getRule<T>(option.getParser()), /*isList=*/true);
  }

  /// What is wrong with `text`, the options of the pass or pipeline `owner`;
  /// empty if all of it will be taken.
  std::string findFault(llvm::StringRef owner, llvm::StringRef text) const;

private:
  /// Says what was expected if the text of a value is none, else nothing.
  using Rule = std::function<std::string(llvm::StringRef)>;
  struct Entry {
    llvm::cl::Option *option;
    Rule rule;
    bool isList;
    bool needsValue;
  };

  template <typename T, typename Parser>
  static Rule getRule(const Parser &parser) {
    if constexpr (std::is_base_of_v<llvm::cl::generic_parser_base, Parser>)
      return
          [&parser](llvm::StringRef text) { return checkName(parser, text); };
    else if constexpr (std::is_same_v<T, bool>)
      return checkTruth;
    else if constexpr (std::is_floating_point_v<T>)
      return checkNumber;
    else if constexpr (std::is_integral_v<T> && std::is_signed_v<T>)
      return [](llvm::StringRef text) {
        return checkSigned(text, std::numeric_limits<T>::min(),
                           std::numeric_limits<T>::max());
      };
    else if constexpr (std::is_integral_v<T>)
      return [](llvm::StringRef text) {
        return checkUnsigned(text, std::numeric_limits<T>::max());
      };
    else {
      static_assert(std::is_same_v<T, std::string>, "an option of this type");
      return [](llvm::StringRef) { return std::string(); };
    }
  }
  static std::string checkName(const llvm::cl::generic_parser_base &parser,
                               llvm::StringRef text);
  static std::string checkTruth(llvm::StringRef text);
  static std::string checkNumber(llvm::StringRef text);
  static std::string checkSigned(llvm::StringRef text, int64_t least,
                                 int64_t most);
  static std::string checkUnsigned(llvm::StringRef text, uint64_t most);

  void addEntry(llvm::cl::Option &option, Rule rule, bool isList);

  std::vector<Entry> entries;
};

/// Begins the error "<owner>: invalid option '<option>': <message>".
mlir::InFlightDiagnostic emitOptionError(mlir::Location location,
                                         llvm::StringRef owner,
                                         llvm::StringRef option,
                                         const llvm::Twine &message = "");
/// The same where no operation is concerned, as before a pass runs.
mlir::InFlightDiagnostic emitOptionError(mlir::MLIRContext *context,
                                         llvm::StringRef owner,
                                         llvm::StringRef option,
                                         const llvm::Twine &message = "");
/// Begins the error "<owner>: " about several options, where no operation is
/// concerned.
mlir::InFlightDiagnostic emitOptionsError(mlir::MLIRContext *context,
                                          llvm::StringRef owner);
/// Whether a diagnostic is of these three: what is wrong is the pipeline, not
/// the module.
bool isOptionError(mlir::Diagnostic &diagnostic);

/// What an option is declared with, beside its description and default, to be
/// checked.
struct CheckOption {
  CheckedOptions &options;

  template <typename Option>
  void apply(Option &option) const {
    options.add(option);
  }
};

/// The names that an option tells by a regular expression.
class NamePattern {
public:
  /// False until one is given that is not empty.
  explicit operator bool() const { return regex != nullptr; }
  /// Whether a part of the name matches; there must be an expression.
  bool match(llvm::StringRef name) const { return regex->match(name); }

  /// Takes an expression, or none if the text is empty. Returns what is wrong
  /// with it, or nothing.
  std::string set(llvm::StringRef text);

private:
  // Shared, because a pass can be copied and a regular expression cannot.
  std::shared_ptr<const llvm::Regex> regex;
};

/// A pass, such as an mlir::OperationPass, with checked options.
template <typename PassT>
class CheckedPass : public PassT {
public:
  llvm::LogicalResult
  initializeOptions(llvm::StringRef options,
                    llvm::function_ref<llvm::LogicalResult(const llvm::Twine &)>
                        errorHandler) override {
    std::string fault = checkedOptions.findFault(this->getArgument(), options);
    if (!fault.empty())
      return errorHandler(fault);
    return PassT::initializeOptions(options, errorHandler);
  }

protected:
  explicit CheckedPass(mlir::TypeID id) : PassT(id) {}
  CheckedPass(const CheckedPass &other) : PassT(other) {}

  /// Errors about options, for initialize().
  mlir::InFlightDiagnostic emitOptionsError(mlir::MLIRContext *context) {
    return quant_llm::emitOptionsError(context, this->getArgument());
  }
  mlir::InFlightDiagnostic emitOptionError(mlir::MLIRContext *context,
                                           llvm::StringRef option,
                                           const llvm::Twine &message = "") {
    return quant_llm::emitOptionError(context, this->getArgument(), option,
                                      message);
  }
  /// Sets the pattern to the text of an option, or emits an error.
  llvm::LogicalResult setPattern(mlir::MLIRContext *context,
                                 llvm::StringRef option, llvm::StringRef text,
                                 NamePattern &pattern) {
    std::string fault = pattern.set(text);
    if (fault.empty())
      return llvm::success();
    return emitOptionError(context, option, fault);
  }
  /// An error about an option that does not fit the operation of the pass.
  mlir::InFlightDiagnostic emitOptionError(llvm::StringRef option,
                                           const llvm::Twine &message = "") {
    mlir::Operation *op = this->getOperation();
    return quant_llm::emitOptionError(op->getLoc(), this->getArgument(), option,
                                      message);
  }

  CheckedOptions checkedOptions;
};

/// mlir::PassPipelineOptions with checked options.
template <typename Derived>
struct CheckedPipelineOptions : public mlir::PassPipelineOptions<Derived> {
  template <typename T>
  struct Option : public mlir::detail::PassOptions::Option<T> {
    using Base = mlir::detail::PassOptions::Option<T>;
    using Base::operator=;

    template <typename... Args>
    Option(CheckedPipelineOptions &parent, llvm::StringRef name, Args &&...args)
        : Base(parent, name, std::forward<Args>(args)...,
               CheckOption{parent.checkedOptions}) {}
  };
  template <typename T>
  struct ListOption : public mlir::detail::PassOptions::ListOption<T> {
    using Base = mlir::detail::PassOptions::ListOption<T>;
    using Base::operator=;

    template <typename... Args>
    ListOption(CheckedPipelineOptions &parent, llvm::StringRef name,
               Args &&...args)
        : Base(parent, name, std::forward<Args>(args)...,
               CheckOption{parent.checkedOptions}) {}
  };

  CheckedOptions checkedOptions;
};

/// What is wrong with the place of the pipeline `owner`, whose passes run on
/// modules; empty if `pm` takes them. MLIR itself would end the process.
std::string findWrongAnchor(llvm::StringRef owner, mlir::OpPassManager &pm);

/// mlir::PassPipelineRegistration of a pipeline on modules with such options.
template <typename Options>
struct CheckedPipelineRegistration {
  CheckedPipelineRegistration(llvm::StringRef name, llvm::StringRef description,
                              void (*build)(mlir::OpPassManager &,
                                            const Options &)) {
    mlir::registerPassPipeline(
        name, description,
        [build, name = name.str()](
            mlir::OpPassManager &pm, llvm::StringRef text,
            llvm::function_ref<llvm::LogicalResult(const llvm::Twine &)>
                errorHandler) -> llvm::LogicalResult {
          Options options;
          std::string fault = findWrongAnchor(name, pm);
          if (fault.empty())
            fault = options.checkedOptions.findFault(name, text);
          if (!fault.empty())
            return errorHandler(fault);
          if (failed(options.parseFromString(text)))
            return llvm::failure();
          build(pm, options);
          return llvm::success();
        },
        [](llvm::function_ref<void(const mlir::detail::PassOptions &)> use) {
          use(Options());
        });
  }
};

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_UTILS_CHECKEDOPTIONS_H
