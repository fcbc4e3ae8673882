//===- CheckedPass.td - Passes with checked options --------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// All our passes and their options are of these classes: see CheckedOptions.h.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_UTILS_CHECKEDPASS_TD
#define QUANT_LLM_DIALECT_QUANTLLM_UTILS_CHECKEDPASS_TD

include "mlir/Pass/PassBase.td"

class CheckedPass<string name, string operation = "">
    : PassBase<name, "::quant_llm::CheckedPass<::mlir::OperationPass<" #
                         operation # ">>">;

class CheckedInterfacePass<string name, string interface>
    : PassBase<name, "::quant_llm::CheckedPass<::mlir::InterfacePass<" #
                         interface # ">>">;

class CheckFlags<string flags> {
  string text = "::quant_llm::CheckOption{this->checkedOptions}" #
                !if(!empty(flags), "", ", " # flags);
}

class CheckedOption<string variable, string name, string type, string value,
                    string text, string flags = "">
    : Option<variable, name, type, value, text, CheckFlags<flags>.text>;

class CheckedListOption<string variable, string name, string type, string text,
                        string flags = "">
    : ListOption<variable, name, type, text, CheckFlags<flags>.text>;

#endif // QUANT_LLM_DIALECT_QUANTLLM_UTILS_CHECKEDPASS_TD
