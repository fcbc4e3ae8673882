//===- CalibrationFile.h - Statistics of a model on data --------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Reads what `quant-llm calibrate` writes (docs/Calibration.md): a safetensors
// file whose tensor `<statistic>/<parameter>` is a statistic of the inputs of
// the linear with that weight, or a value learned for it.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_FORMATS_CALIBRATIONFILE_H
#define QUANT_LLM_FORMATS_CALIBRATIONFILE_H

#include "quant-llm/Formats/Safetensors.h"
#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace quant_llm {

/// The statistics that have a name of their own. K is the number of inputs of
/// the linear; sums and means are over the rows x_t of its input, weighted by
/// the weights r_t of the tokens where there are any.
namespace statistic {
/// [K], max |x|.
inline constexpr std::string_view absMax = "absmax";
/// [K], mean of |x|.
inline constexpr std::string_view absMean = "absmean";
/// [K], mean of x.
inline constexpr std::string_view mean = "mean";
/// [K].
inline constexpr std::string_view min = "min";
inline constexpr std::string_view max = "max";
/// [P, K], quantiles of |x|; CalibrationFile::quantiles() are the P fractions.
inline constexpr std::string_view quantiles = "quantiles";
/// [K, K], sum of r_t x_t^T x_t divided by the sum of r_t: X^T X / T without
/// weights of tokens. Symmetric.
inline constexpr std::string_view hessian = "hessian";
/// [K, K], sum of r_t (x_t - y_t)^T y_t divided by the sum of r_t, with x the
/// inputs in the original model and y those behind what is quantized already,
/// by which the Hessian of the same file is then, too.
inline constexpr std::string_view drift = "drift";
/// [N, K], sum of r_t (u_t - v_t)^T y_t divided by the sum of r_t, with y as
/// for drift, u what the outputs are added to in the original model (the
/// residual stream) and v the same behind what is quantized already. Only of
/// linears whose outputs are added to something.
inline constexpr std::string_view residualDrift = "residual-drift";
/// [N, K], mean over the samples of the square of the loss's gradient with
/// respect to the weight.
inline constexpr std::string_view fisher = "fisher";
/// [N], mean over the tokens of g_n^2 x x^T, g_n the gradient with respect to
/// output n at the token, of the loss of tokens drawn from the predictions: the
/// sum over k of the Fisher information of W_nk, token by token.
inline constexpr std::string_view rowFisher = "row-fisher";
/// [S, K], the inputs of some tokens, drawn at random.
inline constexpr std::string_view inputs = "inputs";

/// Those whose shape follows from that of the weight (getShape), and the
/// others, whose rows are up to the file.
inline constexpr std::string_view ofWeightShape[] = {
    absMax,  absMean, mean,          min,    max,
    hessian, drift,   residualDrift, fisher, rowFisher};
inline constexpr std::string_view ofAnyRows[] = {quantiles, inputs};

/// Whether linears with the same input have each their own.
inline bool isOfWeight(std::string_view name) {
  return name == fisher || name == rowFisher || name == residualDrift;
}

/// The shape of a statistic of ofWeightShape, of a linear with n outputs and k
/// inputs.
inline std::vector<int64_t> getShape(std::string_view name, int64_t n,
                                     int64_t k) {
  if (name == hessian || name == drift)
    return {k, k};
  if (name == fisher || name == residualDrift)
    return {n, k};
  if (name == rowFisher)
    return {n};
  return {k};
}
} // namespace statistic

/// A calibration file, mapped. What it says of itself is checked when it is
/// opened, a tensor when it is read. Safe to use from several threads.
class CalibrationFile {
public:
  static constexpr std::string_view schema = "quant_llm.calibration/1";

  static Result<CalibrationFile> open(const std::string &path);

  const std::string &path() const { return file.path(); }
  /// The Fingerprint of the model that was run.
  const std::string &model() const { return modelFingerprint; }
  /// An error unless `fingerprint` is that of the model that was run.
  Status checkModel(std::string_view fingerprint) const;

  /// What it was run on.
  int64_t numTokens() const { return tokens; }
  int64_t numSamples() const { return samples; }
  /// The longest sample, in tokens.
  int64_t length() const { return longest; }
  uint64_t seed() const { return randomSeed; }
  /// Whether tokens had weights other than 1.
  bool isTokenWeighted() const { return tokenWeighted; }
  /// The fractions of statistic::quantiles, rising; empty if there are none.
  const std::vector<double> &quantiles() const { return fractions; }

  /// The parameters of which something is known, sorted.
  std::vector<std::string> parameters() const;
  /// The statistics of a parameter, sorted; empty if nothing is known of it.
  std::vector<std::string> statistics(std::string_view parameter) const;
  bool contains(std::string_view statistic, std::string_view parameter) const;
  /// The parameter with the stored statistics of the inputs of this one: itself
  /// or what it is an alias of.
  std::string getOwner(std::string_view parameter) const;
  /// The shape of a tensor of the file.
  Result<std::vector<int64_t>> getShape(std::string_view statistic,
                                        std::string_view parameter) const;
  /// All that the file says of itself, docs/Calibration.md.
  const std::map<std::string, std::string> &metadata() const {
    return file.metadata();
  }

  /// Whether the file has this tensor, with the type and the shape that read()
  /// asks for. Its values are not looked at.
  Status checkShape(std::string_view statistic, std::string_view parameter,
                    const std::vector<int64_t> &shape) const;
  /// A tensor of the file, which must have this shape and finite values. Of the
  /// statistics above it is also checked that they can be what they are said to
  /// be: no negative magnitude, no asymmetric Hessian.
  Result<std::vector<float>> read(std::string_view statistic,
                                  std::string_view parameter,
                                  const std::vector<int64_t> &shape) const;
  /// A statistic [channels].
  Result<std::vector<float>> readChannels(std::string_view statistic,
                                          std::string_view parameter,
                                          int64_t channels) const {
    return read(statistic, parameter, {channels});
  }
  /// statistic::inputs, [rows, channels]; the number of rows is that of the
  /// file.
  Result<std::vector<float>> readInputs(std::string_view parameter,
                                        int64_t channels) const;

  /// The channels that were 0 in every token, by statistic::absMax.
  Result<std::vector<int64_t>> findDeadChannels(std::string_view parameter,
                                                int64_t channels) const;

private:
  explicit CalibrationFile(SafetensorsFile file) : file(std::move(file)) {}
  Status readMetadata();
  Status readAliases(const std::string &json);
  Result<const TensorView *> find(std::string_view statistic,
                                  std::string_view parameter) const;
  Status fail(std::string_view statistic, std::string_view parameter,
              const std::string &message) const;

  SafetensorsFile file;
  std::string modelFingerprint;
  int64_t tokens = 0, samples = 0, longest = 0;
  uint64_t randomSeed = 0;
  bool tokenWeighted = false;
  std::vector<double> fractions;
  /// Statistics by parameter, without aliases.
  std::map<std::string, std::map<std::string, const TensorView *, std::less<>>,
           std::less<>>
      known;
  /// Parameters whose linears have the input of another one's.
  std::map<std::string, std::string, std::less<>> aliases;
};

} // namespace quant_llm

#endif // QUANT_LLM_FORMATS_CALIBRATIONFILE_H
