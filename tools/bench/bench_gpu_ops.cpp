// Rates of the CUDA kernels at the sizes of a Llama-3.2-3B step (32 x 1024 tokens), beside the ceilings of
// the same run: an 8192^3 bf16 product and a device-to-device copy. Medians of host time between synchronised
// points around ten calls on random data. Prints one line per kernel: name, microseconds, TFLOP/s or GB/s,
// share of the ceiling. Usage: bench_gpu_ops [toy]: toy sizes show on an emulated GPU that every line comes.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/moe.hpp"
#include "neuronmoe/ops/optimizer.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "neuronmoe/tensor/device.hpp"

using namespace nmoe;

namespace {

constexpr DType bf16 = DType::bfloat16, f32 = DType::float32;

struct Bench {
  int calls, repetitions;
  OwnedStream owned{Device::cuda};
  Stream& stream = owned.stream();

  /// Random values: a million normal numbers over and over (never zeros, which run faster than data).
  Tensor random(Shape shape, DType dtype, double scale = 1.0) {
    const Philox source(5, RandomPurpose::test, 1);
    const std::int64_t count = shape.num_elements(), period = std::min<std::int64_t>(count, 1 << 20);
    Tensor host({period}, dtype), there(shape, dtype, Device::cuda);
    for (std::int64_t i = 0; i < period; ++i) {
      const auto value = static_cast<float>(scale * source.normal(static_cast<std::uint64_t>(i)));
      if (dtype == bf16) {
        host.data<bfloat16>()[i] = bfloat16(value);
      } else {
        host.data<float>()[i] = value;
      }
    }
    const TensorView flat = there.view().reshape({count});
    for (std::int64_t at = 0; at < count; at += period) {
      const std::int64_t piece = std::min(period, count - at);
      copy(flat.rows(at, piece), host.view().rows(0, piece), stream);
    }
    return there;
  }
  Tensor empty(Shape shape, DType dtype) { return {shape, dtype, Device::cuda}; }

  /// Median seconds of one call.
  double seconds(const std::function<void()>& call) {
    using Clock = std::chrono::steady_clock;
    for (int i = 0; i < calls; ++i) call();
    std::vector<double> times;
    for (int r = 0; r < repetitions; ++r) {
      synchronize(stream);
      const Clock::time_point start = Clock::now();
      for (int i = 0; i < calls; ++i) call();
      synchronize(stream);
      times.push_back(std::chrono::duration<double>(Clock::now() - start).count() / calls);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }
  void line(const std::string& name, double amount, const char* unit, double ceiling,
            const std::function<void()>& call) {
    const double s = seconds(call), rate = amount / s;
    fmt::print("{:<36} {:>9.1f} us {:>8.1f} {} {:>5.1f} %\n", name, s * 1e6, rate, unit,
               100.0 * rate / ceiling);
  }
};

struct Sizes {
  std::int64_t sequences, length, hidden, width, heads, kv_heads, head, vocab;
  std::int64_t square, copied, parameters;  ///< of the ceilings; of AdamW
  std::vector<std::int64_t> expert_rows, head_rows;
  std::int64_t tokens() const { return sequences * length; }
};
const Sizes llama{32,
                  1024,
                  3072,
                  8192,
                  24,
                  8,
                  128,
                  128256,
                  8192,
                  std::int64_t{1} << 30,
                  std::int64_t{1} << 28,
                  {1024, 11000, 32768},
                  {256, 1024, 4096}};
const Sizes toy{2, 16, 32, 48, 4, 2, 8, 64, 32, 4096, 8192, {8, 32}, {8, 16}};

double measure_gemm(Bench& b, std::int64_t n) {
  const Tensor x = b.random({n, n}, bf16), w = b.random({n, n}, bf16);
  Tensor y = b.empty({n, n}, bf16);
  const double cube = static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
  const double rate =
      2.0 * cube / 1e12 / b.seconds([&] { ops::linear_forward(y.view(), x.view(), w.view(), {}, b.stream); });
  fmt::print("{:<36} {:>8.1f} TFLOP/s\n", fmt::format("ceiling: product {}^3", n), rate);
  return rate;
}

double measure_copy(Bench& b, std::int64_t count) {
  const Tensor from = b.random({count}, bf16);
  Tensor to = b.empty(from.shape(), bf16);
  const double rate = 2.0 * static_cast<double>(from.view().num_bytes()) / 1e9 /
                      b.seconds([&] { copy(to.view(), from.view(), b.stream); });
  fmt::print("{:<36} {:>8.1f} GB/s\n", fmt::format("ceiling: copy of {} MB", count * 2 / 1000000), rate);
  return rate;
}

/// One layer's matrix [columns, inner] and some rows, three ways. `dtype` of operands; weight gradients are
/// float32.
void product(Bench& b, const std::string& name, std::int64_t rows, std::int64_t inner, std::int64_t columns,
             DType dtype, double ceiling, bool weights = false) {
  const Tensor x = b.random({rows, inner}, dtype), w = b.random({columns, inner}, dtype),
               dy = b.random({rows, columns}, dtype);
  Tensor y = b.empty({rows, columns}, dtype), dx = b.empty({rows, inner}, dtype);
  const double work =
      2.0 * static_cast<double>(rows) * static_cast<double>(inner) * static_cast<double>(columns) / 1e12;
  const std::string size = fmt::format(", {} rows", rows);
  b.line(name + " forward" + size, work, "TFLOP/s", ceiling,
         [&] { ops::linear_forward(y.view(), x.view(), w.view(), {}, b.stream); });
  b.line(name + " input grad" + size, work, "TFLOP/s", ceiling,
         [&] { ops::linear_backward_input(dx.view(), dy.view(), w.view(), false, b.stream); });
  if (!weights) {
    b.line(name + " input grad added" + size, work, "TFLOP/s", ceiling,
           [&] { ops::linear_backward_input(dx.view(), dy.view(), w.view(), true, b.stream); });
    return;
  }
  Tensor dw = b.empty({columns, inner}, f32);
  b.line(name + " weight grad" + size, work, "TFLOP/s", ceiling,
         [&] { ops::linear_backward_weight(dw.view(), dy.view(), x.view(), b.stream); });
}

void products(Bench& b, const Sizes& s, double ceiling) {
  for (const std::int64_t rows : s.expert_rows)
    product(b, "expert", rows, s.hidden, s.width, bf16, ceiling, true);
  for (const std::int64_t rows : s.head_rows) product(b, "lm-head", rows, s.hidden, s.vocab, bf16, ceiling);
  product(b, "q, o", s.tokens(), s.hidden, s.heads * s.head, bf16, ceiling);
  product(b, "k, v", s.tokens(), s.hidden, s.kv_heads * s.head, bf16, ceiling);
  product(b, "float32 MLP", s.tokens() / 8, s.hidden, s.width, f32, ceiling);
  product(b, "float32 q, o", s.tokens() / 8, s.hidden, s.heads * s.head, f32, ceiling);
}

void attention(Bench& b, const Sizes& s, std::int64_t sequences, DType dtype, double ceiling) {
  const std::int64_t tokens = sequences * s.length;
  const Shape wide{tokens, s.heads, s.head}, narrow{tokens, s.kv_heads, s.head};
  const Tensor q = b.random(wide, dtype), k = b.random(narrow, dtype), v = b.random(narrow, dtype),
               d_o = b.random(wide, dtype);
  Tensor o = b.empty(wide, dtype), lse = b.empty({tokens, s.heads}, f32), dq = b.empty(wide, dtype);
  Tensor dk = b.empty(narrow, dtype), dv = b.empty(narrow, dtype);
  std::vector<std::int64_t> offsets;
  for (std::int64_t at = 0; at <= tokens; at += s.length) offsets.push_back(at);
  const double product = static_cast<double>(tokens) * static_cast<double>(s.length) *
                         static_cast<double>(s.heads * s.head) / 1e12;  // causal half, 2 per multiply-add
  const double scale = 1.0 / std::sqrt(static_cast<double>(s.head));
  const std::string name = fmt::format("attention {} ", name_of(dtype));
  b.line(name + "forward", 2 * product, "TFLOP/s", ceiling, [&] {
    ops::attention_forward(o.view(), lse.view(), q.view(), k.view(), v.view(), offsets, scale, b.stream);
  });
  b.line(name + "backward", 4 * product, "TFLOP/s", ceiling, [&] {
    ops::attention_backward(dq.view(), dk.view(), dv.view(), d_o.view(), o.view(), q.view(), k.view(),
                            v.view(), lse.view(), offsets, scale, b.stream);
  });
}

void memory_bound(Bench& b, const Sizes& s, double ceiling) {
  const std::int64_t tokens = s.tokens(), hidden = s.hidden, width = s.width;
  const Tensor x = b.random({tokens, hidden}, bf16), w = b.random({hidden}, bf16),
               gate = b.random({tokens, width}, bf16);
  const Tensor up = b.random({tokens, width}, bf16);
  Tensor y = b.empty({tokens, hidden}, bf16), inverse = b.empty({tokens}, f32),
         h = b.empty({tokens, width}, bf16);
  const double row_bytes = static_cast<double>(x.view().num_bytes()) / 1e9,
               wide_bytes = static_cast<double>(up.view().num_bytes()) / 1e9;
  b.line("rms_norm forward", 2 * row_bytes, "GB/s", ceiling,
         [&] { ops::rms_norm_forward(y.view(), inverse.view(), x.view(), w.view(), 1e-5, b.stream); });
  b.line("rms_norm backward", 4 * row_bytes, "GB/s", ceiling, [&] {
    ops::rms_norm_backward(y.view(), {}, x.view(), x.view(), w.view(), inverse.view(), true, b.stream);
  });
  b.line("add", 3 * row_bytes, "GB/s", ceiling, [&] { ops::add_inplace(y.view(), x.view(), b.stream); });
  b.line("swiglu forward", 3 * wide_bytes, "GB/s", ceiling,
         [&] { ops::swiglu_forward(h.view(), gate.view(), up.view(), b.stream); });
  const std::int64_t n = s.parameters;
  const Tensor grad = b.random({n}, f32);
  Tensor weight = b.empty({n}, bf16), master = b.random({n}, f32), m = b.random({n}, f32, 0.1),
         v = b.empty({n}, f32);
  Tensor partials = b.empty({n / ops::norm_block}, DType::float64);
  const double elements = static_cast<double>(n) / 1e9;
  b.line("adamw", 30 * elements, "GB/s", ceiling, [&] {
    ops::adamw_update(weight.view(), master.view(), m.view(), v.view(), grad.view(),
                      {5e-5, 0.9, 0.999, 1e-8, 0.0, 1, 1.0}, b.stream);
  });
  b.line("squared norm", 4 * elements, "GB/s", ceiling,
         [&] { ops::sum_of_squares(partials.view(), grad.view(), b.stream); });
}

/// Logits of one chunk, read twice and written once.
void head_loss(Bench& b, const Sizes& s, double ceiling) {
  const std::int64_t rows = s.head_rows.front();
  Tensor logits = b.random({rows, s.vocab}, bf16), losses = b.empty({rows}, f32);
  const Tensor labels = copied_to(Device::cuda, Tensor({rows}, DType::int32).view(), b.stream);
  b.line(fmt::format("cross-entropy, {} rows", rows),
         3.0 * static_cast<double>(logits.view().num_bytes()) / 1e9, "GB/s", ceiling,
         [&] { ops::cross_entropy(losses.view(), logits.view(), labels.view(), 1.0, b.stream); });
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const bool is_toy = argc > 1 && std::string_view(argv[1]) == "toy";
    const Sizes& sizes = is_toy ? toy : llama;
    const int calls = is_toy ? 1 : 10, repetitions = is_toy ? 1 : 15;
    const CudaDevice device = select_cuda_device(0);
    fmt::print("{}, {:.1f} GB\n", device.name, static_cast<double>(device.memory_bytes) / 1e9);
    Bench bench{calls, repetitions};
    const double gemm = measure_gemm(bench, sizes.square), bandwidth = measure_copy(bench, sizes.copied);
    products(bench, sizes, gemm);
    attention(bench, sizes, sizes.sequences, bf16, gemm);
    attention(bench, sizes, 1, f32, gemm);
    memory_bound(bench, sizes, bandwidth);
    head_loss(bench, sizes, bandwidth);
    fmt::print("bench_gpu_ops: every line measured\n");
  } catch (const Error& error) {
    fmt::print(stderr, "bench_gpu_ops: {}\n", error.what());
    return exit_code(error.code());
  }
  return 0;
}
