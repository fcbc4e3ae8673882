# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# Wrappers for every kind of target of the project, so that compiler flags, the
# dependency on generated headers and the linking rule live in one place.

set(QUANT_LLM_WARNINGS -Wall -Wextra -Wno-unused-parameter)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  list(APPEND QUANT_LLM_WARNINGS -Wno-c++20-extensions)
endif()

function(quant_llm_target_options target)
  target_compile_options(${target} PRIVATE ${QUANT_LLM_WARNINGS})
  if(QUANT_LLM_STRICT)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(QUANT_LLM_ENABLE_ASSERTIONS)
    target_compile_options(${target} PRIVATE -UNDEBUG)
  endif()
  if(QUANT_LLM_SANITIZERS)
    target_compile_options(${target} PRIVATE
      -fsanitize=${QUANT_LLM_SANITIZERS} -fno-omit-frame-pointer)
    target_link_options(${target} PRIVATE -fsanitize=${QUANT_LLM_SANITIZERS})
  endif()
endfunction()

# quant_llm_add_plain_library(name sources... LINK_LIBS libs...)
# A library in plain C++17: neither MLIR nor LLVM may be used.
function(quant_llm_add_plain_library name)
  cmake_parse_arguments(ARG "" "" "LINK_LIBS" ${ARGN})
  add_library(${name} STATIC ${ARG_UNPARSED_ARGUMENTS})
  quant_llm_target_options(${name})
  target_link_libraries(${name} PUBLIC ${ARG_LINK_LIBS})
endfunction()

# Most of the time a compiler spends on a file over MLIR goes to MLIR's headers.
# They are parsed once, for all libraries. What a file uses it includes all the
# same: it must compile with QUANT_LLM_PRECOMPILED_HEADERS=OFF, too.
if(QUANT_LLM_PRECOMPILED_HEADERS)
  file(GENERATE OUTPUT "${CMAKE_BINARY_DIR}/precompiled.cpp" CONTENT "")
  add_library(QuantLLMPrecompiled OBJECT "${CMAKE_BINARY_DIR}/precompiled.cpp")
  quant_llm_target_options(QuantLLMPrecompiled)
  target_precompile_headers(QuantLLMPrecompiled PRIVATE
    <mlir/Dialect/Arith/IR/Arith.h>
    <mlir/Dialect/Func/IR/FuncOps.h>
    <mlir/Dialect/GPU/IR/GPUDialect.h>
    <mlir/Dialect/LLVMIR/LLVMDialect.h>
    <mlir/Dialect/Linalg/IR/Linalg.h>
    <mlir/Dialect/Math/IR/Math.h>
    <mlir/Dialect/MemRef/IR/MemRef.h>
    <mlir/Dialect/SCF/IR/SCF.h>
    <mlir/Dialect/Tensor/IR/Tensor.h>
    <mlir/Dialect/Vector/IR/VectorOps.h>
    <mlir/IR/BuiltinOps.h>
    <mlir/IR/Matchers.h>
    <mlir/IR/PatternMatch.h>
    <mlir/IR/Remarks.h>
    <mlir/Pass/PassManager.h>
    <mlir/Transforms/GreedyPatternRewriteDriver.h>)
endif()

# quant_llm_add_mlir_library(name sources... LINK_LIBS libs...)
# A library over MLIR. It is appended to QUANT_LLM_MLIR_LIBS, which tools link.
function(quant_llm_add_mlir_library name)
  cmake_parse_arguments(ARG "" "" "LINK_LIBS" ${ARGN})
  add_library(${name} STATIC ${ARG_UNPARSED_ARGUMENTS})
  quant_llm_target_options(${name})
  if(QUANT_LLM_PRECOMPILED_HEADERS)
    target_precompile_headers(${name} REUSE_FROM QuantLLMPrecompiled)
  endif()
  add_dependencies(${name} quant-llm-headers)
  target_link_libraries(${name} PUBLIC ${ARG_LINK_LIBS} MLIR LLVM)
  set_property(GLOBAL APPEND PROPERTY QUANT_LLM_MLIR_LIBS ${name})
endfunction()

# quant_llm_add_tool(name sources... LINK_LIBS libs...)
function(quant_llm_add_tool name)
  cmake_parse_arguments(ARG "" "" "LINK_LIBS" ${ARGN})
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  quant_llm_target_options(${name})
  add_dependencies(${name} quant-llm-headers)
  target_link_libraries(${name} PRIVATE ${ARG_LINK_LIBS} MLIR LLVM)
  set_property(GLOBAL APPEND PROPERTY QUANT_LLM_TOOLS ${name})
endfunction()

# quant_llm_add_unittest(name sources... LINK_LIBS libs...)
# GoogleTest binaries land below test/Unit, where lit discovers them; their names
# end in Tests.
add_custom_target(QuantLLMUnitTests)
function(quant_llm_add_unittest name)
  if(NOT GTest_FOUND)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "LINK_LIBS" ${ARGN})
  add_executable(${name} EXCLUDE_FROM_ALL ${ARG_UNPARSED_ARGUMENTS})
  quant_llm_target_options(${name})
  add_dependencies(${name} quant-llm-headers)
  target_link_libraries(${name} PRIVATE ${ARG_LINK_LIBS} GTest::gtest GTest::gtest_main)
  set_target_properties(${name} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}")
  add_dependencies(QuantLLMUnitTests ${name})
  set_property(GLOBAL APPEND PROPERTY QUANT_LLM_UNITTESTS
    "${CMAKE_CURRENT_BINARY_DIR}/${name}")
endfunction()
