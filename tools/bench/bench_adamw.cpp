// The fused AdamW update beside STREAM's triad and a plain copy of the same run, all with OMP_NUM_THREADS
// threads.
//   OMP_NUM_THREADS=1 bench_adamw [MILLIONS_OF_PARAMETERS] [ROUNDS]
// Bytes are those of every array read or written once: AdamW 16 read and 12 written for gradient, master
// weight and moments, and the model weight; triad 12 an element. Kernels take turns; medians over rounds.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "neuronmoe/ops/optimizer.hpp"

using namespace nmoe;

namespace {

struct Kernel {
  const char* name;
  double bytes;
  std::function<void()> run;
  std::vector<double> seconds;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Tensor filled(std::int64_t n, DType dtype, float value) {
  Tensor t({n}, dtype);
  if (dtype == DType::float32) std::fill_n(t.data<float>(), n, value);
  return t;
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t n = (argc > 1 ? std::atoll(argv[1]) : 32) * 1'000'000;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 31;
  Stream stream;
  Tensor master = filled(n, DType::float32, 0.5F), mean = filled(n, DType::float32, 0.1F),
         square = filled(n, DType::float32, 0.2F), grad = filled(n, DType::float32, 0.01F),
         wide = filled(n, DType::float32, 0.0F), narrow = filled(n, DType::bfloat16, 0.0F);
  const auto update = [&](Tensor& weight) {
    ops::adamw_update(weight.view(), master.view(), mean.view(), square.view(), grad.view(),
                      {1e-4, 0.9, 0.999, 1e-8, 0.0, 10, 1.0}, stream);
  };
  float *a = wide.data<float>(), *b = master.data<float>(), *c = grad.data<float>();
  const auto count = static_cast<double>(n);
  std::vector<Kernel> kernels;
  kernels.push_back({"triad",
                     12 * count,
                     [=] {
#pragma omp parallel for schedule(static)
                       for (std::int64_t i = 0; i < n; ++i) a[i] = b[i] + 3.0F * c[i];
                     },
                     {}});
  kernels.push_back({"copy",
                     8 * count,
                     [=] {
#pragma omp parallel for schedule(static)
                       for (std::int64_t i = 0; i < n; ++i) a[i] = b[i];
                     },
                     {}});
  kernels.push_back({"adamw, float32 weights", 32 * count, [&] { update(wide); }, {}});
  kernels.push_back({"adamw, bfloat16 weights", 30 * count, [&] { update(narrow); }, {}});
  for (int round = -2; round < rounds; ++round) {
    for (Kernel& kernel : kernels) {
      const auto start = std::chrono::steady_clock::now();
      kernel.run();
      const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
      if (round >= 0) kernel.seconds.push_back(time.count());
    }
  }
  const double triad = kernels[0].bytes / median(kernels[0].seconds);
  for (const Kernel& kernel : kernels) {
    const double rate = kernel.bytes / median(kernel.seconds),
                 best = kernel.bytes / *std::min_element(kernel.seconds.begin(), kernel.seconds.end());
    std::printf("%-24s %6.1f GB/s (best %.1f), %.2f of triad\n", kernel.name, rate / 1e9, best / 1e9,
                rate / triad);
  }
}
