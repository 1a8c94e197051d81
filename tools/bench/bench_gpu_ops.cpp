// Rates of the CUDA kernels at the sizes of a Llama-3.2-3B step (32 x 1024 tokens), beside the ceilings of
// the same run: an 8192^3 bf16 product and a device-to-device copy. Medians of host time between synchronised
// points around ten calls on random data. Prints one line per kernel: name, microseconds, TFLOP/s or GB/s,
// share of the ceiling.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <functional>
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
    constexpr int calls = 10, repetitions = 15;
    for (int i = 0; i < calls; ++i) call();
    std::vector<double> times;
    for (int r = 0; r < repetitions; ++r) {
      synchronize(stream);
      const Clock::time_point start = Clock::now();
      for (int i = 0; i < calls; ++i) call();
      synchronize(stream);
      times.push_back(std::chrono::duration<double>(Clock::now() - start).count() / calls);
    }
    std::nth_element(times.begin(), times.begin() + repetitions / 2, times.end());
    return times[repetitions / 2];
  }
  void line(const std::string& name, double amount, const char* unit, double ceiling,
            const std::function<void()>& call) {
    const double s = seconds(call), rate = amount / s;
    fmt::print("{:<28} {:>9.1f} us {:>8.1f} {} {:>5.1f} %\n", name, s * 1e6, rate, unit,
               100.0 * rate / ceiling);
  }
};

constexpr std::int64_t tokens = 32 * 1024, hidden = 3072, width = 8192, heads = 24, kv_heads = 8, head = 128;

double measure_gemm(Bench& b) {
  const std::int64_t n = 8192;
  const Tensor x = b.random({n, n}, bf16), w = b.random({n, n}, bf16);
  Tensor y = b.empty({n, n}, bf16);
  const double rate = 2.0 * n * n * n / 1e12 /
                      b.seconds([&] { ops::linear_forward(y.view(), x.view(), w.view(), {}, b.stream); });
  fmt::print("{:<28} {:>8.1f} TFLOP/s\n", "ceiling: product 8192^3", rate);
  return rate;
}

double measure_copy(Bench& b) {
  const Tensor from = b.random({std::int64_t{1} << 30}, bf16);
  Tensor to = b.empty(from.shape(), bf16);
  const double rate = 2.0 * static_cast<double>(from.view().num_bytes()) / 1e9 /
                      b.seconds([&] { copy(to.view(), from.view(), b.stream); });
  fmt::print("{:<28} {:>8.1f} GB/s\n", "ceiling: copy of 2 GiB", rate);
  return rate;
}

void products(Bench& b, double ceiling) {
  for (const std::int64_t rows : {std::int64_t{1024}, std::int64_t{11000}, tokens}) {
    const Tensor x = b.random({rows, hidden}, bf16), w = b.random({width, hidden}, bf16),
                 dy = b.random({rows, width}, bf16);
    Tensor y = b.empty({rows, width}, bf16), dx = b.empty({rows, hidden}, bf16),
           dw = b.empty({width, hidden}, f32);
    const double work = 2.0 * static_cast<double>(rows * hidden * width) / 1e12;
    const std::string size = fmt::format(", {} rows", rows);
    b.line("expert forward" + size, work, "TFLOP/s", ceiling,
           [&] { ops::linear_forward(y.view(), x.view(), w.view(), {}, b.stream); });
    b.line("expert input grad" + size, work, "TFLOP/s", ceiling,
           [&] { ops::linear_backward_input(dx.view(), dy.view(), w.view(), false, b.stream); });
    b.line("expert weight grad" + size, work, "TFLOP/s", ceiling,
           [&] { ops::linear_backward_weight(dw.view(), dy.view(), x.view(), b.stream); });
  }
}

void attention(Bench& b, double ceiling) {
  const Shape wide{tokens, heads, head}, narrow{tokens, kv_heads, head};
  const Tensor q = b.random(wide, bf16), k = b.random(narrow, bf16), v = b.random(narrow, bf16),
               d_o = b.random(wide, bf16);
  Tensor o = b.empty(wide, bf16), lse = b.empty({tokens, heads}, f32), dq = b.empty(wide, bf16);
  Tensor dk = b.empty(narrow, bf16), dv = b.empty(narrow, bf16);
  std::vector<std::int64_t> offsets;
  for (std::int64_t at = 0; at <= tokens; at += 1024) offsets.push_back(at);
  const double product = 1024.0 * 1024 * 32 * heads * head / 1e12;  // causal half, 2 per multiply-add
  const double scale = 0.08838834764831845;
  b.line("attention forward", 2 * product, "TFLOP/s", ceiling, [&] {
    ops::attention_forward(o.view(), lse.view(), q.view(), k.view(), v.view(), offsets, scale, b.stream);
  });
  b.line("attention backward", 4 * product, "TFLOP/s", ceiling, [&] {
    ops::attention_backward(dq.view(), dk.view(), dv.view(), d_o.view(), o.view(), q.view(), k.view(),
                            v.view(), lse.view(), offsets, scale, b.stream);
  });
}

void memory_bound(Bench& b, double ceiling) {
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
  const std::int64_t n = std::int64_t{1} << 28;
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

}  // namespace

int main() {
  try {
    const CudaDevice device = select_cuda_device(0);
    fmt::print("{}, {:.1f} GB\n", device.name, static_cast<double>(device.memory_bytes) / 1e9);
    Bench bench;
    const double gemm = measure_gemm(bench), bandwidth = measure_copy(bench);
    products(bench, gemm);
    attention(bench, gemm);
    memory_bound(bench, bandwidth);
  } catch (const Error& error) {
    fmt::print(stderr, "bench_gpu_ops: {}\n", error.what());
    return exit_code(error.code());
  }
  return 0;
}
