// Linear layers on the matrix product of gemm.hpp.
#include <algorithm>

#include "floating.hpp"
#include "gemm.hpp"
#include "lanes.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace nmoe::ops::cpu {

namespace {

// Same matrix as float, in scratch memory of the calling thread. Only small operands come here (router
// weights, whose gradients are float32 in a bfloat16 model).
const float* as_float(ConstTensorView x) {
  if (x.dtype() == DType::float32) return x.data<float>();
  float* copy = scratch<float, Scratch::linear_wide>(x.num_elements());
  const auto* p = x.data<bfloat16>();
  for_lanes(x.num_elements(), [&](std::int64_t i, auto n) { store_n(copy + i, load_n(p + i, n), n); });
  return copy;
}

// C (bfloat16) = op(A)·op(B) (+ bias) (+ C): tiles of C are summed in float and rounded once.
template <typename T>
void gemm_rounded(const GemmShape& s, const T* a, const T* b, bfloat16* c, bool accumulate,
                  const bfloat16* bias) {
  constexpr std::int64_t tile_rows = 256, tile_columns = 1024;
  const std::int64_t down = (s.m + tile_rows - 1) / tile_rows,
                     across = (s.n + tile_columns - 1) / tile_columns;
  parallel_for(down * across, s.m * s.n * (s.k / 16 + 1), [&](std::int64_t tile) {
    const std::int64_t i = tile / across * tile_rows, j = tile % across * tile_columns;
    GemmShape piece = s;
    piece.m = std::min(tile_rows, s.m - i);
    piece.n = piece.ldc = std::min(tile_columns, s.n - j);
    float* sums = scratch<float, Scratch::linear_sums>(tile_rows * tile_columns);
    if (s.k > 0) {
      gemm_piece(piece, a + i * (s.transpose_a ? 1 : s.lda), b + j * (s.transpose_b ? s.ldb : 1), sums,
                 false);
    } else {
      std::fill_n(sums, piece.m * piece.n, 0.0F);
    }
    for (std::int64_t r = 0; r < piece.m; ++r) {
      bfloat16* row = c + (i + r) * s.ldc + j;
      for_lanes(piece.n, [&](std::int64_t x, auto n) {
        Lanes value = load_n(sums + r * piece.n + x, n);
        if (bias != nullptr) value += load_n(bias + j + x, n);
        if (accumulate) value += load_n(row + x, n);
        store_n(row + x, value, n);
      });
    }
  });
}

template <typename Y, typename T>
void add_bias(Y* y, const T* bias, std::int64_t rows, std::int64_t width) {
  parallel_for(rows, rows * width, [&](std::int64_t t) {
    for (std::int64_t b = 0; b < width; ++b) y[t * width + b] += static_cast<Y>(bias[b]);
  });
}

}  // namespace

void linear_forward(TensorView y, ConstTensorView x, ConstTensorView w, ConstTensorView bias, Stream&) {
  const std::int64_t rows = x.dim(0), in = x.dim(1), out = w.dim(0);
  const GemmShape shape{false, true, rows, out, in, in, in, out};
  visit_floating(x.dtype(), [&]<typename T>() {
    const T* pb = bias ? bias.data<T>() : nullptr;
    if (y.dtype() == DType::bfloat16) {
      gemm_rounded(shape, x.data<bfloat16>(), w.data<bfloat16>(), y.data<bfloat16>(), false,
                   bias ? bias.data<bfloat16>() : nullptr);
    } else {
      auto* py = y.data<acc_t<T>>();
      gemm(shape, x.data<T>(), w.data<T>(), py, false);
      if (pb != nullptr) add_bias(py, pb, rows, out);
    }
  });
}

void linear_backward_input(TensorView dx, ConstTensorView dy, ConstTensorView w, bool accumulate, Stream&) {
  const std::int64_t rows = dy.dim(0), in = w.dim(1), out = w.dim(0);
  const GemmShape shape{false, false, rows, in, out, out, in, in};
  if (dx.dtype() == DType::bfloat16) {
    if (dy.dtype() == DType::bfloat16) {
      gemm_rounded(shape, dy.data<bfloat16>(), w.data<bfloat16>(), dx.data<bfloat16>(), accumulate, nullptr);
    } else {
      gemm_rounded(shape, dy.data<float>(), as_float(w), dx.data<bfloat16>(), accumulate, nullptr);
    }
  } else if (dx.dtype() == DType::float64) {
    gemm(shape, dy.data<double>(), w.data<double>(), dx.data<double>(), accumulate);
  } else if (dy.dtype() == DType::bfloat16) {
    gemm(shape, dy.data<bfloat16>(), w.data<bfloat16>(), dx.data<float>(), accumulate);
  } else {
    gemm(shape, dy.data<float>(), as_float(w), dx.data<float>(), accumulate);
  }
}

void linear_backward_weight(TensorView dw, ConstTensorView dy, ConstTensorView x, Stream&) {
  const std::int64_t rows = x.dim(0), in = x.dim(1), out = dy.dim(1);
  const GemmShape shape{true, false, out, in, rows, out, in, in};
  if (dw.dtype() == DType::float64) {
    gemm(shape, dy.data<double>(), x.data<double>(), dw.data<double>(), true);
  } else if (dy.dtype() == DType::bfloat16) {
    gemm(shape, dy.data<bfloat16>(), x.data<bfloat16>(), dw.data<float>(), true);
  } else {
    gemm(shape, dy.data<float>(), as_float(x), dw.data<float>(), true);
  }
}

void linear_backward_bias(TensorView db, ConstTensorView dy, Stream& stream) {
  if (dy.dtype() == DType::float64) return reference::linear_backward_bias(db, dy, stream);
  const std::int64_t rows = dy.dim(0), width = dy.dim(1);
  visit_fast(dy.dtype(), [&]<typename T>() {
    const T* pg = dy.data<T>();
    float* pd = db.data<float>();
    parallel_columns(width, rows, [&](std::int64_t first, std::int64_t last) {
      for_lanes(last - first, [&](std::int64_t i, auto n) {
        Lanes total{};
        for (std::int64_t t = 0; t < rows; ++t) total += load_n(pg + t * width + first + i, n);
        store_n(pd + first + i, load_n(pd + first + i, n) + total, n);
      });
    });
  });
}

}  // namespace nmoe::ops::cpu
