#pragma once
// A dense decoder for one sequence, written down loop by loop in float64, with outputs of projections
// replaced wherever it is told (METHOD 1.3, 1.9). Shares no code with the decoder but its weights. Used by
// tests/unit/test_model_interventions.cpp.
#include <cmath>
#include <functional>
#include <vector>

#include "neuronmoe/model/decoder.hpp"

namespace nmoe::test {

using Rows = std::vector<std::vector<double>>;  ///< [tokens][outputs]
/// Called with every projection's outputs, before they are used.
using Touch = std::function<void(int layer, model::Projection projection, Rows& outputs)>;

class NaiveForward {
 public:
  NaiveForward(model::Decoder& decoder, Touch touch)
      : decoder_(decoder), c_(decoder.config()), touch_(std::move(touch)) {}

  /// Natural logarithms of the probabilities of what follows each token, [tokens][vocabulary].
  Rows log_probs(const std::vector<std::int32_t>& ids) const {
    const Rows table = matrix(model::Role::embedding, -1);
    Rows x;
    for (const std::int32_t id : ids) x.push_back(table[static_cast<std::size_t>(id)]);
    for (int l = 0; l < c_.num_layers; ++l) {
      x = sum(x, attention(l, norm(x, model::Role::attention_norm, l)));
      const Rows hn = norm(x, model::Role::mlp_norm, l);
      Rows h = product(hn, model::Role::gate, l, model::Projection::gate);
      const Rows up = product(hn, model::Role::up, l, model::Projection::up);
      for (std::size_t t = 0; t < h.size(); ++t)
        for (std::size_t i = 0; i < h[t].size(); ++i) h[t][i] *= up[t][i] / (1.0 + std::exp(-h[t][i]));
      x = sum(x, product(h, model::Role::down, l, model::Projection::down));
    }
    Rows logits = multiply(norm(x, model::Role::final_norm, -1), table);  // the head is tied
    for (auto& row : logits) {
      double total = 0.0;
      for (const double value : row) total += std::exp(value);
      for (double& value : row) value -= std::log(total);
    }
    return logits;
  }

 private:
  Rows matrix(model::Role role, int layer) const {
    const model::Parameter& p = decoder_.parameter(role, layer);
    const std::int64_t width = p.shape.rank() == 1 ? p.shape[0] : p.shape[1];
    Rows rows;
    for (std::int64_t i = 0; i < p.shape.num_elements(); i += width)
      rows.emplace_back(p.value.data<double>() + i, p.value.data<double>() + i + width);
    return rows;
  }
  static Rows multiply(const Rows& x, const Rows& weight) {
    Rows y(x.size(), std::vector<double>(weight.size(), 0.0));
    for (std::size_t t = 0; t < x.size(); ++t)
      for (std::size_t i = 0; i < weight.size(); ++i)
        for (std::size_t d = 0; d < x[t].size(); ++d) y[t][i] += x[t][d] * weight[i][d];
    return y;
  }
  Rows product(const Rows& x, model::Role role, int layer, model::Projection projection) const {
    Rows y = multiply(x, matrix(role, layer));
    touch_(layer, projection, y);
    return y;
  }
  static Rows sum(Rows a, const Rows& b) {
    for (std::size_t t = 0; t < a.size(); ++t)
      for (std::size_t i = 0; i < a[t].size(); ++i) a[t][i] += b[t][i];
    return a;
  }
  Rows norm(Rows x, model::Role role, int layer) const {
    const std::vector<double> weight = matrix(role, layer).front();
    for (auto& row : x) {
      double squares = 0.0;
      for (const double value : row) squares += value * value;
      const double scale = 1.0 / std::sqrt(squares / static_cast<double>(row.size()) + c_.rms_norm_eps);
      for (std::size_t d = 0; d < row.size(); ++d) row[d] *= scale * weight[d];
    }
    return x;
  }
  void rotate(Rows& x) const {
    const auto d = static_cast<std::size_t>(c_.head_dim), half = d / 2;
    for (std::size_t t = 0; t < x.size(); ++t) {
      for (std::size_t head = 0; head < x[t].size(); head += d) {
        for (std::size_t i = 0; i < half; ++i) {
          const double angle =
              static_cast<double>(t) *
              std::pow(c_.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(d));
          double &a = x[t][head + i], &b = x[t][head + i + half];
          const double turned = a * std::cos(angle) - b * std::sin(angle);
          b = b * std::cos(angle) + a * std::sin(angle);
          a = turned;
        }
      }
    }
  }
  Rows attention(int layer, const Rows& x) const {
    Rows q = product(x, model::Role::q_weight, layer, model::Projection::q),
         k = product(x, model::Role::k_weight, layer, model::Projection::k);
    const Rows v = product(x, model::Role::v_weight, layer, model::Projection::v);
    rotate(q);
    rotate(k);
    const auto d = static_cast<std::size_t>(c_.head_dim);
    const auto shared = static_cast<std::size_t>(c_.num_attention_heads / c_.num_key_value_heads);
    Rows o(x.size(), std::vector<double>(q.front().size(), 0.0));
    for (std::size_t t = 0; t < x.size(); ++t) {
      for (std::size_t h = 0; h < static_cast<std::size_t>(c_.num_attention_heads); ++h) {
        const std::size_t mine = h * d, theirs = h / shared * d;
        std::vector<double> weights;
        double total = 0.0;
        for (std::size_t s = 0; s <= t; ++s) {
          double score = 0.0;
          for (std::size_t i = 0; i < d; ++i) score += q[t][mine + i] * k[s][theirs + i];
          weights.push_back(std::exp(score / std::sqrt(static_cast<double>(d))));
          total += weights.back();
        }
        for (std::size_t s = 0; s <= t; ++s)
          for (std::size_t i = 0; i < d; ++i) o[t][mine + i] += weights[s] / total * v[s][theirs + i];
      }
    }
    return product(o, model::Role::o_weight, layer, model::Projection::o);
  }

  model::Decoder& decoder_;
  const model::ModelConfig& c_;
  Touch touch_;
};

}  // namespace nmoe::test
