// Kernels that work row by row: norms, rotary embedding, cross-entropy, and moving rows about.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "floating.hpp"
#include "lanes.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "threads.hpp"

namespace nmoe::ops::cpu {

namespace {

/// One row: prepare(i, n) gives lanes [i, i + n) of what is normed, which `row` holds afterwards.
template <typename T, typename F>
void norm_row(T* y, float* inv_rms, const T* row, const T* w, std::int64_t width, double eps, F&& prepare) {
  Lanes squares{};
  for_lanes(width, [&](std::int64_t i, auto n) {
    const Lanes value = prepare(i, n);
    squares += value * value;
  });
  const float inverse = 1.0F / std::sqrt(sum(squares) / static_cast<float>(width) + static_cast<float>(eps));
  *inv_rms = inverse;
  for_lanes(width, [&](std::int64_t i, auto n) {
    store_n(y + i, load_n(row + i, n) * inverse * load_n(w + i, n), n);
  });
}

}  // namespace

void rms_norm_forward(TensorView y, TensorView inv_rms, ConstTensorView x, ConstTensorView w, double eps,
                      Stream& stream) {
  if (x.dtype() == DType::float64) return reference::rms_norm_forward(y, inv_rms, x, w, eps, stream);
  const std::int64_t rows = x.dim(0), width = x.dim(1);
  visit_fast(x.dtype(), [&]<typename T>() {
    parallel_for(rows, rows * width, [&](std::int64_t t) {
      const T* row = x.data<T>() + t * width;
      norm_row(y.data<T>() + t * width, inv_rms.data<float>() + t, row, w.data<T>(), width, eps,
               [&](std::int64_t i, auto n) { return load_n(row + i, n); });
    });
  });
}

void add_rms_norm_forward(TensorView y, TensorView inv_rms, TensorView x, ConstTensorView residual,
                          ConstTensorView w, double eps, Stream& stream) {
  if (x.dtype() == DType::float64)
    return reference::add_rms_norm_forward(y, inv_rms, x, residual, w, eps, stream);
  const std::int64_t rows = x.dim(0), width = x.dim(1);
  visit_fast(x.dtype(), [&]<typename T>() {
    parallel_for(rows, rows * width, [&](std::int64_t t) {
      T* row = x.data<T>() + t * width;
      const T* more = residual.data<T>() + t * width;
      norm_row(y.data<T>() + t * width, inv_rms.data<float>() + t, row, w.data<T>(), width, eps,
               [&](std::int64_t i, auto n) {
                 store_n(row + i, load_n(row + i, n) + load_n(more + i, n), n);
                 return load_n(row + i, n);  // rounded to T
               });
    });
  });
}

void rms_norm_backward(TensorView dx, TensorView dw, ConstTensorView dy, ConstTensorView x, ConstTensorView w,
                       ConstTensorView inv_rms, bool accumulate, Stream& stream) {
  if (x.dtype() == DType::float64)
    return reference::rms_norm_backward(dx, dw, dy, x, w, inv_rms, accumulate, stream);
  const std::int64_t rows = x.dim(0), width = x.dim(1);
  visit_fast(x.dtype(), [&]<typename T>() {
    const T *pg = dy.data<T>(), *px = x.data<T>(), *pw = w.data<T>();
    const float* pi = inv_rms.data<float>();
    T* pd = dx.data<T>();
    if (dw) {  // before dx: it may overwrite dy
      float* out = dw.data<float>();
      parallel_columns(width, rows, [&](std::int64_t first, std::int64_t last) {
        for_lanes(last - first, [&](std::int64_t i, auto n) {
          Lanes total{};
          for (std::int64_t t = 0; t < rows; ++t) {
            const std::int64_t at = t * width + first + i;
            total += load_n(pg + at, n) * (load_n(px + at, n) * pi[t]);
          }
          store_n(out + first + i, load_n(out + first + i, n) + total, n);
        });
      });
    }
    parallel_for(rows, rows * width, [&](std::int64_t t) {
      const std::int64_t at = t * width;
      Lanes products{};
      for_lanes(width, [&](std::int64_t i, auto n) {
        products += load_n(pg + at + i, n) * load_n(pw + i, n) * load_n(px + at + i, n);
      });
      const float inverse = pi[t], shrink = sum(products) * inverse * inverse / static_cast<float>(width);
      for_lanes(width, [&](std::int64_t i, auto n) {
        Lanes grad = inverse * (load_n(pg + at + i, n) * load_n(pw + i, n) - load_n(px + at + i, n) * shrink);
        if (accumulate) grad += load_n(pd + at + i, n);
        store_n(pd + at + i, grad, n);
      });
    });
  });
}

void rope_apply(TensorView x, ConstTensorView positions, ConstTensorView cos, ConstTensorView sin,
                bool inverse, Stream& stream) {
  if (x.dtype() == DType::float64) return reference::rope_apply(x, positions, cos, sin, inverse, stream);
  const std::int64_t rows = x.dim(0), heads = x.dim(1), width = x.dim(2), half = width / 2;
  const float sign = inverse ? -1.0F : 1.0F;
  visit_fast(x.dtype(), [&]<typename T>() {
    T* px = x.data<T>();
    const auto* where = positions.data<std::int32_t>();
    const float *pc = cos.data<float>(), *ps = sin.data<float>();
    parallel_for(rows, rows * heads * width, [&](std::int64_t t) {
      const float *c = pc + where[t] * half, *s = ps + where[t] * half;
      for (std::int64_t h = 0; h < heads; ++h) {
        T *first = px + (t * heads + h) * width, *second = first + half;
        for_lanes(half, [&](std::int64_t i, auto n) {
          const Lanes a = load_n(first + i, n), b = load_n(second + i, n);
          const Lanes cosine = load_n(c + i, n), sine = load_n(s + i, n) * sign;
          store_n(first + i, a * cosine - b * sine, n);
          store_n(second + i, b * cosine + a * sine, n);
        });
      }
    });
  });
}

namespace {

template <typename T>
float row_maximum(const T* row, std::int64_t width) {
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  Lanes largest = splat(lowest);
  for_lanes(width, [&](std::int64_t i, auto n) { largest = maximum(load_n(row + i, n, lowest), largest); });
  return maximum(largest);
}

template <typename T>
float cross_entropy_row(T* row, std::int64_t width, std::int32_t label, float grad_scale) {
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  if (label < 0) {
    if (grad_scale != 0.0F) std::fill_n(row, width, T(0.0F));
    return 0.0F;
  }
  const float largest = row_maximum(row, width), at_label = to_acc(row[label]);
  // float32 keeps e^(x−max) in the row for the second pass; bfloat16 would round it, so it computes it twice.
  constexpr bool keep = std::is_same_v<T, float>;
  Lanes sums{};
  for_lanes(width, [&](std::int64_t i, auto n) {
    const Lanes e = exp(load_n(row + i, n, lowest) - largest);
    if (keep && grad_scale != 0.0F) store_n(row + i, e, n);
    sums += e;
  });
  const float total = sum(sums);
  if (grad_scale != 0.0F) {
    const float factor = grad_scale / total;
    for_lanes(width, [&](std::int64_t i, auto n) {
      const Lanes value = load_n(row + i, n);
      store_n(row + i, (keep ? value : exp(value - largest)) * factor, n);
    });
    row[label] = T(grad_scale * (std::exp(at_label - largest) / total - 1.0F));
  }
  return std::log(total) - (at_label - largest);
}

}  // namespace

void cross_entropy(TensorView losses, TensorView logits, ConstTensorView labels, double grad_scale,
                   Stream& stream) {
  if (logits.dtype() == DType::float64)
    return reference::cross_entropy(losses, logits, labels, grad_scale, stream);
  const std::int64_t rows = logits.dim(0), width = logits.dim(1);
  visit_fast(logits.dtype(), [&]<typename T>() {
    T* p = logits.data<T>();
    const auto* label = labels.data<std::int32_t>();
    float* out = losses.data<float>();
    parallel_for(rows, rows * width, [&](std::int64_t t) {
      out[t] = cross_entropy_row(p + t * width, width, label[t], static_cast<float>(grad_scale));
    });
  });
}

void gather_rows(TensorView rows, ConstTensorView x, ConstTensorView token_of_row, Stream&) {
  const std::int64_t count = rows.dim(0), bytes = rows.dim(1) * size_of(x.dtype());
  const auto* from = static_cast<const char*>(x.raw());
  auto* to = static_cast<char*>(rows.raw());
  const auto* token = token_of_row.data<std::int32_t>();
  if (bytes == 0) return;
  parallel_for(count, rows.num_elements(), [&](std::int64_t n) {
    std::memcpy(to + n * bytes, from + token[n] * bytes, static_cast<std::size_t>(bytes));
  });
}

void embedding_forward(TensorView y, ConstTensorView ids, ConstTensorView table, Stream& stream) {
  gather_rows(y, table, ids, stream);
}

void embedding_backward(TensorView dtable, ConstTensorView dy, ConstTensorView ids, Stream& stream) {
  if (dy.dtype() == DType::float64) return reference::embedding_backward(dtable, dy, ids, stream);
  const std::int64_t rows = dy.dim(0), width = dy.dim(1);
  visit_fast(dy.dtype(), [&]<typename T>() {
    const T* in = dy.data<T>();
    float* out = dtable.data<float>();
    const auto* id = ids.data<std::int32_t>();
    constexpr std::int64_t block = 1024;
    parallel_for((width + block - 1) / block, rows * width, [&](std::int64_t b) {
      const std::int64_t first = b * block, size = std::min(block, width - first);
      for (std::int64_t t = 0; t < rows; ++t) {
        const T* from = in + t * width + first;
        float* to = out + id[t] * width + first;
        for_lanes(size, [&](std::int64_t i, auto n) {
          store_n(to + i, load_n(to + i, n) + load_n(from + i, n), n);
        });
      }
    });
  });
}

}  // namespace nmoe::ops::cpu
