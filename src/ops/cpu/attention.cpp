// Causal attention over packed sequences, and behind prefixes: for each (sequence, head) blocks of queries
// meet all keys before them. Products go through gemm_piece, so the upper triangle costs only what the
// diagonal blocks waste; rows of scores are complete, so softmax needs no running maximum. bfloat16 heads are
// widened to float first.
#include <algorithm>
#include <cmath>
#include <limits>

#include "floating.hpp"
#include "gemm.hpp"
#include "lanes.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace nmoe::ops::cpu {

namespace {

constexpr std::int64_t query_block = 64;

// One head of a sequence as float rows.
struct Rows {
  const float* p;
  std::int64_t ld;
};

template <Scratch purpose>
Rows as_float(const float* p, std::int64_t ld, std::int64_t, std::int64_t) {
  return {p, ld};
}
template <Scratch purpose>
Rows as_float(const bfloat16* p, std::int64_t ld, std::int64_t count, std::int64_t width) {
  float* copy = scratch<float, purpose>(count * width);
  for (std::int64_t r = 0; r < count; ++r) {
    for_lanes(width,
              [&](std::int64_t i, auto n) { store_n(copy + r * width + i, load_n(p + r * ld + i, n), n); });
  }
  return {copy, width};
}

template <typename T>
void store_rows(T* to, std::int64_t ld, const float* from, std::int64_t count, std::int64_t width) {
  for (std::int64_t r = 0; r < count; ++r) {
    for_lanes(width,
              [&](std::int64_t i, auto n) { store_n(to + r * ld + i, load_n(from + r * width + i, n), n); });
  }
}

// Rows of scores lie in scratch memory at a multiple of 16 floats, so that whole vectors may be read and
// written; what is beyond the causal limit is masked by lane.
std::int64_t padded(std::int64_t width) {
  return (width + num_lanes - 1) / num_lanes * num_lanes;
}
inline LanesInt below(std::int64_t limit) {
  constexpr LanesInt lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return lane < static_cast<std::int32_t>(limit);
}

// Scores become e^(scale·s − max) in place, zero from `valid` to `width`. Returns their sum; `max` is of
// scale·s.
float exponentials(float* row, std::int64_t valid, std::int64_t width, float scale, float& max) {
  const Lanes lowest = splat(-std::numeric_limits<float>::infinity());
  const std::int64_t whole = valid / num_lanes * num_lanes;
  Lanes largest = lowest;
  for (std::int64_t i = 0; i < whole; i += num_lanes) largest = maximum(load(row + i), largest);
  if (whole < valid) {
    const Lanes last = select(below(valid - whole), load(row + whole), lowest);
    store(row + whole, last);
    largest = maximum(last, largest);
  }
  max = maximum(largest) * scale;
  Lanes total{};
  std::int64_t i = 0;
  for (; i < valid; i += num_lanes) {
    const Lanes e = exp(load(row + i) * scale - max);
    store(row + i, e);
    total += e;
  }
  for (; i < width; i += num_lanes) store(row + i, Lanes{});
  return sum(total);
}

// What both directions need to find a head: token strides, the extent of a sequence and where its keys are.
struct Heads {
  PrefixedSequence rows;
  std::int64_t num_q, num_kv, width;
  float scale;
  template <typename T>
  T* q(T* p, std::int64_t head) const {
    return p + (rows.first * num_q + head) * width;
  }
  template <typename T>
  T* kv(T* p, std::int64_t head) const {
    return p + (rows.own * num_kv + head) * width;
  }
  template <typename T>
  T* prefix(T* p, std::int64_t head) const {
    return p + (rows.prefix * num_kv + head) * width;
  }
  std::int64_t q_stride() const { return num_q * width; }
  std::int64_t kv_stride() const { return num_kv * width; }
};

template <typename T>
void attend_block(T* o, float* lse, const T* q, const T* k, const T* v, const Heads& s, std::int64_t head,
                  std::int64_t from) {
  const std::int64_t count = std::min(query_block, s.rows.length - from), keys = from + count;
  const std::int64_t kv_head = head / (s.num_q / s.num_kv), before = s.rows.prefix_length, width = s.width;
  const Rows qs =
      as_float<Scratch::attention_q>(s.q(q, head) + from * s.q_stride(), s.q_stride(), count, width);
  const std::int64_t ld = padded(before + keys);
  float* p = scratch<float, Scratch::attention_scores>(count * ld);
  float* sums = scratch<float, Scratch::attention_sum_o>(count * width);
  if (before > 0) {
    const Rows ks = as_float<Scratch::attention_k>(s.prefix(k, kv_head), s.kv_stride(), before, width);
    gemm_piece({false, true, count, before, width, qs.ld, ks.ld, ld}, qs.p, ks.p, p, false);
  }
  const Rows ks = as_float<Scratch::attention_k>(s.kv(k, kv_head), s.kv_stride(), keys, width);
  gemm_piece({false, true, count, keys, width, qs.ld, ks.ld, ld}, qs.p, ks.p, p + before, false);
  float inverse[query_block];
  for (std::int64_t i = 0; i < count; ++i) {
    float max = 0;
    const float total = exponentials(p + i * ld, before + from + i + 1, ld, s.scale, max);
    inverse[i] = 1.0F / total;
    if (lse != nullptr) lse[(s.rows.first + from + i) * s.num_q + head] = max + std::log(total);
  }
  if (before > 0) {
    const Rows vs = as_float<Scratch::attention_v>(s.prefix(v, kv_head), s.kv_stride(), before, width);
    gemm_piece({false, false, count, width, before, ld, vs.ld, width}, p, vs.p, sums, false);
  }
  const Rows vs = as_float<Scratch::attention_v>(s.kv(v, kv_head), s.kv_stride(), keys, width);
  gemm_piece({false, false, count, width, keys, ld, vs.ld, width}, p + before, vs.p, sums, before > 0);
  for (std::int64_t i = 0; i < count; ++i) {
    for_lanes(width, [&](std::int64_t d, auto n) {
      store_n(sums + i * width + d, load_n(sums + i * width + d, n) * inverse[i], n);
    });
  }
  store_rows(s.q(o, head) + from * s.q_stride(), s.q_stride(), sums, count, width);
}

// Row i of P becomes probabilities again, row i of dP the gradient of the scores: scale · P ⊙ (dP − do·o).
void score_gradients(float* p, float* dp, std::int64_t valid, std::int64_t width, float scale, float lse,
                     float delta) {
  std::int64_t i = 0;
  for (; i < valid; i += num_lanes) {
    const LanesInt seen = below(valid - i);
    const Lanes probability = exp(load(p + i) * scale - lse);
    store(p + i, select(seen, probability, Lanes{}));
    store(dp + i, select(seen, probability * (load(dp + i) - delta) * scale, Lanes{}));
  }
  for (; i < width; i += num_lanes) {
    store(p + i, Lanes{});
    store(dp + i, Lanes{});
  }
}

template <typename T>
struct Backward {
  T *dq, *dk, *dv;
  const T *d_o, *o, *q, *k, *v;
  const float* lse;
};

template <typename T>
void attend_backward_block(const Backward<T>& x, float* sum_k, float* sum_v, Rows ks, Rows vs, const Heads& s,
                           std::int64_t head, std::int64_t from) {
  const std::int64_t count = std::min(query_block, s.rows.length - from), keys = from + count,
                     width = s.width;
  const std::int64_t skip = from * s.q_stride(), stride = s.q_stride();
  const Rows qs = as_float<Scratch::attention_q>(s.q(x.q, head) + skip, stride, count, width);
  const Rows os = as_float<Scratch::attention_o>(s.q(x.o, head) + skip, stride, count, width);
  const Rows gs = as_float<Scratch::attention_d_o>(s.q(x.d_o, head) + skip, stride, count, width);
  const std::int64_t ld = padded(keys);
  float* p = scratch<float, Scratch::attention_scores>(count * ld);
  float* dp = scratch<float, Scratch::attention_score_gradients>(count * ld);
  float* sum_q = scratch<float, Scratch::attention_sum_dq>(count * width);
  gemm_piece({false, true, count, keys, width, qs.ld, ks.ld, ld}, qs.p, ks.p, p, false);
  gemm_piece({false, true, count, keys, width, gs.ld, vs.ld, ld}, gs.p, vs.p, dp, false);
  for (std::int64_t i = 0; i < count; ++i) {
    Lanes products{};
    for_lanes(width, [&](std::int64_t d, auto n) {
      products += load_n(gs.p + i * gs.ld + d, n) * load_n(os.p + i * os.ld + d, n);
    });
    score_gradients(p + i * ld, dp + i * ld, from + i + 1, ld, s.scale,
                    x.lse[(s.rows.first + from + i) * s.num_q + head], sum(products));
  }
  gemm_piece({true, false, keys, width, count, ld, gs.ld, width}, p, gs.p, sum_v, true);
  gemm_piece({true, false, keys, width, count, ld, qs.ld, width}, dp, qs.p, sum_k, true);
  gemm_piece({false, false, count, width, keys, ld, ks.ld, width}, dp, ks.p, sum_q, false);
  store_rows(s.q(x.dq, head) + skip, stride, sum_q, count, width);
}

// Blocks and heads that share keys are taken in order, so the sums in dk and dv have one order.
template <typename T>
void attend_backward(const Backward<T>& x, const Heads& s, std::int64_t kv_head) {
  const Rows ks = as_float<Scratch::attention_k>(s.kv(x.k, kv_head), s.kv_stride(), s.rows.length, s.width);
  const Rows vs = as_float<Scratch::attention_v>(s.kv(x.v, kv_head), s.kv_stride(), s.rows.length, s.width);
  float* sum_k = scratch<float, Scratch::attention_sum_dk>(s.rows.length * s.width);
  float* sum_v = scratch<float, Scratch::attention_sum_dv>(s.rows.length * s.width);
  std::fill_n(sum_k, s.rows.length * s.width, 0.0F);
  std::fill_n(sum_v, s.rows.length * s.width, 0.0F);
  const std::int64_t group = s.num_q / s.num_kv;
  for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (std::int64_t from = 0; from < s.rows.length; from += query_block) {
      attend_backward_block(x, sum_k, sum_v, ks, vs, s, head, from);
    }
  }
  store_rows(s.kv(x.dk, kv_head), s.kv_stride(), sum_k, s.rows.length, s.width);
  store_rows(s.kv(x.dv, kv_head), s.kv_stride(), sum_v, s.rows.length, s.width);
}

Heads heads_of(std::span<const std::int64_t> offsets, std::int64_t b, ConstTensorView q, ConstTensorView k,
               double scale) {
  const std::int64_t first = offsets[static_cast<std::size_t>(b)],
                     length = offsets[static_cast<std::size_t>(b) + 1] - first;
  return {{first, length, 0, 0, first}, q.dim(1), k.dim(1), q.dim(2), static_cast<float>(scale)};
}

// Multiply-adds of all scores, to decide whether threads pay.
std::int64_t score_work(std::span<const std::int64_t> offsets, ConstTensorView q) {
  std::int64_t work = 0;
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    work += (offsets[b + 1] - offsets[b]) * (offsets[b + 1] - offsets[b]);
  }
  return work * q.dim(1) * (q.dim(2) / 8 + 1);
}

}  // namespace

void attention_forward(TensorView o, TensorView lse, ConstTensorView q, ConstTensorView k, ConstTensorView v,
                       std::span<const std::int64_t> offsets, double scale, Stream& stream) {
  if (q.dtype() == DType::float64)
    return reference::attention_forward(o, lse, q, k, v, offsets, scale, stream);
  if (q.num_elements() == 0) return;
  const std::int64_t heads = q.dim(1), sequences = static_cast<std::int64_t>(offsets.size()) - 1;
  visit_fast(q.dtype(), [&]<typename T>() {
    T* po = o.data<T>();
    const T *pq = q.data<T>(), *pk = k.data<T>(), *pv = v.data<T>();
    float* pl = lse.data<float>();
    parallel_for(sequences * heads, score_work(offsets, q), [&](std::int64_t task) {
      const Heads s = heads_of(offsets, task / heads, q, k, scale);
      for (std::int64_t from = 0; from < s.rows.length; from += query_block) {
        attend_block(po, pl, pq, pk, pv, s, task % heads, from);
      }
    });
  });
}

void attention_prefixed_forward(TensorView o, ConstTensorView q, ConstTensorView k, ConstTensorView v,
                                std::span<const PrefixedSequence> sequences, double scale, Stream& stream) {
  if (q.dtype() == DType::float64)
    return reference::attention_prefixed_forward(o, q, k, v, sequences, scale, stream);
  if (q.num_elements() == 0) return;
  const std::int64_t heads = q.dim(1);
  std::int64_t pairs = 0;
  for (const PrefixedSequence& s : sequences) pairs += s.length * (s.prefix_length + s.length);
  visit_fast(q.dtype(), [&]<typename T>() {
    T* po = o.data<T>();
    const T *pq = q.data<T>(), *pk = k.data<T>(), *pv = v.data<T>();
    const std::int64_t tasks = static_cast<std::int64_t>(sequences.size()) * heads;
    parallel_for(tasks, pairs * heads * (q.dim(2) / 8 + 1), [&](std::int64_t task) {
      const Heads s{sequences[static_cast<std::size_t>(task / heads)], heads, k.dim(1), q.dim(2),
                    static_cast<float>(scale)};
      for (std::int64_t from = 0; from < s.rows.length; from += query_block) {
        attend_block<T>(po, nullptr, pq, pk, pv, s, task % heads, from);
      }
    });
  });
}

void attention_backward(TensorView dq, TensorView dk, TensorView dv, ConstTensorView d_o, ConstTensorView o,
                        ConstTensorView q, ConstTensorView k, ConstTensorView v, ConstTensorView lse,
                        std::span<const std::int64_t> offsets, double scale, Stream& stream) {
  if (q.dtype() == DType::float64) {
    return reference::attention_backward(dq, dk, dv, d_o, o, q, k, v, lse, offsets, scale, stream);
  }
  if (q.num_elements() == 0) return;
  const std::int64_t kv_heads = k.dim(1), sequences = static_cast<std::int64_t>(offsets.size()) - 1;
  visit_fast(q.dtype(), [&]<typename T>() {
    const Backward<T> x{dq.data<T>(), dk.data<T>(), dv.data<T>(), d_o.data<T>(),    o.data<T>(),
                        q.data<T>(),  k.data<T>(),  v.data<T>(),  lse.data<float>()};
    parallel_for(sequences * kv_heads, 3 * score_work(offsets, q), [&](std::int64_t task) {
      attend_backward(x, heads_of(offsets, task / kv_heads, q, k, scale), task % kv_heads);
    });
  });
}

}  // namespace nmoe::ops::cpu
