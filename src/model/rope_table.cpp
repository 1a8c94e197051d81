// Rotary frequencies, plain or scaled, and the table of their cosines and sines.
#include "neuronmoe/model/rope_table.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "neuronmoe/tensor/device.hpp"

namespace nmoe::model {

std::vector<double> rope_inverse_frequencies(const ModelConfig& config) {
  const int half = config.head_dim / 2;
  const RopeScaling& scaling = config.rope_scaling;
  std::vector<double> inv_freq(static_cast<std::size_t>(half));
  for (int i = 0; i < half; ++i) {
    double f = std::pow(config.rope_theta, -2.0 * i / config.head_dim);
    if (scaling.type == "linear") f /= scaling.factor;
    if (scaling.type == "llama3") {
      const double wavelength = 2.0 * std::numbers::pi / f;
      const double context = static_cast<double>(scaling.original_max_position_embeddings);
      if (wavelength > context / scaling.low_freq_factor) {
        f /= scaling.factor;
      } else if (wavelength >= context / scaling.high_freq_factor) {
        const double smooth = (context / wavelength - scaling.low_freq_factor) /
                              (scaling.high_freq_factor - scaling.low_freq_factor);
        f = (1.0 - smooth) * f / scaling.factor + smooth * f;
      }
    }
    inv_freq[static_cast<std::size_t>(i)] = f;
  }
  return inv_freq;
}

RopeTable::RopeTable(const ModelConfig& config, DType acc)
    : inv_freq_(rope_inverse_frequencies(config)), acc_(acc) {}

void RopeTable::reserve(std::int64_t num_positions, Stream& stream) {
  if (num_positions <= num_positions_) return;
  num_positions_ = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(num_positions)));
  const auto half = static_cast<std::int64_t>(inv_freq_.size());
  Tensor cosines({num_positions_, half}, acc_), sines({num_positions_, half}, acc_);
  for (std::int64_t p = 0; p < num_positions_; ++p) {
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * inv_freq_[static_cast<std::size_t>(i)];
      const std::int64_t at = p * half + i;
      if (acc_ == DType::float64) {
        cosines.data<double>()[at] = std::cos(angle);
        sines.data<double>()[at] = std::sin(angle);
      } else {
        cosines.data<float>()[at] = static_cast<float>(std::cos(angle));
        sines.data<float>()[at] = static_cast<float>(std::sin(angle));
      }
    }
  }
  cos_ = copied_to(stream.device(), cosines.view(), stream);
  sin_ = copied_to(stream.device(), sines.view(), stream);
}

}  // namespace nmoe::model
