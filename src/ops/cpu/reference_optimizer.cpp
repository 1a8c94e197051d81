// Plain loops of AdamW and the squared norm.
#include <algorithm>
#include <cmath>
#include <limits>

#include "floating.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops::reference {

using cpu::acc_t;
using cpu::convert;
using cpu::to_acc;
using cpu::visit_floating;

// Order of operations of torch.optim.AdamW (single tensor, not capturable); scalars in double until used.
void adamw_update(TensorView weight, TensorView master, TensorView exp_avg, TensorView exp_avg_sq,
                  ConstTensorView grad, const AdamWStep& step, Stream&) {
  visit_floating(weight.dtype(), [&]<typename T>() {
    using A = acc_t<T>;
    A *w = master.data<A>(), *m = exp_avg.data<A>(), *v = exp_avg_sq.data<A>();
    const auto count = static_cast<double>(step.step);
    const A decay = A(1.0 - step.learning_rate * step.weight_decay);
    const A step_size = A(step.learning_rate / (1.0 - std::pow(step.beta1, count)));
    const A root_correction = A(std::sqrt(1.0 - std::pow(step.beta2, count)));
    for (std::int64_t i = 0; i < weight.num_elements(); ++i) {
      const A g = grad.data<A>()[i] * A(step.grad_scale);
      m[i] += (g - m[i]) * A(1.0 - step.beta1);
      v[i] = v[i] * A(step.beta2) + A(1.0 - step.beta2) * g * g;
      w[i] = w[i] * decay - step_size * (m[i] / (std::sqrt(v[i]) / root_correction + A(step.eps)));
      weight.data<T>()[i] = convert<T>(w[i]);
    }
  });
}

void sum_of_squares(TensorView partials, ConstTensorView x, Stream&) {
  visit_floating(x.dtype(), [&]<typename T>() {
    for (std::int64_t b = 0; b < partials.num_elements(); ++b) {
      const std::int64_t end = std::min(x.num_elements(), (b + 1) * norm_block);
      double sum = 0.0;
      for (std::int64_t i = b * norm_block; i < end; ++i) {
        const auto value = static_cast<double>(to_acc(x.data<T>()[i]));
        sum += value * value;
      }
      partials.data<double>()[b] = sum;
    }
  });
}

}  // namespace nmoe::ops::reference
