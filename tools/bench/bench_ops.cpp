// Rates of the kernels at the quickstart's shapes (512 tokens in sequences of 128, hidden 128), beside the
// rate of a large matrix product in the same run. Usage: OMP_NUM_THREADS=1 bench_ops [float32|bfloat16]
//
// GF/s count useful work (causal attention: half of the square); GB/s count every argument read or written
// once.
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/moe.hpp"
#include "neuronmoe/ops/optimizer.hpp"
#include "neuronmoe/ops/transformer.hpp"

using namespace nmoe;

namespace {

Stream stream;
DType dtype = DType::float32;
double gemm_rate = 0;  // GF/s of the large product
constexpr std::int64_t tokens = 512, hidden = 128, intermediate = 344, vocab = 4096, heads = 4, kv_heads = 2,
                       head_dim = 32;

Tensor random_tensor(Shape shape, DType type) {
  const Philox random(1, RandomPurpose::test);
  Tensor values(shape, DType::float32), out(shape, type);
  for (std::int64_t i = 0; i < values.num_elements(); ++i) {
    values.data<float>()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  ops::cast(out.view(), values.view(), stream);
  return out;
}
Tensor random_ids(Shape shape, std::uint64_t bound) {
  const Philox random(2, RandomPurpose::test);
  Tensor out(shape, DType::int32);
  for (std::int64_t i = 0; i < out.num_elements(); ++i) {
    out.data<std::int32_t>()[i] =
        static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(i), bound));
  }
  return out;
}

/// Best of ten batches of at least 5 ms, in seconds per call.
template <typename F>
double seconds(F&& f) {
  using Clock = std::chrono::steady_clock;
  const auto time = [&](int calls) {
    const auto start = Clock::now();
    for (int i = 0; i < calls; ++i) f();
    return std::chrono::duration<double>(Clock::now() - start).count() / calls;
  };
  time(2);
  const int calls = static_cast<int>(std::clamp(0.005 / time(1), 1.0, 1000.0));
  double best = time(calls);
  for (int repeat = 0; repeat < 9; ++repeat) best = std::min(best, time(calls));
  return best;
}

template <typename F>
void flops(const char* name, double count, F&& f) {
  const double s = seconds(f), rate = count / s / 1e9;
  gemm_rate = std::max(gemm_rate, rate);
  std::printf("%-34s %9.1f us %8.1f GF/s %5.0f %% of GEMM\n", name, s * 1e6, rate, 100 * rate / gemm_rate);
}
template <typename F>
void bytes(const char* name, double count, F&& f) {
  const double s = seconds(f);
  std::printf("%-34s %9.1f us %8.1f GB/s\n", name, s * 1e6, count / s / 1e9);
}

void bench_linear(const char* name, std::int64_t rows, std::int64_t in, std::int64_t out) {
  const Tensor x = random_tensor({rows, in}, dtype), w = random_tensor({out, in}, dtype);
  Tensor y = random_tensor({rows, out}, dtype), dx({rows, in}, dtype), dw({out, in}, DType::float32);
  const double count = 2.0 * double(rows) * double(in) * double(out);
  const std::string label = std::string(name) + " " + std::to_string(in) + "->" + std::to_string(out);
  flops((label + " forward").c_str(), count,
        [&] { ops::linear_forward(y.view(), x.view(), w.view(), {}, stream); });
  flops((label + " input").c_str(), count,
        [&] { ops::linear_backward_input(dx.view(), y.view(), w.view(), false, stream); });
  flops((label + " weight").c_str(), count,
        [&] { ops::linear_backward_weight(dw.view(), y.view(), x.view(), stream); });
}

void bench_attention() {
  const Tensor q = random_tensor({tokens, heads, head_dim}, dtype),
               k = random_tensor({tokens, kv_heads, head_dim}, dtype);
  const Tensor v = random_tensor(k.shape(), dtype), d_o = random_tensor(q.shape(), dtype);
  Tensor o(q.shape(), dtype), lse({tokens, heads}, DType::float32), dq(q.shape(), dtype),
      dk(k.shape(), dtype), dv(k.shape(), dtype);
  const std::vector<std::int64_t> offsets = {0, 128, 256, 384, 512};
  const double forward = 4.0 * heads * head_dim * 4 * (128.0 * 129 / 2);
  flops("attention forward", forward, [&] {
    ops::attention_forward(o.view(), lse.view(), q.view(), k.view(), v.view(), offsets, 0.17, stream);
  });
  flops("attention backward", 2.5 * forward, [&] {
    ops::attention_backward(dq.view(), dk.view(), dv.view(), d_o.view(), o.view(), q.view(), k.view(),
                            v.view(), lse.view(), offsets, 0.17, stream);
  });
}

void bench_rows() {
  const double size = double(size_of(dtype)), row = double(tokens * hidden) * size;
  Tensor x = random_tensor({tokens, hidden}, dtype), y({tokens, hidden}, dtype),
         inverse({tokens}, DType::float32);
  const Tensor w = random_tensor({hidden}, dtype);
  Tensor dw({hidden}, DType::float32);
  bytes("rms_norm forward", 2 * row,
        [&] { ops::rms_norm_forward(y.view(), inverse.view(), x.view(), w.view(), 1e-5, stream); });
  Tensor dx({tokens, hidden}, dtype);
  bytes("rms_norm backward, no dw", 3 * row, [&] {
    ops::rms_norm_backward(dx.view(), {}, y.view(), x.view(), w.view(), inverse.view(), false, stream);
  });
  bytes("rms_norm backward", 3 * row, [&] {
    ops::rms_norm_backward(dx.view(), dw.view(), y.view(), x.view(), w.view(), inverse.view(), false, stream);
  });
  bytes("add_inplace", 3 * row, [&] { ops::add_inplace(y.view(), dx.view(), stream); });
  Tensor q = random_tensor({tokens, heads, head_dim}, dtype);
  const Tensor cos = random_tensor({128, head_dim / 2}, DType::float32),
               positions = random_ids({tokens}, 128);
  bytes("rope", 2 * row,
        [&] { ops::rope_apply(q.view(), positions.view(), cos.view(), cos.view(), false, stream); });
  const Tensor gate = random_tensor({tokens, intermediate}, dtype), up = random_tensor(gate.shape(), dtype);
  Tensor h(gate.shape(), dtype), dgate(gate.shape(), dtype), dup(gate.shape(), dtype);
  const double wide = double(tokens * intermediate) * size;
  bytes("swiglu forward", 3 * wide, [&] { ops::swiglu_forward(h.view(), gate.view(), up.view(), stream); });
  bytes("swiglu backward", 5 * wide,
        [&] { ops::swiglu_backward(dgate.view(), dup.view(), h.view(), gate.view(), up.view(), stream); });
  Tensor logits = random_tensor({tokens, vocab}, dtype), losses({tokens}, DType::float32);
  const Tensor labels = random_ids({tokens}, vocab);
  const double all = double(tokens * vocab) * size;
  bytes("cross_entropy", all,
        [&] { ops::cross_entropy(losses.view(), logits.view(), labels.view(), 0.0, stream); });
  bytes("cross_entropy with gradient", 2 * all,
        [&] { ops::cross_entropy(losses.view(), logits.view(), labels.view(), 1.0, stream); });
  Tensor table = random_tensor({vocab, hidden}, dtype), dtable({vocab, hidden}, DType::float32);
  bytes("embedding forward", 2 * row,
        [&] { ops::embedding_forward(y.view(), labels.view(), table.view(), stream); });
  bytes("embedding backward", 3 * row,
        [&] { ops::embedding_backward(dtable.view(), y.view(), labels.view(), stream); });
}

void bench_moe() {
  constexpr std::int64_t experts = 3, top_k = 2;
  const Tensor logits = random_tensor({tokens, experts}, DType::float32);
  Tensor probs(logits.shape(), DType::float32), weights({tokens, top_k}, DType::float32);
  Tensor indices({tokens, top_k}, DType::int32), dlogits(logits.shape(), DType::float32),
      slots({tokens, top_k}, DType::int32);
  const double small = double(tokens * experts) * 4;
  bytes("route forward", 2 * small, [&] {
    ops::route_forward(probs.view(), weights.view(), indices.view(), logits.view(), true, stream);
  });
  bytes("route backward", 3 * small, [&] {
    ops::route_backward(dlogits.view(), weights.view(), {}, probs.view(), weights.view(), indices.view(),
                        true, stream);
  });
  Tensor loss({1}, DType::float64);
  bytes("load_balancing_loss", 2 * small, [&] {
    ops::load_balancing_loss(loss.view(), dlogits.view(), probs.view(), indices.view(), 1e-9, stream);
  });
  const Tensor rows = random_tensor({tokens * top_k, hidden}, dtype),
               dy = random_tensor({tokens, hidden}, dtype);
  for (std::int64_t i = 0; i < tokens * top_k; ++i) {
    slots.data<std::int32_t>()[i] = static_cast<std::int32_t>((i * 377) % (tokens * top_k));
  }
  Tensor y({tokens, hidden}, dtype), drows(rows.shape(), dtype), dweights({tokens, top_k}, DType::float32);
  const double row = double(tokens * hidden * size_of(dtype));
  bytes("combine forward", 3 * row, [&] {
    ops::combine_forward(y.view(), rows.view(), slots.view(), indices.view(), weights.view(), false, stream);
  });
  bytes("combine backward", 5 * row, [&] {
    ops::combine_backward(drows.view(), dweights.view(), dy.view(), rows.view(), slots.view(), weights.view(),
                          stream);
  });
  const Tensor token = random_ids({tokens * top_k}, tokens);
  bytes("gather_rows", 4 * row, [&] { ops::gather_rows(drows.view(), dy.view(), token.view(), stream); });
}

void bench_optimizer() {
  constexpr std::int64_t n = 1 << 20;
  const Tensor grad = random_tensor({n}, DType::float32);
  Tensor weight({n}, dtype), master({n}, DType::float32), m({n}, DType::float32), v({n}, DType::float32);
  Tensor partials({n / ops::norm_block}, DType::float64);
  bytes("adamw, 1 Mi parameters", double(n) * (7 * 4 + double(size_of(dtype))), [&] {
    ops::adamw_update(weight.view(), master.view(), m.view(), v.view(), grad.view(),
                      {1e-3, 0.9, 0.999, 1e-8, 0.0, 10, 1.0}, stream);
  });
  bytes("sum_of_squares, 1 Mi", double(n) * 4,
        [&] { ops::sum_of_squares(partials.view(), grad.view(), stream); });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "bfloat16") dtype = DType::bfloat16;
  std::printf("%s, %d thread(s)\n", std::string(name_of(dtype)).c_str(), omp_get_max_threads());
  bench_linear("GEMM 1024", 1024, 1024, 1024);
  bench_linear("q, o", tokens, hidden, hidden);
  bench_linear("k, v", tokens, hidden, kv_heads * head_dim);
  bench_linear("gate, up", tokens, hidden, intermediate);
  bench_linear("down", tokens, intermediate, hidden);
  bench_linear("expert of 171 rows", 171, hidden, intermediate);
  bench_linear("router", tokens, hidden, 3);
  bench_linear("lm-head", tokens, hidden, vocab);
  bench_attention();
  bench_rows();
  bench_moe();
  bench_optimizer();
}
