// RUN: quant-opt %s --split-input-file --verify-diagnostics --quant-llm-insert-checks

// expected-error @below {{expected no symbol '__quant_llm_fail_check' of another kind: it is a function of the runtime}}
func.func @__quant_llm_fail_check(%x: index) {
  return
}
func.func @f(%n: index) -> tensor<?xf32> {
  %0 = tensor.empty(%n) : tensor<?xf32>
  return %0 : tensor<?xf32>
}

// -----

llvm.func @f(%ok: i1) {
  // expected-error @below {{expected to be in a func.func, where a failure can be reported}}
  cf.assert %ok, "not good"
  llvm.return
}

// -----

func.func @vectors(%x: vector<4xi32>, %y: vector<4xi32>) -> vector<4xi32> {
  // expected-error @below {{expected a division, a shift, a power or a conversion to an integer of numbers or ranked tensors, which can be checked, but got one of 'vector<4xi32>'}}
  %0 = arith.divsi %x, %y : vector<4xi32>
  return %0 : vector<4xi32>
}
