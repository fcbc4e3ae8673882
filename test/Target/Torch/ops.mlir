// What each op becomes. The functions are run by numbers.py.
// RUN: quant-translate --mlir-to-torch --function=elementwise %s | FileCheck %s --check-prefix=ELEMENTWISE
// RUN: quant-translate --mlir-to-torch --function=contractions %s | FileCheck %s --check-prefix=CONTRACTIONS
// RUN: quant-translate --mlir-to-torch --function=reductions %s | FileCheck %s --check-prefix=REDUCTIONS
// RUN: quant-translate --mlir-to-torch --function=broadcasts %s | FileCheck %s --check-prefix=BROADCASTS
// RUN: quant-translate --mlir-to-torch --function=shapes %s | FileCheck %s --check-prefix=SHAPES
// RUN: quant-translate --mlir-to-torch --function=gathers %s | FileCheck %s --check-prefix=GATHERS
// RUN: quant-translate --mlir-to-torch --function=scalars %s | FileCheck %s --check-prefix=SCALARS
// RUN: quant-translate --mlir-to-torch --function=linears --tap %s | FileCheck %s --check-prefix=LINEARS
// RUN: quant-translate --mlir-to-torch --function=weights %s | FileCheck %s --check-prefix=WEIGHTS
// RUN: quant-translate --mlir-to-torch --function=rounds %s | FileCheck %s --check-prefix=ROUNDS

#ij = affine_map<(i, j) -> (i, j)>
#ji = affine_map<(i, j) -> (j, i)>
#i = affine_map<(i, j) -> (i)>
#j = affine_map<(i, j) -> (j)>

// Arguments have the names of their attribute or location.
// ELEMENTWISE-LABEL: def elementwise(x, scores, arg2, *, parameters, dtype=torch.float32):
// ELEMENTWISE:       {{^}}    x: float[?, 4]
// ELEMENTWISE:       returns
// ELEMENTWISE-NEXT:  {{^}}    activated: float[?, 4]
func.func @elementwise(%x: tensor<?x4xf32> {quant_llm.name = "x"}, %y: tensor<?x4xf32> loc("model.scores"), %z: tensor<?x4xi64>) -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %one = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32
  %lowest = arith.constant -3.40282347E+38 : f32
  %three = arith.constant 3 : i64
  // ELEMENTWISE: activated = F.silu(x) * scores + torch.exp(-x * (x - scores))
  %0 = linalg.generic {indexing_maps = [#ij, #ij, #ij], iterator_types = ["parallel", "parallel"]} ins(%x, %y : tensor<?x4xf32>, tensor<?x4xf32>) outs(%x : tensor<?x4xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %1 = arith.negf %a : f32
    %2 = math.exp %1 : f32
    %3 = arith.addf %one, %2 : f32
    %4 = arith.divf %a, %3 : f32
    %5 = arith.mulf %4, %b : f32
    %6 = arith.subf %a, %b : f32
    %7 = arith.mulf %1, %6 : f32
    %8 = math.exp %7 : f32
    %9 = arith.addf %5, %8 : f32
    linalg.yield %9 : f32
  } -> tensor<?x4xf32> loc("model.activated")
  // ELEMENTWISE-NEXT: t = torch.tanh(x * 0.5 + scores)
  // ELEMENTWISE-NEXT: masked = torch.where(arg2 <= 3, t * t, torch.finfo(dtype).min)
  %10 = linalg.generic {indexing_maps = [#ij, #ij, #ij, #ij], iterator_types = ["parallel", "parallel"]} ins(%x, %y, %z : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xi64>) outs(%x : tensor<?x4xf32>) {
  ^bb0(%a: f32, %b: f32, %c: i64, %out: f32):
    %11 = arith.mulf %a, %half : f32
    %12 = arith.addf %11, %b : f32
    %13 = math.tanh %12 : f32
    %14 = arith.mulf %13, %13 : f32
    %15 = arith.cmpi sle, %c, %three : i64
    %16 = arith.select %15, %14, %lowest : f32
    linalg.yield %16 : f32
  } -> tensor<?x4xf32>
  // Integers do not go through narrow floats on their way to a sine.
  // ELEMENTWISE-NEXT: sine = torch.sin(arg2.to(wide) * 0.1).to(dtype)
  %tenth = arith.constant 0.1 : f32
  %20 = linalg.generic {indexing_maps = [#ij, #ij], iterator_types = ["parallel", "parallel"]} ins(%z : tensor<?x4xi64>) outs(%x : tensor<?x4xf32>) {
  ^bb0(%c: i64, %out: f32):
    %21 = arith.sitofp %c : i64 to f32
    %22 = arith.mulf %21, %tenth : f32
    %23 = math.sin %22 : f32
    linalg.yield %23 : f32
  } -> tensor<?x4xf32>
  // ELEMENTWISE-NEXT: return activated, masked, sine
  return %0, %10, %20 : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// CONTRACTIONS-LABEL: def contractions(
func.func @contractions(%a: tensor<?x4xf32> loc("a"), %b: tensor<4x3xf32> loc("b"), %c: tensor<2x?x4xf32> loc("c"), %d: tensor<2x5x4xf32> loc("d")) -> (tensor<?x3xf32>, tensor<2x?x5xf32>, tensor<?x2xf32>, tensor<?x3xf32>) {
  %zero = arith.constant 0.0 : f32
  %c0 = arith.constant 0 : index
  %n = tensor.dim %a, %c0 : tensor<?x4xf32>
  %e0 = tensor.empty(%n) : tensor<?x3xf32>
  %f0 = linalg.fill ins(%zero : f32) outs(%e0 : tensor<?x3xf32>) -> tensor<?x3xf32>
  // CONTRACTIONS: product = a @ b
  %0 = linalg.matmul ins(%a, %b : tensor<?x4xf32>, tensor<4x3xf32>) outs(%f0 : tensor<?x3xf32>) -> tensor<?x3xf32>
  %e1 = tensor.empty(%n) : tensor<2x?x5xf32>
  %f1 = linalg.fill ins(%zero : f32) outs(%e1 : tensor<2x?x5xf32>) -> tensor<2x?x5xf32>
  // CONTRACTIONS-NEXT: product_1 = c @ d.mT
  %1 = linalg.batch_matmul indexing_maps = [affine_map<(b, i, j, k) -> (b, i, k)>, affine_map<(b, i, j, k) -> (b, j, k)>, affine_map<(b, i, j, k) -> (b, i, j)>]
    ins(%c, %d : tensor<2x?x4xf32>, tensor<2x5x4xf32>) outs(%f1 : tensor<2x?x5xf32>) -> tensor<2x?x5xf32>
  %e2 = tensor.empty(%n) : tensor<?x2xf32>
  %f2 = linalg.fill ins(%zero : f32) outs(%e2 : tensor<?x2xf32>) -> tensor<?x2xf32>
  // CONTRACTIONS-NEXT: product_2 = torch.einsum("bad,bcd->ab", c, d)
  %2 = linalg.generic {indexing_maps = [affine_map<(b, i, j, k) -> (b, i, k)>, affine_map<(b, i, j, k) -> (b, j, k)>, affine_map<(b, i, j, k) -> (i, b)>], iterator_types = ["parallel", "parallel", "reduction", "reduction"]}
    ins(%c, %d : tensor<2x?x4xf32>, tensor<2x5x4xf32>) outs(%f2 : tensor<?x2xf32>) {
  ^bb0(%x: f32, %y: f32, %out: f32):
    %3 = arith.mulf %x, %y : f32
    %4 = arith.addf %out, %3 : f32
    linalg.yield %4 : f32
  } -> tensor<?x2xf32>
  // What the sum begins with is added.
  // CONTRACTIONS-NEXT: product_3 = product + a @ b
  %5 = linalg.matmul ins(%a, %b : tensor<?x4xf32>, tensor<4x3xf32>) outs(%0 : tensor<?x3xf32>) -> tensor<?x3xf32>
  // CONTRACTIONS-NEXT: return product, product_1, product_2, product_3
  return %0, %1, %2, %5 : tensor<?x3xf32>, tensor<2x?x5xf32>, tensor<?x2xf32>, tensor<?x3xf32>
}

// REDUCTIONS-LABEL: def reductions(
func.func @reductions(%x: tensor<?x4xf32> loc("x"), %m: tensor<?xf32> loc("m")) -> (tensor<?xf32>, tensor<?xf32>, tensor<4xf32>, tensor<f32>) {
  %zero = arith.constant 0.0 : f32
  %lowest = arith.constant 0xFF800000 : f32
  %c0 = arith.constant 0 : index
  %n = tensor.dim %x, %c0 : tensor<?x4xf32>
  %e0 = tensor.empty(%n) : tensor<?xf32>
  %f0 = linalg.fill ins(%zero : f32) outs(%e0 : tensor<?xf32>) -> tensor<?xf32>
  // REDUCTIONS: total = (x * x).sum(-1)
  %0 = linalg.generic {indexing_maps = [#ij, #i], iterator_types = ["parallel", "reduction"]} ins(%x : tensor<?x4xf32>) outs(%f0 : tensor<?xf32>) {
  ^bb0(%a: f32, %out: f32):
    %1 = arith.mulf %a, %a : f32
    %2 = arith.addf %1, %out : f32
    linalg.yield %2 : f32
  } -> tensor<?xf32>
  // REDUCTIONS-NEXT: largest = torch.maximum(m, x.amax(-1))
  %3 = linalg.generic {indexing_maps = [#ij, #i], iterator_types = ["parallel", "reduction"]} ins(%x : tensor<?x4xf32>) outs(%m : tensor<?xf32>) {
  ^bb0(%a: f32, %out: f32):
    %4 = arith.maximumf %out, %a : f32
    linalg.yield %4 : f32
  } -> tensor<?xf32>
  %e1 = tensor.empty() : tensor<4xf32>
  %f1 = linalg.fill ins(%lowest : f32) outs(%e1 : tensor<4xf32>) -> tensor<4xf32>
  // The first dimension: the loops of the result come first.
  // REDUCTIONS-NEXT: largest_1 = x.T.amax(-1)
  %5 = linalg.generic {indexing_maps = [#ij, #j], iterator_types = ["reduction", "parallel"]} ins(%x : tensor<?x4xf32>) outs(%f1 : tensor<4xf32>) {
  ^bb0(%a: f32, %out: f32):
    %6 = arith.maximumf %out, %a : f32
    linalg.yield %6 : f32
  } -> tensor<4xf32>
  %e2 = tensor.empty() : tensor<f32>
  %f2 = linalg.fill ins(%zero : f32) outs(%e2 : tensor<f32>) -> tensor<f32>
  // REDUCTIONS-NEXT: total_1 = x.sum((-2, -1))
  %7 = linalg.generic {indexing_maps = [#ij, affine_map<(i, j) -> ()>], iterator_types = ["reduction", "reduction"]} ins(%x : tensor<?x4xf32>) outs(%f2 : tensor<f32>) {
  ^bb0(%a: f32, %out: f32):
    %8 = arith.addf %out, %a : f32
    linalg.yield %8 : f32
  } -> tensor<f32>
  return %0, %3, %5, %7 : tensor<?xf32>, tensor<?xf32>, tensor<4xf32>, tensor<f32>
}

// BROADCASTS-LABEL: def broadcasts(
func.func @broadcasts(%x: tensor<?x4xf32> loc("x"), %r: tensor<?xf32> loc("r"), %c: tensor<4xf32> loc("c"), %one: tensor<1x4xf32> loc("one")) -> (tensor<?x4xf32>, tensor<4x?xf32>, tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %two = arith.constant 2.0 : f32
  // BROADCASTS: x_1 = x * r[:, None] + c
  %0 = linalg.generic {indexing_maps = [#ij, #i, #j, #ij], iterator_types = ["parallel", "parallel"]} ins(%x, %r, %c : tensor<?x4xf32>, tensor<?xf32>, tensor<4xf32>) outs(%x : tensor<?x4xf32>) {
  ^bb0(%a: f32, %b: f32, %d: f32, %out: f32):
    %1 = arith.mulf %a, %b : f32
    %2 = arith.addf %1, %d : f32
    linalg.yield %2 : f32
  } -> tensor<?x4xf32> loc("x")
  %c0 = arith.constant 0 : index
  %n = tensor.dim %x, %c0 : tensor<?x4xf32>
  %e = tensor.empty(%n) : tensor<4x?xf32>
  // BROADCASTS: transposed = x.T
  %3 = linalg.transpose ins(%x : tensor<?x4xf32>) outs(%e : tensor<4x?xf32>) permutation = [1, 0]
  // BROADCASTS-NEXT: copy = c.expand(size, 4)
  %4 = linalg.broadcast ins(%c : tensor<4xf32>) outs(%x : tensor<?x4xf32>) dimensions = [0]
  // BROADCASTS-NEXT: scaled = x * one[0]
  %5 = linalg.generic {indexing_maps = [#ij, affine_map<(i, j) -> (0, j)>, #ij], iterator_types = ["parallel", "parallel"]} ins(%x, %one : tensor<?x4xf32>, tensor<1x4xf32>) outs(%x : tensor<?x4xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %6 = arith.mulf %a, %b : f32
    linalg.yield %6 : f32
  } -> tensor<?x4xf32>
  // What a destination holds may be read.
  // BROADCASTS-NEXT: added = x + (r * 2.0)[:, None]
  %7 = linalg.generic {indexing_maps = [#i, #ij], iterator_types = ["parallel", "parallel"]} ins(%r : tensor<?xf32>) outs(%x : tensor<?x4xf32>) {
  ^bb0(%a: f32, %out: f32):
    %8 = arith.mulf %a, %two : f32
    %9 = arith.addf %out, %8 : f32
    linalg.yield %9 : f32
  } -> tensor<?x4xf32>
  return %0, %3, %4, %5, %7 : tensor<?x4xf32>, tensor<4x?xf32>, tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// SHAPES-LABEL: def shapes(
func.func @shapes(%x: tensor<?x6xf32> loc("x"), %at: index loc("at")) -> (tensor<?x2x3xf32>, tensor<?x6xf32>, tensor<?xf32>, tensor<?x6xf32>, tensor<?x12xf32>, tensor<?x9xf32>) {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %n = tensor.dim %x, %c0 : tensor<?x6xf32>
  // SHAPES: x_1 = x.unflatten(1, (2, 3))
  %0 = tensor.expand_shape %x [[0], [1, 2]] output_shape [%n, 2, 3] : tensor<?x6xf32> into tensor<?x2x3xf32>
  // SHAPES-NEXT: x_2 = x_1.flatten(1, 2)
  %1 = tensor.collapse_shape %0 [[0], [1, 2]] : tensor<?x2x3xf32> into tensor<?x6xf32>
  // SHAPES-NEXT: x_3 = x[:, 1:6:2]
  %2 = tensor.extract_slice %x[0, 1] [%n, 3] [1, 2] : tensor<?x6xf32> to tensor<?x3xf32>
  // SHAPES-NEXT: x_4 = x[at:at + 2, 4]
  %3 = tensor.extract_slice %x[%at, 4] [2, 1] [1, 1] : tensor<?x6xf32> to tensor<2xf32>
  %cast = tensor.cast %3 : tensor<2xf32> to tensor<?xf32>
  // A tensor of somebody else is copied once.
  // SHAPES-NEXT: x_5 = x_2.clone()
  // SHAPES-NEXT: x_5[:, 3:6] = x_3
  // SHAPES-NEXT: x_5[at:at + 2, 0] = x_4
  %4 = tensor.insert_slice %2 into %1[0, 3] [%n, 3] [1, 1] : tensor<?x3xf32> into tensor<?x6xf32>
  %5 = tensor.insert_slice %3 into %4[%at, 0] [2, 1] [1, 1] : tensor<2xf32> into tensor<?x6xf32>
  // SHAPES-NEXT: x_6 = torch.cat([x, x_5], 1)
  %6 = tensor.concat dim(1) %x, %5 : (tensor<?x6xf32>, tensor<?x6xf32>) -> tensor<?x12xf32>
  // SHAPES-NEXT: x_7 = F.pad(x, (1, 2, 0, 0), value=0.0)
  %7 = tensor.pad %x low[0, 1] high[0, 2] {
  ^bb0(%i: index, %j: index):
    tensor.yield %zero : f32
  } : tensor<?x6xf32> to tensor<?x9xf32>
  return %0, %1, %cast, %5, %6, %7 : tensor<?x2x3xf32>, tensor<?x6xf32>, tensor<?xf32>, tensor<?x6xf32>, tensor<?x12xf32>, tensor<?x9xf32>
}

// GATHERS-LABEL: def gathers(
func.func @gathers(%tokens: tensor<?xi64> loc("tokens"), %table: tensor<9x4xf32> loc("table"), %x: tensor<?x4xf32> loc("x")) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %three = arith.constant 3 : index
  // GATHERS: rows = table[tokens]
  %0 = linalg.generic {indexing_maps = [#i, #ij], iterator_types = ["parallel", "parallel"]} ins(%tokens : tensor<?xi64>) outs(%x : tensor<?x4xf32>) {
  ^bb0(%token: i64, %out: f32):
    %1 = arith.index_cast %token : i64 to index
    %2 = linalg.index 1 : index
    %3 = tensor.extract %table[%1, %2] : tensor<9x4xf32>
    linalg.yield %3 : f32
  } -> tensor<?x4xf32>
  // GATHERS-NEXT: rows_1 = table[tokens[:, None], 3 - torch.arange(4, device=device)]
  %4 = linalg.generic {indexing_maps = [#i, #ij], iterator_types = ["parallel", "parallel"]} ins(%tokens : tensor<?xi64>) outs(%x : tensor<?x4xf32>) {
  ^bb0(%token: i64, %out: f32):
    %5 = arith.index_cast %token : i64 to index
    %6 = linalg.index 1 : index
    %7 = arith.subi %three, %6 : index
    %8 = tensor.extract %table[%5, %7] : tensor<9x4xf32>
    linalg.yield %8 : f32
  } -> tensor<?x4xf32>
  return %0, %4 : tensor<?x4xf32>, tensor<?x4xf32>
}

// SCALARS-LABEL: def scalars(
func.func @scalars(%x: tensor<?xf32> loc("x"), %p: i64 loc("p"), %s: f32 loc("s")) -> (tensor<?xf32>, i64) {
  %c0 = arith.constant 0 : index
  %c2 = arith.constant 2 : index
  %zero = arith.constant 0 : i64
  %n = tensor.dim %x, %c0 : tensor<?xf32>
  // SCALARS: size = x.shape[0]
  // SCALARS-NEXT: n = max(p, 0)
  %0 = arith.maxsi %p, %zero : i64
  %1 = arith.index_cast %0 : i64 to index
  // SCALARS-NEXT: n_1 = min(n, size)
  %2 = arith.minsi %1, %n : index
  // SCALARS-NEXT: n_2 = -(-n_1 // 2)
  %3 = arith.ceildivui %2, %c2 : index
  // SCALARS-NEXT: n_3 = n_1 < size
  // SCALARS-NEXT: n_4 = n_2 if n_3 else 0
  %4 = arith.cmpi ult, %2, %n : index
  %5 = arith.select %4, %3, %c0 : index
  // SCALARS-NEXT: n_5 = math.sqrt(s)
  %6 = math.sqrt %s : f32
  // SCALARS-NEXT: scaled = x * n_5
  %7 = linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>], iterator_types = ["parallel"]} ins(%x : tensor<?xf32>) outs(%x : tensor<?xf32>) {
  ^bb0(%a: f32, %out: f32):
    %8 = arith.mulf %a, %6 : f32
    linalg.yield %8 : f32
  } -> tensor<?xf32>
  %9 = arith.index_cast %5 : index to i64
  // SCALARS-NEXT: return scaled, n_4
  return %7, %9 : tensor<?xf32>, i64
}

quant_llm.archive @a "a.safetensors"
quant_llm.parameter @layer.proj.weight from @a : tensor<4x8xf16>
quant_llm.parameter @layer.proj.bias from @a : tensor<4xf16>
quant_llm.parameter @layer.up.weight from @a : tensor<4x8xf16>

// LINEARS-LABEL: def linears(x, *, parameters, tap, dtype=torch.float32):
func.func @linears(%x: tensor<?x8xf32> loc("x")) -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %w = quant_llm.get_parameter @layer.proj.weight : tensor<4x8xf16>
  %b = quant_llm.get_parameter @layer.proj.bias : tensor<4xf16>
  %u = quant_llm.get_parameter @layer.up.weight : tensor<4x8xf16>
  // LINEARS: proj = F.linear(tap("layer.proj.weight", x), parameters["layer.proj.weight"].to(dtype))
  %0 = quant_llm.linear %x, %w : (tensor<?x8xf32>, tensor<4x8xf16>) -> tensor<?x4xf32>
  // LINEARS-NEXT: proj_1 = F.linear(tap("layer.proj.weight", x), parameters["layer.proj.weight"].to(dtype), parameters["layer.proj.bias"].to(dtype))
  %1 = quant_llm.linear %x, %w epilogue(%b : tensor<4xf16>) {
  ^bb0(%acc: f32, %bias: f16):
    %2 = arith.extf %bias : f16 to f32
    %3 = arith.addf %acc, %2 : f32
    quant_llm.yield %3 : f32
  } : (tensor<?x8xf32>, tensor<4x8xf16>) -> tensor<?x4xf32>
  // LINEARS-NEXT: proj_2 = F.linear(tap("layer.proj.weight", x), parameters["layer.proj.weight"].to(dtype))
  // LINEARS-NEXT: up = F.linear(tap("layer.up.weight", x), parameters["layer.up.weight"].to(dtype))
  // LINEARS-NEXT: proj_3 = F.silu(proj_2) * up + proj_1
  %4 = quant_llm.linear %x, %w, %u epilogue(%1 : tensor<?x4xf32>) {
  ^bb0(%gate: f32, %up: f32, %residual: f32):
    %one = arith.constant 1.0 : f32
    %5 = arith.negf %gate : f32
    %6 = math.exp %5 : f32
    %7 = arith.addf %6, %one : f32
    %8 = arith.divf %gate, %7 : f32
    %9 = arith.mulf %8, %up : f32
    %10 = arith.addf %9, %residual : f32
    quant_llm.yield %10 : f32
  } : (tensor<?x8xf32>, tensor<4x8xf16>, tensor<4x8xf16>) -> tensor<?x4xf32>
  return %0, %1, %4 : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

#q = #quant_llm.scheme<uint4, block = [1, 6], scale = f16, zero = int, rule = minmax>
quant_llm.parameter @q from @a : !quant_llm.weight<4x8xf16, #q>

// WEIGHTS-LABEL: def unpack(packed, bits, columns):
// WEIGHTS-LABEL: def spread(grid, block, shape):
// WEIGHTS-LABEL: def weights(
func.func @weights(%x: tensor<?x8xf32> loc("x"), %codes: tensor<4x4xi8> loc("codes"), %scales: tensor<4x2xf16> loc("scales"), %zeros: tensor<4x2xi8> loc("zeros")) -> (tensor<?x4xf32>, tensor<4x8xf16>) {
  %q = quant_llm.get_parameter @q : !quant_llm.weight<4x8xf16, #q>
  // WEIGHTS: q_weight = spread(parameters["q.scales"].to(dtype), (1, 6), (4, 8)) * (unpack(parameters["q.codes"], 4, 8) - spread((parameters["q.zeros"].to(torch.int32) & 0xFF), (1, 6), (4, 8)))
  // WEIGHTS-NEXT: q = F.linear(x, q_weight)
  %0 = quant_llm.linear %x, %q : (tensor<?x8xf32>, !quant_llm.weight<4x8xf16, #q>) -> tensor<?x4xf32>
  %r = quant_llm.assemble %codes, %scales, %zeros : (tensor<4x4xi8>, tensor<4x2xf16>, tensor<4x2xi8>) -> !quant_llm.weight<4x8xf16, #q>
  // WEIGHTS-NEXT: weight = spread(scales.to(dtype), (1, 6), (4, 8)) * (unpack(codes, 4, 8) -
  %1 = quant_llm.dequantize %r : !quant_llm.weight<4x8xf16, #q> -> tensor<4x8xf16>
  return %0, %1 : tensor<?x4xf32>, tensor<4x8xf16>
}

// Quantization that gradients pass through, with what is learned for it.
// ROUNDS-LABEL: def straight_through(rounded, x):
// ROUNDS-LABEL: def rounds(
func.func @rounds(%x: tensor<?x8xf32> loc("x")) -> tensor<?x4xf32> {
  %w = quant_llm.get_parameter @layer.proj.weight : tensor<4x8xf16>
  // ROUNDS:      proj_weight = parameters["layer.proj.weight"].to(dtype)
  // ROUNDS-NEXT: if "layer.proj.weight.scales" in parameters:
  // ROUNDS-NEXT:     assert list(parameters["layer.proj.weight.scales"].shape) == [4, 2], "expected the shape [4, 2] of layer.proj.weight.scales but got " + str(list(parameters["layer.proj.weight.scales"].shape))
  // ROUNDS-NEXT:     proj_quantized_scales = parameters["layer.proj.weight.scales"].to(dtype)
  // ROUNDS-NEXT: else:
  // ROUNDS:      if "layer.proj.weight.zeros" in parameters:
  // ROUNDS-NEXT:     assert list(parameters["layer.proj.weight.zeros"].shape) == [4, 2], "expected the shape [4, 2] of layer.proj.weight.zeros but got "
  // ROUNDS:      if "layer.proj.weight.rounding" in parameters:
  // ROUNDS-NEXT:     assert list(parameters["layer.proj.weight.rounding"].shape) == [4, 8], "expected the shape [4, 8] of layer.proj.weight.rounding but got "
  // ROUNDS-NEXT:     proj_quantized_codes = torch.floor(proj_quantized_codes) + parameters["layer.proj.weight.rounding"].to(dtype)
  // ROUNDS:      proj = F.linear(x, proj_quantized)
  %q = quant_llm.quantize %w : tensor<4x8xf16> -> !quant_llm.weight<4x8xf16, #q>
  %d = quant_llm.dequantize %q : !quant_llm.weight<4x8xf16, #q> -> tensor<4x8xf16>
  %0 = quant_llm.linear %x, %q : (tensor<?x8xf32>, !quant_llm.weight<4x8xf16, #q>) -> tensor<?x4xf32>
  return %0 : tensor<?x4xf32>
}
