// RUN: quant-opt %s --pass-pipeline='builtin.module(func.func(quant-llm-form-blocks))' | FileCheck %s
// RUN: quant-opt %s --quant-llm-form-blocks | FileCheck %s
// RUN: quant-opt %s --pass-pipeline='builtin.module(func.func(quant-llm-form-blocks{window=0}))' | FileCheck %s --check-prefix=NOWINDOW
// RUN: quant-opt %s --pass-pipeline='builtin.module(func.func(quant-llm-form-blocks{layer-pattern=blk.{}. window=3 overlap=0}))' | FileCheck %s --check-prefix=PATTERN

// The regions are transparent: forming and inlining gives back the function
// (whose operations are already in the order of the layers).
// RUN: quant-opt %s -o %t.before
// RUN: quant-opt %s --pass-pipeline='builtin.module(func.func(quant-llm-form-blocks),quant-llm-inline-blocks)' -o %t.after
// RUN: diff %t.before %t.after

// RUN: quant-opt %s --pass-pipeline='builtin.module(func.func(quant-llm-form-blocks))' --remarks-filter=quant-llm-form-blocks -o /dev/null 2>&1 | FileCheck %s --check-prefix=REMARK

quant_llm.archive @file "model.safetensors"
quant_llm.parameter @embed from @file : tensor<8x4xf32>
quant_llm.parameter @model.norm.weight from @file : tensor<4xf32>
quant_llm.parameter @model.layers.0.norm.weight from @file : tensor<4xf32>
quant_llm.parameter @model.layers.0.proj.weight from @file : tensor<4xf32>
quant_llm.parameter @model.layers.1.norm.weight from @file : tensor<4xf32>
quant_llm.parameter @model.layers.1.proj.weight from @file : tensor<4xf32>
quant_llm.parameter @model.layers.2.norm.weight from @file : tensor<4xf32>
quant_llm.parameter @model.layers.2.proj.weight from @file : tensor<4xf32>
quant_llm.parameter @blk.0.weight from @file : tensor<4xf32>

// REMARK-DAG: [Passed] blocks | Category:quant-llm-form-blocks | Function=model | Remark="formed blocks", blocks=3, overlap=1, window=2
// REMARK-DAG: [Missed] no-layers | Category:quant-llm-form-blocks | Function=other_names | Reason="no parameter has a name like 'model.layers.{}.'"

// The embedding and the table of positions stay in front, the final norm behind.
// CHECK-LABEL: func.func @model(
// CHECK-NEXT:    %embed = quant_llm.get_parameter @embed
// CHECK-NEXT:    %[[H0:.*]] = tensor.extract_slice
// CHECK-NEXT:    %[[COS:.*]] = math.cos
// CHECK-NEXT:    %[[CROSS:.*]]:2 = quant_llm.cross_block window = 2, overlap = 1 -> (tensor<3x4xf32>, tensor<4xf32>) {
// CHECK-NEXT:      %[[B0:.*]]:2 = quant_llm.block 0 "model.layers.0" -> (tensor<3x4xf32>, tensor<4xf32>) {
// The square of the hidden state needs no parameter of layer 0 but is part of its norm.
// CHECK-NEXT:        %[[SQ0:.*]] = math.powf %[[H0]], %[[H0]]
// CHECK-NEXT:        arith.mulf %[[SQ0]], %[[H0]]
// CHECK-NEXT:        quant_llm.get_parameter @model.layers.0.norm.weight
// CHECK:             arith.mulf %{{.*}}, %[[COS]]
// CHECK:             quant_llm.get_parameter @model.layers.0.proj.weight
// CHECK:             %[[K:.*]] = tensor.insert_slice
// CHECK:             %[[H1:.*]] = arith.addf %[[H0]]
// CHECK-NEXT:        quant_llm.yield %[[K]], %[[H1]]
// CHECK-NEXT:      }
// CHECK-NEXT:      %[[B1:.*]]:2 = quant_llm.block 1 "model.layers.1" -> (tensor<3x4xf32>, tensor<4xf32>) {
// CHECK-NEXT:        math.powf %[[B0]]#1, %[[B0]]#1
// CHECK:             tensor.insert_slice %{{.*}} into %[[B0]]#0
// CHECK:             quant_llm.yield
// CHECK-NEXT:      }
// CHECK-NEXT:      %[[B2:.*]]:2 = quant_llm.block 2 "model.layers.2" -> (tensor<3x4xf32>, tensor<4xf32>) {
// CHECK-NEXT:        math.powf %[[B1]]#1, %[[B1]]#1
// CHECK:             quant_llm.yield
// CHECK-NEXT:      }
// CHECK-NEXT:      quant_llm.yield %[[B2]]#0, %[[B2]]#1
// CHECK-NEXT:    }
// CHECK-NEXT:    math.powf %[[CROSS]]#1, %[[CROSS]]#1
// CHECK-NEXT:    arith.mulf
// CHECK-NEXT:    quant_llm.get_parameter @model.norm.weight
// CHECK-NEXT:    arith.mulf
// CHECK-NEXT:    arith.mulf
// CHECK-NEXT:    return %{{.*}}, %[[CROSS]]#0

// NOWINDOW-LABEL: func.func @model(
// NOWINDOW-NOT:     quant_llm.cross_block
// NOWINDOW-COUNT-3: quant_llm.block {{[0-2]}}
// NOWINDOW-LABEL: func.func @other_names(

// PATTERN-LABEL: func.func @other_names(
// PATTERN-NEXT:    quant_llm.cross_block window = 3, overlap = 0
// PATTERN-NEXT:      quant_llm.block 0 "blk.0"

func.func @model(%token: index, %position: tensor<4xf32>, %cache: tensor<3x4xf32>) -> (tensor<4xf32>, tensor<3x4xf32>) {
  %embed = quant_llm.get_parameter @embed : tensor<8x4xf32>
  %h0 = tensor.extract_slice %embed[%token, 0] [1, 4] [1, 1] : tensor<8x4xf32> to tensor<4xf32>
  %cos = math.cos %position : tensor<4xf32>

  %sq0 = math.powf %h0, %h0 : tensor<4xf32>
  %m0 = arith.mulf %sq0, %h0 : tensor<4xf32>
  %n0 = quant_llm.get_parameter @model.layers.0.norm.weight : tensor<4xf32>
  %x0 = arith.mulf %m0, %n0 : tensor<4xf32>
  %r0 = arith.mulf %x0, %cos : tensor<4xf32>
  %p0 = quant_llm.get_parameter @model.layers.0.proj.weight : tensor<4xf32>
  %k0 = tensor.insert_slice %r0 into %cache[0, 0] [1, 4] [1, 1] : tensor<4xf32> into tensor<3x4xf32>
  %y0 = arith.mulf %r0, %p0 : tensor<4xf32>
  %h1 = arith.addf %h0, %y0 : tensor<4xf32>

  %sq1 = math.powf %h1, %h1 : tensor<4xf32>
  %m1 = arith.mulf %sq1, %h1 : tensor<4xf32>
  %n1 = quant_llm.get_parameter @model.layers.1.norm.weight : tensor<4xf32>
  %x1 = arith.mulf %m1, %n1 : tensor<4xf32>
  %r1 = arith.mulf %x1, %cos : tensor<4xf32>
  %p1 = quant_llm.get_parameter @model.layers.1.proj.weight : tensor<4xf32>
  %k1 = tensor.insert_slice %r1 into %k0[1, 0] [1, 4] [1, 1] : tensor<4xf32> into tensor<3x4xf32>
  %y1 = arith.mulf %r1, %p1 : tensor<4xf32>
  %h2 = arith.addf %h1, %y1 : tensor<4xf32>

  %sq2 = math.powf %h2, %h2 : tensor<4xf32>
  %m2 = arith.mulf %sq2, %h2 : tensor<4xf32>
  %n2 = quant_llm.get_parameter @model.layers.2.norm.weight : tensor<4xf32>
  %x2 = arith.mulf %m2, %n2 : tensor<4xf32>
  %r2 = arith.mulf %x2, %cos : tensor<4xf32>
  %p2 = quant_llm.get_parameter @model.layers.2.proj.weight : tensor<4xf32>
  %k2 = tensor.insert_slice %r2 into %k1[2, 0] [1, 4] [1, 1] : tensor<4xf32> into tensor<3x4xf32>
  %y2 = arith.mulf %r2, %p2 : tensor<4xf32>
  %h3 = arith.addf %h2, %y2 : tensor<4xf32>

  %sq3 = math.powf %h3, %h3 : tensor<4xf32>
  %m3 = arith.mulf %sq3, %h3 : tensor<4xf32>
  %n = quant_llm.get_parameter @model.norm.weight : tensor<4xf32>
  %z = arith.mulf %m3, %n : tensor<4xf32>
  %head = arith.mulf %z, %z : tensor<4xf32>
  return %head, %k2 : tensor<4xf32>, tensor<3x4xf32>
}

func.func @other_names(%x: tensor<4xf32>) -> tensor<4xf32> {
  %w = quant_llm.get_parameter @blk.0.weight : tensor<4xf32>
  %y = arith.mulf %x, %w : tensor<4xf32>
  return %y : tensor<4xf32>
}

func.func private @declaration(tensor<4xf32>)
