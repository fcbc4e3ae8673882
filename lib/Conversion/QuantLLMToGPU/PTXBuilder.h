//===- PTXBuilder.h - The vocabulary of the GPU kernels ---------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A builder with the words the kernel families speak: 32-bit arithmetic that
// folds, addresses of shared and global memory, loops as lambdas, asynchronous
// copies, barriers and tensor-core instructions. Operations come from arith,
// scf, llvm and nvvm; what NVVM 22.1 has no operation for goes through
// inlineAsm, the only place of the project that builds inline assembly.
//
// Addresses of shared memory are i32 values (bytes from the start of the shared
// window): arithmetic on them stays in 32 bits, a pointer is made at the
// access.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_CONVERSION_QUANTLLMTOGPU_PTXBUILDER_H
#define QUANT_LLM_LIB_CONVERSION_QUANTLLMTOGPU_PTXBUILDER_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"

#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/ADT/SmallVector.h"

namespace quant_llm {

using Values = llvm::SmallVector<mlir::Value>;

/// Address spaces of NVPTX.
enum AddressSpace : unsigned {
  kGenericSpace = 0,
  kGlobalSpace = 1,
  kSharedSpace = 3,
  kClusterSpace = 7,
};

class PTXBuilder : public mlir::ImplicitLocOpBuilder {
public:
  PTXBuilder(mlir::Location loc, mlir::OpBuilder &builder)
      : ImplicitLocOpBuilder(loc, builder) {}

  /// Gives the operations built in its scope the location `name`, which the
  /// printer shows (-mlir-use-nameloc-as-prefix) and debuggers see.
  class Scope {
  public:
    Scope(PTXBuilder &builder, llvm::StringRef name);
    ~Scope() { builder.setLoc(outer); }
    Scope(const Scope &) = delete;

  private:
    PTXBuilder &builder;
    mlir::Location outer;
  };

  /// @{ Types.
  mlir::Type i1() { return getI1Type(); }
  mlir::Type i32Type() { return getI32Type(); }
  mlir::Type f32Type() { return getF32Type(); }
  mlir::VectorType pair(mlir::Type element) {
    return mlir::VectorType::get({2}, element);
  }
  mlir::LLVM::LLVMPointerType pointer(AddressSpace space) {
    return mlir::LLVM::LLVMPointerType::get(getContext(), space);
  }
  mlir::LLVM::LLVMStructType structOf(mlir::Type type, unsigned count);
  /// @}

  /// @{ Constants.
  mlir::Value i32(int64_t value);
  mlir::Value i64(int64_t value);
  mlir::Value f32(float value);
  /// @}

  /// @{ Integer arithmetic, folded where the operands are constants. Divisions
  /// are unsigned.
  mlir::Value add(mlir::Value lhs, mlir::Value rhs);
  mlir::Value add(mlir::Value lhs, int64_t rhs);
  mlir::Value sub(mlir::Value lhs, mlir::Value rhs);
  mlir::Value mul(mlir::Value lhs, mlir::Value rhs);
  mlir::Value mul(mlir::Value lhs, int64_t rhs);
  mlir::Value div(mlir::Value lhs, int64_t rhs);
  mlir::Value div(mlir::Value lhs, mlir::Value rhs);
  mlir::Value rem(mlir::Value lhs, int64_t rhs);
  mlir::Value rem(mlir::Value lhs, mlir::Value rhs);
  mlir::Value bitAnd(mlir::Value lhs, mlir::Value rhs);
  mlir::Value bitAnd(mlir::Value lhs, int64_t rhs);
  mlir::Value bitOr(mlir::Value lhs, mlir::Value rhs);
  mlir::Value bitXor(mlir::Value lhs, mlir::Value rhs);
  mlir::Value shiftLeft(mlir::Value lhs, int64_t bits);
  mlir::Value shiftRight(mlir::Value lhs, int64_t bits);
  /// The 32-bit word rotated right.
  mlir::Value rotateRight(mlir::Value word, unsigned bits);
  /// The halves of a word times unsigned bytes, and a third value, added up.
  mlir::Value dotHalves(mlir::Value word, unsigned factorOfLow,
                        unsigned factorOfHigh, mlir::Value addend);
  mlir::Value min(mlir::Value lhs, mlir::Value rhs);
  mlir::Value min(mlir::Value lhs, int64_t rhs) { return min(lhs, i32(rhs)); }
  mlir::Value max(mlir::Value lhs, mlir::Value rhs);
  mlir::Value toI64(mlir::Value value);
  mlir::Value compare(mlir::arith::CmpIPredicate predicate, mlir::Value lhs,
                      mlir::Value rhs);
  mlir::Value less(mlir::Value lhs, mlir::Value rhs);
  mlir::Value less(mlir::Value lhs, int64_t rhs) { return less(lhs, i32(rhs)); }
  mlir::Value equal(mlir::Value lhs, mlir::Value rhs);
  mlir::Value equal(mlir::Value lhs, int64_t rhs) {
    return equal(lhs, i32(rhs));
  }
  mlir::Value both(mlir::Value lhs, mlir::Value rhs);
  mlir::Value select(mlir::Value condition, mlir::Value yes, mlir::Value no);
  /// @}

  /// @{ Floating point. Pairs are vector<2xf16> or vector<2xbf16>.
  mlir::Value bitcast(mlir::Value value, mlir::Type type);
  mlir::Value addF(mlir::Value lhs, mlir::Value rhs);
  mlir::Value mulF(mlir::Value lhs, mlir::Value rhs);
  /// a * b + c, rounded once.
  mlir::Value fma(mlir::Value a, mlir::Value b, mlir::Value c);
  /// A pair of two equal constants, each the nearest `element` to `value`.
  mlir::Value pairConstant(mlir::Type element, double value);
  /// A pair of `element` from its bits.
  mlir::Value pairBits(mlir::Type element, uint32_t bits);
  /// The pair (low, high) of two f32, each rounded half to even.
  mlir::Value packPair(mlir::Type element, mlir::Value low, mlir::Value high);
  /// f32 of an f16, bf16 or f32 scalar; and the inverse, rounded half to even.
  mlir::Value toF32(mlir::Value value);
  mlir::Value fromF32(mlir::Value value, mlir::Type type);
  /// @}

  /// @{ Control flow. Bodies return the carried values of the next iteration.
  using LoopBody =
      llvm::function_ref<Values(mlir::Value index, mlir::ValueRange carried)>;
  Values loop(mlir::Value from, mlir::Value to, mlir::Value step,
              mlir::ValueRange carried, LoopBody body);
  void loop(mlir::Value from, mlir::Value to, mlir::Value step,
            llvm::function_ref<void(mlir::Value)> body);
  void ifThen(mlir::Value condition, llvm::function_ref<void()> body);
  Values ifElse(mlir::Value condition, llvm::function_ref<Values()> yes,
                llvm::function_ref<Values()> no);
  /// @}

  /// @{ Thread coordinates.
  mlir::Value threadIndex();
  mlir::Value blockIndexX();
  mlir::Value blockIndexY();
  mlir::Value gridSizeX();
  /// threadIndex() / 32, known to be the same in the whole warp.
  mlir::Value warpIndex();
  mlir::Value laneIndex();
  /// True in one thread of the warp; all of its threads ask.
  mlir::Value electThread();
  /// The value of the first lane, or of lane `source`, for all lanes.
  mlir::Value broadcastLane0(mlir::Value value);
  mlir::Value broadcastLane(mlir::Value value, mlir::Value source);
  /// The sum of a value (i32) of this lane and of all lanes before it.
  mlir::Value sumOfLanes(mlir::Value value);
  /// The bits of the lanes for which the condition holds.
  mlir::Value ballot(mlir::Value condition);
  /// The number of zeros below the lowest bit that is set.
  mlir::Value trailingZeros(mlir::Value word);
  /// @}

  /// @{ Memory. `align` is in bytes.
  /// The address of dynamic shared memory, 1024-byte aligned. Declares it in
  /// the module of the current function when first asked for.
  mlir::Value dynamicSharedMemory();
  mlir::Value sharedPointer(mlir::Value address);
  mlir::Value clusterPointer(mlir::Value address);
  /// base + byteOffset (i32, zero-extended, or i64).
  mlir::Value offsetPointer(mlir::Value base, mlir::Value byteOffset);
  mlir::Value loadShared(mlir::Type type, mlir::Value address, unsigned align);
  void storeShared(mlir::Value value, mlir::Value address, unsigned align);
  mlir::Value load(mlir::Type type, mlir::Value pointer, unsigned align);
  void store(mlir::Value value, mlir::Value pointer, unsigned align);
  mlir::Value extract(mlir::Value vector, unsigned index);
  mlir::Value vectorOf(mlir::ValueRange elements);
  /// The members of a struct.
  Values unpack(mlir::Value aggregate);
  /// @}

  /// @{ Asynchronous copies (sm_80).
  /// 16 bytes from global to shared memory; `validBytes` (i32, 0..16) of them
  /// are read, the rest is zero; null for all.
  void copyAsync16(mlir::Value sharedAddress, mlir::Value globalPointer,
                   mlir::Value validBytes = nullptr);
  void commitCopies();
  /// Until at most `pending` committed groups of this thread are incomplete.
  void waitCopies(unsigned pending);
  /// @}

  /// @{ mbarrier, bulk and tensor copies (sm_90). Barriers are addresses.
  void initBarrier(mlir::Value barrier, int64_t count);
  void fenceBarrierInit();
  void arrive(mlir::Value barrier);
  void arriveExpect(mlir::Value barrier, mlir::Value bytes);
  /// Until the phase of the given parity has completed.
  void waitBarrier(mlir::Value barrier, mlir::Value parity);
  /// @{ L2 policies for data that is read once, and for other data.
  mlir::Value evictFirstPolicy();
  mlir::Value evictNormalPolicy();
  /// @}
  void bulkCopy(mlir::Value sharedAddress, mlir::Value globalPointer,
                mlir::Value bytes, mlir::Value barrier,
                mlir::Value policy = nullptr);
  /// A box of a tensor map at the given coordinates, the fastest first.
  void tensorCopy(mlir::Value sharedAddress, mlir::Value tensorMap,
                  mlir::ValueRange coordinates, mlir::Value barrier);
  void prefetchTensorMap(mlir::Value tensorMap);
  void fenceAsyncProxy();
  /// @}

  /// @{ Barriers of threads.
  void syncThreads();
  void syncWarp();
  /// A named barrier (1..15) among `threads` threads.
  void syncNamed(int64_t id, int64_t threads);
  void syncNamed(mlir::Value id, int64_t threads);
  /// Arrives at a named barrier without waiting for the others.
  void arriveNamed(int64_t id, int64_t threads);
  /// @}

  /// @{ Words of global memory through which CTAs meet. What a thread has
  /// stored or seen before it sets a flag is seen by a thread that waited for
  /// the flag.
  void setFlag(mlir::Value pointer);
  /// Until the word is not zero, which it is again afterwards.
  void takeFlag(mlir::Value pointer);
  /// @}

  /// @{ Grids that overlap (sm_90). launchDependents lets the next grid of the
  /// stream start when all CTAs of this one are there, if that one was launched
  /// as a programmatic dependent; how this one was launched does not matter.
  /// awaitEarlierGrids waits until the grids before this one have ended and
  /// what they wrote is there, which under a plain launch is so already.
  void launchDependents();
  void awaitEarlierGrids();
  /// @}

  /// @{ Clusters of CTAs (sm_90).
  void clusterArrive();
  /// The same without making writes visible, but for barriers that have been
  /// initialized before fenceBarrierInit.
  void clusterArriveRelaxed();
  void clusterWait();
  /// The address of what lies at `address` in CTA `rank` of the cluster.
  mlir::Value remoteAddress(mlir::Value address, mlir::Value rank);
  /// Stores four f32 to a remote address; a remote barrier counts the bytes.
  void storeRemote(mlir::Value address, mlir::ValueRange values,
                   mlir::Value barrier);
  /// waitBarrier for bytes that other CTAs of the cluster have stored.
  void waitBarrierCluster(mlir::Value barrier, mlir::Value parity);
  /// @}

  /// @{ Tensor cores.
  /// Four 8x8 matrices of 16-bit elements: i32 each.
  Values loadMatrix4(mlir::Value address);
  /// d = a * b + c, m16n8k16: a 4, b 2 words (i32), c 4 f32.
  Values mma(mlir::Type element, mlir::ValueRange a, mlir::ValueRange b,
             mlir::ValueRange c);
  /// Stores four 8x8 matrices of 16-bit elements (i32 each) transposed: row i
  /// of matrix q of the result is 16 bytes at the address of lane 8q + i.
  void storeMatrix4Transposed(mlir::Value address, mlir::ValueRange matrices);
  /// @}

  /// @{ wgmma (sm_90a). A warpgroup executes these together.
  /// Leaves `count` registers a thread to the calling warpgroup, which is less
  /// (more) than it has.
  void decreaseRegisters(int64_t count);
  void increaseRegisters(int64_t count);
  /// Before the first wgmma of a group.
  void wgmmaFence();
  void wgmmaCommit();
  /// Until at most `pending` groups are incomplete.
  void wgmmaWait(unsigned pending);
  /// Until all groups are complete. The sums pass through it, so that nothing
  /// that uses them moves before it.
  Values wgmmaWaitAll(mlir::ValueRange sums);
  /// a * b + (accumulate ? sums : 0): 64 rows, 16 k, 2 * sums.size() tokens.
  /// `a` are four words of `element` pairs; `descriptor` (i64) is of b in
  /// shared memory; `accumulate` is an i32.
  Values wgmma(mlir::Type element, mlir::ValueRange sums, mlir::ValueRange a,
               mlir::Value descriptor, mlir::Value accumulate);
  /// @}

  /// Inline assembly. `text` numbers the results first, then the operands
  /// ($0, $1, ...). The letter of each constraint follows from the type;
  /// `tied[i]`, if given, is the operand that shares the register of result i.
  /// With side effects the call is neither moved nor merged, and memory is
  /// clobbered; without, it is a pure function of its operands.
  Values inlineAsm(llvm::StringRef text, mlir::TypeRange results,
                   mlir::ValueRange operands, bool hasSideEffects,
                   llvm::ArrayRef<unsigned> tied = {});
};

} // namespace quant_llm

#endif // QUANT_LLM_LIB_CONVERSION_QUANTLLMTOGPU_PTXBUILDER_H
