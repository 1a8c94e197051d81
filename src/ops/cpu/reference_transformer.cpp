// Plain loops of the dense decoder.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "floating.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops::reference {

using cpu::acc_t;
using cpu::convert;
using cpu::to_acc;
using cpu::visit_floating;

void embedding_forward(TensorView y, ConstTensorView ids, ConstTensorView table, Stream& stream) {
  gather_rows(y, table, ids, stream);
}

void embedding_backward(TensorView dtable, ConstTensorView dy, ConstTensorView ids, Stream&) {
  const std::int64_t tokens = dy.dim(0), width = dy.dim(1);
  visit_floating(dy.dtype(), [&]<typename T>() {
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::int64_t id = ids.data<std::int32_t>()[t];
      for (std::int64_t d = 0; d < width; ++d) {
        dtable.data<acc_t<T>>()[id * width + d] += to_acc(dy.data<T>()[t * width + d]);
      }
    }
  });
}

void rms_norm_forward(TensorView y, TensorView inv_rms, ConstTensorView x, ConstTensorView w, double eps,
                      Stream&) {
  const std::int64_t rows = x.dim(0), width = x.dim(1);
  visit_floating(x.dtype(), [&]<typename T>() {
    using A = acc_t<T>;
    const T *px = x.data<T>(), *pw = w.data<T>();
    T* py = y.data<T>();
    A* pi = inv_rms.data<A>();
    for (std::int64_t t = 0; t < rows; ++t) {
      const T* row = px + t * width;
      A squares = 0;
      for (std::int64_t d = 0; d < width; ++d) squares += to_acc(row[d]) * to_acc(row[d]);
      const A inverse = A(1) / std::sqrt(squares / A(width) + A(eps));
      pi[t] = inverse;
      for (std::int64_t d = 0; d < width; ++d) {
        py[t * width + d] = convert<T>(to_acc(row[d]) * inverse * to_acc(pw[d]));
      }
    }
  });
}

void add_rms_norm_forward(TensorView y, TensorView inv_rms, TensorView x, ConstTensorView residual,
                          ConstTensorView w, double eps, Stream& stream) {
  add_inplace(x, residual, stream);
  rms_norm_forward(y, inv_rms, x, w, eps, stream);
}

// y = r·x·w with r = (mean(x²) + eps)^(-1/2), so dr/dx_i = −r³ x_i / D and
// dx_i = r (dy_i w_i − x_i · r²/D · Σ_d dy_d w_d x_d),   dw_d = Σ_t dy_d x_d r.
void rms_norm_backward(TensorView dx, TensorView dw, ConstTensorView dy, ConstTensorView x, ConstTensorView w,
                       ConstTensorView inv_rms, bool accumulate, Stream&) {
  const std::int64_t rows = x.dim(0), width = x.dim(1);
  visit_floating(x.dtype(), [&]<typename T>() {
    using A = acc_t<T>;
    const T *pg = dy.data<T>(), *px = x.data<T>(), *pw = w.data<T>();
    const A* pi = inv_rms.data<A>();
    T* pd = dx.data<T>();
    for (std::int64_t d = 0; dw && d < width; ++d) {
      A sum = 0;
      for (std::int64_t t = 0; t < rows; ++t) {
        sum += to_acc(pg[t * width + d]) * (to_acc(px[t * width + d]) * pi[t]);
      }
      dw.data<A>()[d] += sum;
    }
    for (std::int64_t t = 0; t < rows; ++t) {
      const std::int64_t at = t * width;
      A dot = 0;
      for (std::int64_t d = 0; d < width; ++d) {
        dot += to_acc(pg[at + d]) * to_acc(pw[d]) * to_acc(px[at + d]);
      }
      const A shrink = dot * pi[t] * pi[t] / A(width);
      for (std::int64_t d = 0; d < width; ++d) {
        A grad = pi[t] * (to_acc(pg[at + d]) * to_acc(pw[d]) - to_acc(px[at + d]) * shrink);
        if (accumulate) grad += to_acc(pd[at + d]);
        pd[at + d] = convert<T>(grad);
      }
    }
  });
}

void rope_apply(TensorView x, ConstTensorView positions, ConstTensorView cos, ConstTensorView sin,
                bool inverse, Stream&) {
  const std::int64_t rows = x.dim(0), heads = x.dim(1), width = x.dim(2), half = width / 2;
  visit_floating(x.dtype(), [&]<typename T>() {
    using A = acc_t<T>;
    for (std::int64_t t = 0; t < rows; ++t) {
      const std::int64_t at = positions.data<std::int32_t>()[t] * half;
      for (std::int64_t h = 0; h < heads; ++h) {
        T* head = x.data<T>() + (t * heads + h) * width;
        for (std::int64_t i = 0; i < half; ++i) {
          const A c = cos.data<A>()[at + i], s = inverse ? -sin.data<A>()[at + i] : sin.data<A>()[at + i];
          const A first = to_acc(head[i]), second = to_acc(head[i + half]);
          head[i] = convert<T>(first * c - second * s);
          head[i + half] = convert<T>(second * c + first * s);
        }
      }
    }
  });
}

namespace {
template <typename T>
acc_t<T> dot_product(const T* a, const T* b, std::int64_t n) {
  acc_t<T> sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += to_acc(a[i]) * to_acc(b[i]);
  return sum;
}

/// One query over `keys` keys, the j-th at k + at(j), its value at v + at(j). Returns the log-sum-exp of the
/// scaled scores.
template <typename T, typename At>
acc_t<T> attend(T* o, const T* q, const T* k, const T* v, std::int64_t keys, const At& at, std::int64_t width,
                acc_t<T> scale) {
  using A = acc_t<T>;
  std::vector<A> p(static_cast<std::size_t>(keys));
  A largest = -std::numeric_limits<A>::infinity(), total = 0;
  for (std::int64_t j = 0; j < keys; ++j) {
    p[static_cast<std::size_t>(j)] = dot_product(q, k + at(j), width) * scale;
    largest = std::max(largest, p[static_cast<std::size_t>(j)]);
  }
  for (A& value : p) total += value = std::exp(value - largest);
  for (std::int64_t i = 0; i < width; ++i) {
    A sum = 0;
    for (std::int64_t j = 0; j < keys; ++j) sum += p[static_cast<std::size_t>(j)] * to_acc(v[at(j) + i]);
    o[i] = convert<T>(sum / total);
  }
  return largest + std::log(total);
}
}  // namespace

void attention_forward(TensorView o, TensorView lse, ConstTensorView q, ConstTensorView k, ConstTensorView v,
                       std::span<const std::int64_t> offsets, double scale, Stream&) {
  const std::int64_t heads = q.dim(1), kv_heads = k.dim(1), width = q.dim(2);
  visit_floating(q.dtype(), [&]<typename T>() {
    using A = acc_t<T>;
    for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
      for (std::int64_t t = offsets[b]; t < offsets[b + 1]; ++t) {
        for (std::int64_t h = 0; h < heads; ++h) {
          const std::int64_t at = (t * heads + h) * width;
          const std::int64_t kv = (offsets[b] * kv_heads + h / (heads / kv_heads)) * width;
          const auto row = [&](std::int64_t j) { return j * kv_heads * width; };
          lse.data<A>()[t * heads + h] = attend(o.data<T>() + at, q.data<T>() + at, k.data<T>() + kv,
                                                v.data<T>() + kv, t - offsets[b] + 1, row, width, A(scale));
        }
      }
    }
  });
}

void attention_prefixed_forward(TensorView o, ConstTensorView q, ConstTensorView k, ConstTensorView v,
                                std::span<const PrefixedSequence> sequences, double scale, Stream&) {
  const std::int64_t heads = q.dim(1), kv_heads = k.dim(1), width = q.dim(2);
  visit_floating(q.dtype(), [&]<typename T>() {
    for (const PrefixedSequence& s : sequences) {
      const auto row = [&](std::int64_t j) {
        return (j < s.prefix_length ? s.prefix + j : s.own + j - s.prefix_length) * kv_heads * width;
      };
      for (std::int64_t t = 0; t < s.length; ++t) {
        for (std::int64_t h = 0; h < heads; ++h) {
          const std::int64_t at = ((s.first + t) * heads + h) * width, kv = h / (heads / kv_heads) * width;
          attend(o.data<T>() + at, q.data<T>() + at, k.data<T>() + kv, v.data<T>() + kv,
                 s.prefix_length + t + 1, row, width, acc_t<T>(scale));
        }
      }
    }
  });
}

// p_ij = exp(s_ij − lse_i), o_i = Σ_j p_ij v_j. Then dv_j = Σ_i p_ij do_i, dp_ij = do_i·v_j,
// ds_ij = p_ij (dp_ij − do_i·o_i), dq_i = scale Σ_j ds_ij k_j, dk_j = scale Σ_i ds_ij q_i.
void attention_backward(TensorView dq, TensorView dk, TensorView dv, ConstTensorView d_o, ConstTensorView o,
                        ConstTensorView q, ConstTensorView k, ConstTensorView v, ConstTensorView lse,
                        std::span<const std::int64_t> offsets, double scale, Stream&) {
  const std::int64_t tokens = q.dim(0), heads = q.dim(1), kv_heads = k.dim(1), width = q.dim(2);
  visit_floating(q.dtype(), [&]<typename T>() {
    using A = acc_t<T>;
    const auto size_kv = static_cast<std::size_t>(tokens * kv_heads * width);
    std::vector<A> sum_k(size_kv), sum_v(size_kv), sum_q(static_cast<std::size_t>(width));
    for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t t = offsets[b]; t < offsets[b + 1]; ++t) {
          const std::int64_t at = (t * heads + h) * width;
          const T *pq = q.data<T>() + at, *pg = d_o.data<T>() + at;
          const A delta = dot_product(pg, o.data<T>() + at, width);
          std::fill(sum_q.begin(), sum_q.end(), A(0));
          for (std::int64_t j = offsets[b]; j <= t; ++j) {
            const std::int64_t kv = (j * kv_heads + h / (heads / kv_heads)) * width;
            const T *pk = k.data<T>() + kv, *pv = v.data<T>() + kv;
            const A p = std::exp(dot_product(pq, pk, width) * A(scale) - lse.data<A>()[t * heads + h]);
            const A ds = p * (dot_product(pg, pv, width) - delta) * A(scale);
            for (std::int64_t i = 0; i < width; ++i) {
              sum_q[static_cast<std::size_t>(i)] += ds * to_acc(pk[i]);
              sum_k[static_cast<std::size_t>(kv + i)] += ds * to_acc(pq[i]);
              sum_v[static_cast<std::size_t>(kv + i)] += p * to_acc(pg[i]);
            }
          }
          for (std::int64_t i = 0; i < width; ++i) {
            dq.data<T>()[at + i] = convert<T>(sum_q[static_cast<std::size_t>(i)]);
          }
        }
      }
    }
    for (std::size_t i = 0; i < size_kv; ++i) {
      dk.data<T>()[i] = convert<T>(sum_k[i]);
      dv.data<T>()[i] = convert<T>(sum_v[i]);
    }
  });
}

void swiglu_forward(TensorView h, ConstTensorView gate, ConstTensorView up, Stream&) {
  visit_floating(h.dtype(), [&]<typename T>() {
    using A = acc_t<T>;
    for (std::int64_t i = 0; i < h.num_elements(); ++i) {
      const A g = to_acc(gate.data<T>()[i]), u = to_acc(up.data<T>()[i]);
      h.data<T>()[i] = convert<T>(g / (A(1) + std::exp(-g)) * u);
    }
  });
}

// SiLU(g) = g·σ(g), SiLU'(g) = σ(g) (1 + g (1 − σ(g))).
void swiglu_backward(TensorView dgate, TensorView dup, ConstTensorView dh, ConstTensorView gate,
                     ConstTensorView up, Stream&) {
  visit_floating(dh.dtype(), [&]<typename T>() {
    using A = acc_t<T>;
    for (std::int64_t i = 0; i < dh.num_elements(); ++i) {
      const A grad = to_acc(dh.data<T>()[i]), g = to_acc(gate.data<T>()[i]), u = to_acc(up.data<T>()[i]);
      const A sigma = A(1) / (A(1) + std::exp(-g));
      dgate.data<T>()[i] = convert<T>(grad * u * sigma * (A(1) + g * (A(1) - sigma)));
      dup.data<T>()[i] = convert<T>(grad * g * sigma);
    }
  });
}

void cross_entropy(TensorView losses, TensorView logits, ConstTensorView labels, double grad_scale, Stream&) {
  const std::int64_t rows = logits.dim(0), vocab = logits.dim(1);
  visit_floating(logits.dtype(), [&]<typename T>() {
    using A = acc_t<T>;
    for (std::int64_t t = 0; t < rows; ++t) {
      T* row = logits.data<T>() + t * vocab;
      const std::int32_t label = labels.data<std::int32_t>()[t];
      A largest = -std::numeric_limits<A>::infinity(), total = 0;
      for (std::int64_t c = 0; c < vocab; ++c) largest = std::max(largest, to_acc(row[c]));
      for (std::int64_t c = 0; c < vocab; ++c) total += std::exp(to_acc(row[c]) - largest);
      losses.data<A>()[t] = label < 0 ? A(0) : std::log(total) - (to_acc(row[label]) - largest);
      if (grad_scale == 0.0) continue;
      for (std::int64_t c = 0; c < vocab; ++c) {
        const A p = std::exp(to_acc(row[c]) - largest) / total;
        row[c] = convert<T>(label < 0 ? A(0) : A(grad_scale) * (p - A(c == label ? 1 : 0)));
      }
    }
  });
}

void argmax_rows(TensorView columns, ConstTensorView logits, Stream&) {
  const std::int64_t rows = logits.dim(0), width = logits.dim(1);
  visit_floating(logits.dtype(), [&]<typename T>() {
    for (std::int64_t t = 0; t < rows; ++t) {
      const T* row = logits.data<T>() + t * width;
      std::int64_t best = 0;
      for (std::int64_t c = 1; c < width; ++c) {
        if (to_acc(row[c]) > to_acc(row[best])) best = c;
      }
      columns.data<std::int32_t>()[t] = static_cast<std::int32_t>(best);
    }
  });
}

void add_inplace(TensorView y, ConstTensorView x, Stream&) {
  visit_floating(y.dtype(), [&]<typename Y>() {
    visit_floating(x.dtype(), [&]<typename X>() {
      using A = std::conditional_t<std::is_same_v<X, double>, double, acc_t<Y>>;
      for (std::int64_t i = 0; i < y.num_elements(); ++i) {
        y.data<Y>()[i] = convert<Y>(convert<A>(y.data<Y>()[i]) + convert<A>(x.data<X>()[i]));
      }
    });
  });
}

void cast(TensorView dst, ConstTensorView src, Stream&) {
  visit_floating(dst.dtype(), [&]<typename To>() {
    visit_floating(src.dtype(), [&]<typename From>() {
      for (std::int64_t i = 0; i < dst.num_elements(); ++i) {
        dst.data<To>()[i] = convert<To>(src.data<From>()[i]);
      }
    });
  });
}

void fill(TensorView x, double value, Stream&) {
  visit_floating(x.dtype(), [&]<typename T>() {
    for (std::int64_t i = 0; i < x.num_elements(); ++i) x.data<T>()[i] = convert<T>(value);
  });
}

void replace_columns(TensorView y, ConstTensorView columns, ConstTensorView values, Stream&) {
  const auto* column = columns.data<std::int32_t>();
  visit_floating(y.dtype(), [&]<typename T>() {
    for (std::int64_t t = 0; t < y.dim(0); ++t) {
      T* row = y.data<T>() + t * y.dim(1);
      for (std::int64_t u = 0; u < columns.num_elements(); ++u)
        row[column[u]] = convert<T>(values.data<acc_t<T>>()[u]);
    }
  });
}

}  // namespace nmoe::ops::reference
