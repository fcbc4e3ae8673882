//===- Grid.cpp - Stored scales and zeros as numbers ----------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Methods/Grid.h"

#include "quant-llm/Numerics/Float.h"

using namespace quant_llm;

Result<Grid> Grid::get(const QuantizedView &view, const Scheme &scheme) {
  Status status = verifyStorage(view, scheme);
  if (!status.ok())
    return status;
  Result<Element> element = Element::get(scheme.element);
  if (!element.ok())
    return element.status();
  Grid grid(element.take());
  grid.shape = getBlockGrid(scheme, view.n, view.k);
  grid.zeroKind = scheme.zero;
  grid.rounding = scheme.rounding;
  auto cells = static_cast<size_t>(grid.shape.gridN * grid.shape.gridK);
  grid.scales.resize(cells);
  grid.zeros.assign(cells, 0.0f);
  if (scheme.scaleScheme) {
    QuantizedView inner;
    inner.n = grid.shape.gridN;
    inner.k = grid.shape.gridK;
    inner.codes = view.scaleCodes;
    inner.scales = view.scales;
    status = dequantize(inner, *scheme.scaleScheme, grid.scales.data(),
                        /*threads=*/1);
    if (!status.ok())
      return status;
  } else {
    size_t width = floatTypeBytes(scheme.scaleType);
    for (size_t cell = 0; cell < cells; ++cell)
      grid.scales[cell] =
          loadFloat(scheme.scaleType, view.scales.data + cell * width);
  }
  if (scheme.zero == ZeroKind::Integer) {
    for (size_t cell = 0; cell < cells; ++cell)
      grid.zeros[cell] = static_cast<float>(view.zeros.data[cell]);
  } else if (scheme.zero == ZeroKind::Float) {
    size_t width = floatTypeBytes(scheme.zeroType);
    for (size_t cell = 0; cell < cells; ++cell)
      grid.zeros[cell] =
          loadFloat(scheme.zeroType, view.zeros.data + cell * width);
  }
  return grid;
}
