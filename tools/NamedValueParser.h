//===- NamedValueParser.h - Options with named values -----------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// LLVM's parser of an option with named values, clEnumValN, says of a wrong
// name that it cannot find it. This one says what the names are.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TOOLS_NAMEDVALUEPARSER_H
#define QUANT_LLM_TOOLS_NAMEDVALUEPARSER_H

#include "quant-llm/Dialect/QuantLLM/Utils/ListAlternatives.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/CommandLine.h"

namespace quant_llm {

/// What llvm::cl::parser<T> is to be for an enumeration T.
template <typename T>
class NamedValueParser : public llvm::cl::generic_parser_base {
protected:
  struct OptionInfo : GenericOptionInfo {
    OptionInfo(llvm::StringRef name, T value, llvm::StringRef help)
        : GenericOptionInfo(name, help), V(value) {}
    llvm::cl::OptionValue<T> V;
  };
  llvm::SmallVector<OptionInfo, 8> Values;

public:
  using parser_data_type = T;
  using generic_parser_base::generic_parser_base;

  unsigned getNumOptions() const override { return Values.size(); }
  llvm::StringRef getOption(unsigned i) const override {
    return Values[i].Name;
  }
  llvm::StringRef getDescription(unsigned i) const override {
    return Values[i].HelpStr;
  }
  const llvm::cl::GenericOptionValue &
  getOptionValue(unsigned i) const override {
    return Values[i].V;
  }

  /// True for an error.
  bool parse(llvm::cl::Option &option, llvm::StringRef name,
             llvm::StringRef text, T &value) {
    llvm::SmallVector<llvm::StringRef> names;
    for (const OptionInfo &info : Values) {
      if (info.Name == text) {
        value = info.V.getValue();
        return false;
      }
      names.push_back(info.Name);
    }
    return option.error("expected " + listAlternatives(names) + " but got '" +
                        text + "'");
  }

  template <typename Value>
  void addLiteralOption(llvm::StringRef name, const Value &value,
                        llvm::StringRef help) {
    Values.emplace_back(name, static_cast<T>(value), help);
    llvm::cl::AddLiteralOption(Owner, name);
  }
};

} // namespace quant_llm

#endif // QUANT_LLM_TOOLS_NAMEDVALUEPARSER_H
