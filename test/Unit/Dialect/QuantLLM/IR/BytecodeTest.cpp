//===- BytecodeTest.cpp - Damaged bytecode --------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Changes bytes of modules and reads what checkBytecode() lets through. A test
// fails by ending the process.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/Bytecode.h"
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"

#include "mlir/Bytecode/BytecodeWriter.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlow.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Quant/IR/Quant.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/Parser/Parser.h"
#include "llvm/Support/MemoryBuffer.h"
#include "gtest/gtest.h"

#include <cstdlib>
#include <random>

using namespace mlir;
using namespace quant_llm;

namespace {

/// Attributes and types of every encoding.
constexpr const char *kAttributes = R"mlir(
#loc = loc("a.mlir":3:4)
module @m attributes {
  a.array = [1 : i32, -7 : i64, true, 300 : i200, 5 : index, "text", unit],
  a.dictionary = {x = 1.5 : f32, y = 2.5 : bf16, z = 0.5 : f8E4M3FN},
  a.f80 = 1.0 : f80, a.f128 = 2.0 : f128, a.f64 = 3.0 : f64,
  a.typed = "t" : i32, a.symbol = @s, a.nested = @s::@t::@u,
  a.type = (i1, index) -> (tuple<i32, none>),
  a.i64s = array<i64: 1, 2, 3>, a.bools = array<i1: true, false>,
  a.f32s = array<f32: 0.5, 4.0>, a.none = array<i32>,
  a.dense = dense<[[1, 2], [3, 4]]> : tensor<2x2xi32>,
  a.splat = dense<1.0> : vector<4x4xf32>,
  a.bits = dense<[true, false, true]> : tensor<3xi1>,
  a.small = dense<[1, 2, 3]> : tensor<3xi4>,
  a.complex = dense<(1.0, 2.0)> : tensor<2xcomplex<f32>>,
  a.strings = dense<["a", "bc"]> : tensor<2x!quant_llm.weight<4x32xf16, #quant_llm.scheme<int4, block = [1, 32], scale = f16>>>,
  a.resource = dense_resource<blob> : tensor<2xf32>,
  a.map = affine_map<(d0)[s0] -> (d0 + s0)>,
  a.sparse = [sparse<[[0, 0], [1, 2]], [1, 5]> : tensor<3x4xi32>,
              sparse<[2, 3], [1.0, 2.0]> : tensor<4xf32>,
              sparse<1, 2.0> : tensor<2x2xf64>,
              sparse<> : tensor<4xf32>],
  a.types = [memref<4xf32, affine_map<(d0)[s0] -> (d0 + s0)>>, memref<2x?xf32, strided<[?, 1], offset: ?>>,
             memref<4xi8, affine_map<(d0) -> (d0 * 2)>, 3 : i32>,
             memref<*xf32>, memref<*xf32, 1 : i64>, tensor<*xf64>,
             tensor<?x3xf32, "encoding">, vector<[4]x2xi8>, vector<2xf16>,
             complex<f64>, si8, ui16, tensor<2xvector<2xf32>>,
             tensor<4x!quant.uniform<i8:f32, 0.5:3>>,
             tensor<2x4x!quant.uniform<i8:f32:0, {0.5:3, 0.25}>>,
             tensor<2x4x!quant.uniform<i8:f32:{0:1, 1:2}, {{0.5:1, 0.25}, {0.5, 1.0}}>>,
             !quant.any<i8<-8:7>:f32>, !quant.any<i16>,
             !quant.calibrated<f32<-1.0:1.0>>]
} {
} loc(fused<"why">[callsite("f"(#loc) at "b.mlir":1:1), "c.mlir":1:2 to 3:4])
{-#
  dialect_resources: {
    builtin: {
      blob: "0x040000000000803F00000040"
    }
  }
#-}
)mlir";

/// Regions, blocks, successors, orders of uses.
constexpr const char *kCode = R"mlir(
quant_llm.archive @model "model.safetensors"
quant_llm.parameter @w from @model : !quant_llm.weight<8x64xf16, #quant_llm.scheme<int4, block = [1, 32], scale = f16>>
func.func @f(%x: tensor<?x64xf32>, %flag: i1, %n: index) -> tensor<?x8xf32> {
  %w = quant_llm.get_parameter @w : !quant_llm.weight<8x64xf16, #quant_llm.scheme<int4, block = [1, 32], scale = f16>>
  %y = quant_llm.linear %x, %w {reason = "because"} epilogue {
  ^bb0(%a: f32):
    %b = arith.addf %a, %a : f32
    %c = arith.mulf %b, %a : f32
    quant_llm.yield %c : f32
  } : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #quant_llm.scheme<int4, block = [1, 32], scale = f16>>) -> tensor<?x8xf32>
  cf.cond_br %flag, ^then(%n : index), ^else
^then(%m: index):
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %sum = scf.for %i = %c0 to %m step %c1 iter_args(%s = %n) -> index {
    %t = arith.addi %s, %i : index
    %u = arith.muli %t, %t : index
    scf.yield %u : index
  }
  cf.br ^else
^else:
  return %y : tensor<?x8xf32>
}
module @inner {
  func.func private @g(memref<4xf32>) -> (i32 {a.b = 1 : i32})
}
)mlir";

class BytecodeTest : public ::testing::Test {
protected:
  BytecodeTest() {
    context.disableMultithreading();
    context.allowUnregisteredDialects();
    context.loadDialect<
        arith::ArithDialect, cf::ControlFlowDialect, func::FuncDialect,
        linalg::LinalgDialect, memref::MemRefDialect, quant::QuantDialect,
        scf::SCFDialect, tensor::TensorDialect, QuantLLMDialect>();
  }

  std::string write(const char *text) {
    OwningOpRef<ModuleOp> module =
        parseSourceString<ModuleOp>(text, ParserConfig(&context));
    EXPECT_TRUE(module);
    std::string bytes;
    llvm::raw_string_ostream os(bytes);
    if (module) {
      EXPECT_TRUE(succeeded(writeBytecodeToFile(*module, os)));
    }
    return bytes;
  }

  /// Whether `bytes` are checked and read without complaint.
  bool read(const std::string &bytes) {
    if (!checkSource(bytes).ok())
      return false;
    ++numChecked;
    ScopedDiagnosticHandler quiet(&context, [](Diagnostic &) {});
    return !!parseSourceString<ModuleOp>(bytes, ParserConfig(&context));
  }

  void damage(const std::string &good) {
    ASSERT_TRUE(read(good)) << checkSource(good).message();
    for (size_t at = 0; at < good.size(); ++at)
      for (unsigned change : {1u, 2u, 0x80u, 0xffu}) {
        std::string bad = good;
        bad[at] = static_cast<char>(static_cast<uint8_t>(bad[at]) ^ change);
        read(bad);
      }
    for (size_t size = 0; size < good.size(); ++size)
      EXPECT_FALSE(size > 4 && read(good.substr(0, size)));
    std::minstd_rand random(1);
    const char *scale = std::getenv("QUANT_LLM_FUZZ_SCALE");
    size_t rounds = 2000 * (scale ? std::strtoul(scale, nullptr, 10) : 1);
    for (size_t i = 0; i < rounds; ++i) {
      std::string bad = good;
      size_t first = random() % bad.size();
      for (unsigned j = 0, e = 1 + random() % 4; j < e; ++j) {
        size_t at =
            random() % 2 ? random() % bad.size() : (first + j) % bad.size();
        // Often a value that is near or that occurs elsewhere.
        uint8_t byte = static_cast<uint8_t>(bad[at]);
        switch (random() % 3) {
        case 0:
          byte = static_cast<uint8_t>(random());
          break;
        case 1:
          byte = static_cast<uint8_t>(byte + 2 * (random() % 5) - 4);
          break;
        default:
          byte = static_cast<uint8_t>(bad[random() % bad.size()]);
        }
        bad[at] = static_cast<char>(byte);
      }
      read(bad);
    }
    RecordProperty("checked", std::to_string(numChecked));
  }

  MLIRContext context;
  size_t numChecked = 0;
};

} // namespace

TEST_F(BytecodeTest, DamagedAttributesAndTypes) { damage(write(kAttributes)); }

TEST_F(BytecodeTest, DamagedCode) { damage(write(kCode)); }
