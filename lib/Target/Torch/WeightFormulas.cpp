//===- WeightFormulas.cpp -------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// docs/Spec.md, section 3, in PyTorch.
//
//===----------------------------------------------------------------------===//

#include "WeightFormulas.h"

#include "Expression.h"
#include "quant-llm/Numerics/Element.h"

using namespace mlir;
using namespace quant_llm;
using namespace quant_llm::torch;

std::string quant_llm::torch::printHelpers(const std::set<Helper> &helpers) {
  std::string text;
  if (helpers.count(Helper::Unpack))
    text += R"(

def unpack(packed, bits, columns):
    """The codes of each row, which are packed densely, low bits first."""
    start = torch.arange(columns, device=packed.device) * bits
    data = F.pad(packed.to(torch.int32) & 0xFF, (0, 1))
    word = data[:, start // 8] | data[:, start // 8 + 1] << 8
    return (word >> start % 8) & ((1 << bits) - 1)
)";
  if (helpers.count(Helper::Decode))
    text += R"(

def decode(codes, table, dtype):
    """The values of codes; a code is an index into the table."""
    return torch.tensor(table, dtype=dtype, device=codes.device)[codes]
)";
  if (helpers.count(Helper::Spread))
    text += R"(

def spread(grid, block, shape):
    """For every element of a matrix of this shape the value of its block."""
    rows = grid.repeat_interleave(block[0], 0)[: shape[0]]
    return rows.repeat_interleave(block[1], 1)[:, : shape[1]]
)";
  if (helpers.count(Helper::Ste))
    text += R"(

def straight_through(rounded, x):
    """The rounded value, with the gradient of what was rounded."""
    return x + (rounded - x).detach()
)";
  if (helpers.count(Helper::Activation))
    text += R"(

def quantize_activation(x, grid, step, group, per_token, stored, clip=1.0, scales=None, zeros=None, has_zero=False):
    """What is left of tokens after they were stored as codes; gradients pass through the rounding.

    The grid is the least and the greatest code, or a floating-point type. Each `group` of channels of
    a token, or of all tokens, has one scale, of the type `stored`: its range divided by `step`. All is
    computed in float32, whatever the type of the tokens, which the result has again.
    """
    blocks = F.pad(x.float(), (0, -x.shape[-1] % group)).unflatten(-1, (-1, group))
    tokens = blocks.shape[:-2] if per_token else [1] * (blocks.dim() - 2)
    dims = -1 if per_token else [i for i in range(blocks.dim()) if i != blocks.dim() - 2]
    if scales is not None:
        scales = scales.float().reshape(*tokens, -1, 1)
        zeros = (zeros.to(torch.int32) & 0xFF).float().reshape(*tokens, -1, 1) if has_zero else 0
    else:
        held = blocks.detach()
        if has_zero:
            lowest = held.amin(dims, keepdim=True).clamp(max=0)
            highest = held.amax(dims, keepdim=True).clamp(min=0)
        else:
            highest = held.abs().amax(dims, keepdim=True)
            lowest = torch.zeros_like(highest)
        spread = clip * (highest - lowest)
        # On some devices a division by a number is a product with its inverse.
        scales = (spread / torch.full_like(spread, step)).clamp(max=torch.finfo(stored).max).to(stored).float()
        # What is finite has a finite scale, even if its range is not.
        scales = torch.where(torch.isfinite(lowest) & torch.isfinite(highest), scales, torch.nan)
        zeros = torch.round(-(clip * lowest) / scales).nan_to_num(nan=0.0).clamp(*grid) if has_zero else 0
    codes = blocks / torch.where(scales == 0, 1.0, scales) + zeros
    if isinstance(grid, tuple):
        rounded = torch.round(codes).clamp(*grid).nan_to_num(nan=0.0)
    else:
        rounded = codes.clamp(-torch.finfo(grid).max, torch.finfo(grid).max).to(grid).float()
    # The first term is 0, with the gradient of what was rounded.
    smooth = scales * (codes + (rounded - codes).detach() - zeros)
    values = torch.where(torch.isfinite(smooth), smooth - smooth.detach(), 0.0) + (scales * (rounded - zeros)).detach()
    # What has the scale 0 is 0, and has no gradient.
    return torch.where(scales == 0, 0.0, values).flatten(-2)[..., : x.shape[-1]].to(x.dtype)
)";
  return text;
}

static std::string printShape(int64_t rows, int64_t columns) {
  return "(" + std::to_string(rows) + ", " + std::to_string(columns) + ")";
}

/// The block of a scheme in a matrix, with whole dimensions spelled out.
static std::string printBlock(SchemeAttr scheme, int64_t rows,
                              int64_t columns) {
  return printShape(scheme.getBlockN() < 0 ? rows : scheme.getBlockN(),
                    scheme.getBlockK() < 0 ? columns : scheme.getBlockK());
}

static std::string printTable(const ElementFormat &element) {
  Result<Element> grid = Element::get(element);
  std::string text = "[";
  for (auto [i, value] : llvm::enumerate(grid->table()))
    text += (i ? ", " : "") + printFloat(value);
  return text + "]";
}

/// v(q) of unpacked codes.
static std::string emitValues(const ElementFormat &element,
                              const std::string &codes, int64_t columns,
                              std::set<Helper> &helpers) {
  helpers.insert(Helper::Unpack);
  std::string unpacked = "unpack(" + codes + ", " +
                         std::to_string(element.bits) + ", " +
                         std::to_string(columns) + ")";
  switch (element.kind) {
  case ElementKind::UInt:
    return unpacked;
  case ElementKind::Int:
  case ElementKind::Ternary: {
    std::string sign = std::to_string(1 << (element.bits - 1));
    return "((" + unpacked + " ^ " + sign + ") - " + sign + ")";
  }
  default:
    helpers.insert(Helper::Decode);
    return "decode(" + unpacked + ", " + printTable(element) + ", dtype)";
  }
}

/// The matrix of scales of a scheme; `components` begins with theirs, which are
/// consumed.
static std::string emitScales(SchemeAttr scheme, int64_t gridN, int64_t gridK,
                              llvm::ArrayRef<std::string> &components,
                              std::set<Helper> &helpers) {
  SchemeAttr inner = scheme.getScaleScheme();
  std::string first = components.front();
  components = components.drop_front();
  if (!inner)
    return first + ".to(dtype)";
  helpers.insert(Helper::Spread);
  std::string values =
      emitValues(inner.toNumerics().element, first, gridK, helpers);
  std::string scales = components.front();
  components = components.drop_front();
  return "(spread(" + scales + ".to(dtype), " +
         printBlock(inner, gridN, gridK) + ", " + printShape(gridN, gridK) +
         ") * " + values + ")";
}

FailureOr<std::string>
quant_llm::torch::emitDequantize(Operation *op, WeightType type,
                                 llvm::ArrayRef<std::string> components,
                                 std::set<Helper> &helpers) {
  if (type.getLayout()) {
    op->emitOpError("cannot be translated to PyTorch: expected a weight "
                    "without a layout; translate before quant-llm-prepack");
    return failure();
  }
  SchemeAttr scheme = type.getScheme();
  const ElementFormat element = scheme.toNumerics().element;
  const int64_t n = type.getN(), k = type.getK();
  const std::string where =
      ", " + printBlock(scheme, n, k) + ", " + printShape(n, k) + ")";
  helpers.insert(Helper::Spread);
  std::string values = emitValues(element, components.front(), k, helpers);
  components = components.drop_front();
  std::string scales = "spread(" +
                       emitScales(scheme, type.getGridN(), type.getGridK(),
                                  components, helpers) +
                       where;
  std::string product;
  if (scheme.getLowRank() != 0)
    product = " + " + components[components.size() - 2] + ".to(dtype) @ " +
              components.back() + ".to(dtype)";
  switch (scheme.getZeroKind()) {
  case ZeroKind::None:
    return scales + " * " + values + product;
  case ZeroKind::Integer:
    // A zero is an unsigned byte in a tensor of i8.
    return scales + " * (" + values + " - spread((" + components.front() +
           ".to(torch.int32) & 0xFF)" + where + ")" + product;
  case ZeroKind::Float:
    return scales + " * " + values + " + spread(" + components.front() +
           ".to(dtype)" + where + product;
  }
  return failure();
}

/// The stored type of scales or zeros in PyTorch; empty for those that rounding
/// to them needs more than a cast.
static std::string getStorage(Type type) {
  if (type.isF16())
    return "torch.float16";
  if (type.isBF16())
    return "torch.bfloat16";
  if (type.isF32())
    return "torch.float32";
  return "";
}

FailureOr<std::string> quant_llm::torch::emitFakeQuantize(
    Operation *op, WeightType type, llvm::StringRef source,
    llvm::StringRef name, llvm::StringRef result, std::set<Helper> &helpers) {
  SchemeAttr scheme = type.getScheme();
  const ElementFormat element = scheme.toNumerics().element;
  auto refuse = [&](const Twine &what) {
    op->emitOpError("cannot be translated to PyTorch: ") << what;
    return failure();
  };
  if (type.getLayout())
    return refuse("expected a weight without a layout");
  if (!scheme.getScaleType())
    return refuse("expected scales of a plain type");
  const std::string scaleType = getStorage(scheme.getScaleType());
  if (scaleType.empty())
    return refuse("expected scales of f16, bf16 or f32");
  if (element.kind != ElementKind::Int && element.kind != ElementKind::UInt)
    return refuse("expected an element intN or uintN");
  if (scheme.getRule() == ScaleRule::Mse)
    return refuse("expected the rule absmax, absmax_full or minmax; the search "
                  "of mse has no gradient");
  if (scheme.getRounding() != Rounding::HalfEven)
    return refuse("expected the rounding half_even");
  std::string zeroType;
  if (scheme.getZeroKind() == ZeroKind::Float &&
      (zeroType = getStorage(scheme.getZeroType())).empty())
    return refuse("expected zeros of f16, bf16 or f32");

  helpers.insert(Helper::Spread);
  helpers.insert(Helper::Ste);
  const int64_t n = type.getN(), k = type.getK();
  const std::string block = printBlock(scheme, n, k);
  const std::string where = ", " + block + ", " + printShape(n, k) + ")";
  const bool isSigned = element.kind == ElementKind::Int;
  const int64_t levels = int64_t(1) << element.bits;
  const int64_t low = isSigned ? -levels / 2 : 0;
  const int64_t high = low + levels - 1;
  const std::string w = source.str(), out = result.str();
  const std::string s = out + "_scales", z = out + "_zeros", q = out + "_codes";
  auto largest = [&](const std::string &values) {
    return "F.max_pool2d((" + values + ")[None], " + block +
           ", ceil_mode=True)[0]";
  };
  auto stored = [&](const std::string &values, const std::string &storage) {
    return "straight_through(" + values + ".to(" + storage + ").to(dtype), " +
           values + ")";
  };
  auto learned = [&](const char *suffix) {
    return quotePython((name + suffix).str());
  };

  std::string text;
  auto line = [&](const std::string &code) { text += code + "\n"; };
  // Torch would broadcast, or take the first of too many.
  auto expectShape = [&](const char *suffix, int64_t rows, int64_t columns) {
    const std::string shape =
        "[" + std::to_string(rows) + ", " + std::to_string(columns) + "]";
    const std::string got = "list(parameters[" + learned(suffix) + "].shape)";
    line("    assert " + got + " == " + shape + ", " +
         quotePython(
             ("expected the shape " + shape + " of " + name + suffix).str() +
             " but got ") +
         " + str(" + got + ")");
  };
  const int64_t gridN = type.getGridN(), gridK = type.getGridK();
  line("if " + learned(".scales") + " in parameters:");
  expectShape(".scales", gridN, gridK);
  line("    " + s + " = parameters[" + learned(".scales") + "].to(dtype)");
  line("else:");
  const bool minMax = scheme.getRule() == ScaleRule::MinMax;
  std::string highest = largest(w), lowest = "-" + largest("-" + w);
  if (scheme.getZeroKind() == ZeroKind::Integer) {
    highest += ".clamp(min=0)";
    lowest = "(" + lowest + ").clamp(max=0)";
  }
  if (minMax)
    line("    " + s + " = (" + highest + " - " + lowest + ") / " +
         std::to_string(levels - 1));
  else
    line("    " + s + " = " + largest(w + ".abs()") + " / " +
         std::to_string(scheme.getRule() == ScaleRule::AbsMaxFull ? levels / 2
                                                                  : high));
  line("    " + s + " = " + stored(s, scaleType));
  // The codes of a block of zeros are zeros whatever they are divided by.
  line("    " + s + " = torch.where(" + s + " == 0, 1.0, " + s + ")");
  if (scheme.hasZero()) {
    line("if " + learned(".zeros") + " in parameters:");
    expectShape(".zeros", gridN, gridK);
    line("    " + z + " = parameters[" + learned(".zeros") + "].to(dtype)");
    line("else:");
    if (scheme.getZeroKind() == ZeroKind::Integer)
      line("    " + z + " = torch.round(-(" + lowest + ") / " + s +
           ").clamp(0, " + std::to_string(levels - 1) + ").detach()");
    else {
      line("    " + z + " = " + lowest + " - " + s + " * " +
           std::to_string(low) + ".0");
      line("    " + z + " = " + stored(z, zeroType));
    }
  }
  switch (scheme.getZeroKind()) {
  case ZeroKind::None:
    line(q + " = " + w + " / spread(" + s + where);
    break;
  case ZeroKind::Integer:
    line(q + " = " + w + " / spread(" + s + where + " + spread(" + z + where);
    break;
  case ZeroKind::Float:
    line(q + " = (" + w + " - spread(" + z + where + ") / spread(" + s + where);
    break;
  }
  line("if " + learned(".rounding") + " in parameters:");
  expectShape(".rounding", n, k);
  line("    " + q + " = torch.floor(" + q + ") + parameters[" +
       learned(".rounding") + "].to(dtype)");
  line("else:");
  line("    " + q + " = straight_through(torch.round(" + q + "), " + q + ")");
  line(q + " = " + q + ".clamp(" + std::to_string(low) + ", " +
       std::to_string(high) + ")");
  switch (scheme.getZeroKind()) {
  case ZeroKind::None:
    line(out + " = spread(" + s + where + " * " + q);
    break;
  case ZeroKind::Integer:
    line(out + " = spread(" + s + where + " * (" + q + " - spread(" + z +
         where + ")");
    break;
  case ZeroKind::Float:
    line(out + " = spread(" + s + where + " * " + q + " + spread(" + z + where);
    break;
  }
  text.pop_back();
  return text;
}

FailureOr<std::string> quant_llm::torch::emitQuantizeActivation(
    QuantizeActivationOp op, llvm::StringRef source,
    llvm::ArrayRef<std::string> given, std::set<Helper> &helpers) {
  ActivationType type = op.getResult().getType();
  SchemeAttr scheme = type.getScheme();
  const ElementFormat format = scheme.toNumerics().element;
  Result<Element> element = Element::get(format);
  std::string grid;
  if (format.kind == ElementKind::F8E4M3FN)
    grid = "torch.float8_e4m3fn";
  else if (format.kind == ElementKind::F8E5M2)
    grid = "torch.float8_e5m2";
  else if (format.kind == ElementKind::Int || format.kind == ElementKind::UInt)
    grid = "(" + std::to_string(int64_t(element->minValue())) + ", " +
           std::to_string(int64_t(element->maxValue())) + ")";
  if (grid.empty()) {
    op.emitOpError("cannot be translated to PyTorch: expected an element intN, "
                   "uintN, f8E4M3FN or f8E5M2");
    return failure();
  }
  helpers.insert(Helper::Activation);
  double step = element->maxValue();
  if (scheme.getRule() == ScaleRule::AbsMaxFull)
    step = int64_t(1) << (format.bits - 1);
  std::string text = "quantize_activation(" + source.str() + ", " + grid +
                     ", " + std::to_string(int64_t(step)) + ", " +
                     std::to_string(type.getGroup()) + ", " +
                     (type.isPerToken() ? "True" : "False") + ", " +
                     getStorage(scheme.getScaleType());
  if (std::optional<APFloat> clip = op.getClip())
    text += ", clip=" + printFloat(clip->convertToFloat());
  const char *names[] = {", scales=", ", zeros="};
  for (auto [name, value] : llvm::zip(names, given))
    text += name + value;
  if (scheme.hasZero())
    text += ", has_zero=True";
  return text + ")";
}
