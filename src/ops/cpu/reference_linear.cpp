// Plain loops of the linear layers.
#include "floating.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops::reference {

using cpu::acc_t;
using cpu::convert;
using cpu::to_acc;
using cpu::visit_floating;

void linear_forward(TensorView y, ConstTensorView x, ConstTensorView w, ConstTensorView bias, Stream&) {
  const std::int64_t rows = x.dim(0), in = x.dim(1), out = w.dim(0);
  visit_floating(x.dtype(), [&]<typename T>() {
    visit_floating(y.dtype(), [&]<typename Y>() {
      const T *px = x.data<T>(), *pw = w.data<T>(), *pb = bias ? bias.data<T>() : nullptr;
      Y* py = y.data<Y>();
      for (std::int64_t t = 0; t < rows; ++t) {
        for (std::int64_t b = 0; b < out; ++b) {
          acc_t<T> sum = 0;
          for (std::int64_t a = 0; a < in; ++a) sum += to_acc(px[t * in + a]) * to_acc(pw[b * in + a]);
          if (pb != nullptr) sum += to_acc(pb[b]);
          py[t * out + b] = convert<Y>(sum);
        }
      }
    });
  });
}

void linear_backward_input(TensorView dx, ConstTensorView dy, ConstTensorView w, bool accumulate, Stream&) {
  const std::int64_t rows = dy.dim(0), in = w.dim(1), out = w.dim(0);
  visit_floating(w.dtype(), [&]<typename T>() {
    visit_floating(dy.dtype(), [&]<typename G>() {
      const T* pw = w.data<T>();
      const G* pg = dy.data<G>();
      T* pd = dx.data<T>();
      for (std::int64_t t = 0; t < rows; ++t) {
        for (std::int64_t a = 0; a < in; ++a) {
          acc_t<T> sum = 0;
          for (std::int64_t b = 0; b < out; ++b) {
            sum += convert<acc_t<T>>(pg[t * out + b]) * to_acc(pw[b * in + a]);
          }
          if (accumulate) sum += to_acc(pd[t * in + a]);
          pd[t * in + a] = convert<T>(sum);
        }
      }
    });
  });
}

void linear_backward_weight(TensorView dw, ConstTensorView dy, ConstTensorView x, Stream&) {
  const std::int64_t rows = x.dim(0), in = x.dim(1), out = dy.dim(1);
  visit_floating(x.dtype(), [&]<typename T>() {
    visit_floating(dy.dtype(), [&]<typename G>() {
      const T* px = x.data<T>();
      const G* pg = dy.data<G>();
      auto* pd = dw.data<acc_t<T>>();
      for (std::int64_t b = 0; b < out; ++b) {
        for (std::int64_t a = 0; a < in; ++a) {
          acc_t<T> sum = 0;
          for (std::int64_t t = 0; t < rows; ++t) {
            sum += convert<acc_t<T>>(pg[t * out + b]) * to_acc(px[t * in + a]);
          }
          pd[b * in + a] += sum;
        }
      }
    });
  });
}

void linear_backward_bias(TensorView db, ConstTensorView dy, Stream&) {
  const std::int64_t rows = dy.dim(0), out = dy.dim(1);
  visit_floating(dy.dtype(), [&]<typename T>() {
    const T* pg = dy.data<T>();
    auto* pd = db.data<acc_t<T>>();
    for (std::int64_t b = 0; b < out; ++b) {
      acc_t<T> sum = 0;
      for (std::int64_t t = 0; t < rows; ++t) sum += to_acc(pg[t * out + b]);
      pd[b] += sum;
    }
  });
}

}  // namespace nmoe::ops::reference
