//===- OptionParser.h - Named values of pass options ------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// MLIR takes the parser of a pass option from its type: a header that declares
// options of these types includes this one.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_OPTIONPARSER_H
#define QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_OPTIONPARSER_H

#include "quant-llm/Dialect/QuantLLM/Transforms/Stage.h"
#include "quant-llm/Dialect/QuantLLM/Utils/NamedValueParser.h"
#include "quant-llm/Methods/Method.h"
#include "quant-llm/Numerics/Granularity.h"
#include "quant-llm/Numerics/Scheme.h"

#define QUANT_LLM_NAMED_VALUES(Type)                                           \
  template <>                                                                  \
  class llvm::cl::parser<quant_llm::Type>                                      \
      : public quant_llm::NamedValueParser<quant_llm::Type> {                  \
    using NamedValueParser::NamedValueParser;                                  \
  };

QUANT_LLM_NAMED_VALUES(ActivationGranularity)
QUANT_LLM_NAMED_VALUES(ActivationRange)
QUANT_LLM_NAMED_VALUES(ChannelScaleMethod)
QUANT_LLM_NAMED_VALUES(ClipObjective)
QUANT_LLM_NAMED_VALUES(DuoScaling)
QUANT_LLM_NAMED_VALUES(FloatType)
QUANT_LLM_NAMED_VALUES(QuantizationMethod)
QUANT_LLM_NAMED_VALUES(RangeAggregation)
QUANT_LLM_NAMED_VALUES(RangeStatistic)
QUANT_LLM_NAMED_VALUES(SchemeError)
QUANT_LLM_NAMED_VALUES(Stage)

#undef QUANT_LLM_NAMED_VALUES

#endif // QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_OPTIONPARSER_H
