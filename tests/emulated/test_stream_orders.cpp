// The emulated streams themselves: small programs that lack one wait are wrong in some order, the same with
// the wait are right in all.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <csignal>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "neuronmoe/ops/transformer.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "support/cuda_emulation/streams.hpp"

using namespace nmoe;

namespace {

constexpr std::int64_t size = 64;
constexpr int num_orders = 40;

Tensor on_device() {
  return Tensor({size}, DType::float32, Device::cuda);
}
/// Page-locked memory with every element `value`.
struct Pinned {
  PinnedMemory memory{size * 4};
  explicit Pinned(float value = 0.0F) { fill(value); }
  void fill(float value) { std::fill_n(data(), size, value); }
  float* data() { return static_cast<float*>(memory.data()); }
  TensorView view() { return {data(), DType::float32, {size}}; }
  bool holds(float value) {
    return std::all_of(data(), data() + size, [&](float x) { return x == value; });
  }
};

/// In how many of the first orders `body` returns false or throws.
int num_wrong(const std::function<bool()>& body) {
  int wrong = 0;
  for (int order = 0; order < num_orders; ++order) {
    emulation::use_order(std::to_string(order));
    try {
      if (!body()) ++wrong;
    } catch (const Error&) {
      ++wrong;
    }
    emulation::finish_everything();
  }
  emulation::use_order("0");
  return wrong;
}

/// The signal that ends a process that runs `body` and exits with 0 (and no signal) if that returns.
int signal_of(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGABRT, SIG_DFL);
    body();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_stream_that_reads_what_another_writes_has_to_wait) {
  const auto program = [](bool waits) {
    OwnedStream writer(Device::cuda), reader(Device::cuda);
    Event written(Device::cuda);
    Tensor x = on_device(), y = on_device();
    Pinned result;
    ops::fill(x.view(), 1.0, writer.stream());
    written.record(writer.stream());
    if (waits) written.make_wait(reader.stream());
    copy(y.view(), x.view(), reader.stream());
    start_copy(result.view(), y.view(), reader.stream());
    synchronize(reader.stream());
    const bool right = result.holds(1.0F);
    synchronize(writer.stream());
    return right;
  };
  BOOST_TEST(num_wrong([&] { return program(true); }) == 0);
  const int wrong = num_wrong([&] { return program(false); });
  BOOST_TEST(wrong > num_orders / 4);
  BOOST_TEST(wrong < num_orders);  // some orders are those that a test on a GPU sees
  emulation::use_order("immediate");
  BOOST_TEST(program(false));
  emulation::use_order("0");
}

BOOST_AUTO_TEST_CASE(a_stream_that_writes_again_has_to_wait_for_the_reader) {
  const auto program = [](bool waits) {
    OwnedStream writer(Device::cuda), reader(Device::cuda);
    Event written(Device::cuda), read(Device::cuda);
    Tensor x = on_device(), sum = on_device();
    Pinned result;
    for (int round = 1; round <= 4; ++round) {
      ops::fill(x.view(), round, writer.stream());
      written.record(writer.stream());
      written.make_wait(reader.stream());
      ops::add_inplace(sum.view(), x.view(), reader.stream());
      read.record(reader.stream());
      if (waits) read.make_wait(writer.stream());
    }
    start_copy(result.view(), sum.view(), reader.stream());
    synchronize(reader.stream());
    return result.holds(1 + 2 + 3 + 4);
  };
  BOOST_TEST(num_wrong([&] { return program(true); }) == 0);
  BOOST_TEST(num_wrong([&] { return program(false); }) > num_orders / 4);
}

BOOST_AUTO_TEST_CASE(a_chain_over_three_streams_needs_each_of_its_waits) {
  const auto program = [](int missing) {
    OwnedStream a(Device::cuda), b(Device::cuda), c(Device::cuda);
    Event event(Device::cuda);  // recorded again: a wait holds on to the record it was given
    const auto order = [&](int which, OwnedStream& first, OwnedStream& then) {
      event.record(first.stream());
      if (which != missing) event.make_wait(then.stream());
    };
    Tensor x = on_device(), y = on_device(), z = on_device();
    Pinned result;
    ops::fill(x.view(), 3.0, a.stream());
    order(0, a, b);
    copy(y.view(), x.view(), b.stream());
    order(1, b, c);
    copy(z.view(), y.view(), c.stream());
    order(2, c, a);
    start_copy(result.view(), z.view(), a.stream());
    order(3, a, b);
    ops::fill(z.view(), 4.0, b.stream());
    synchronize(a.stream());
    return result.holds(3.0F);
  };
  BOOST_TEST(num_wrong([&] { return program(-1); }) == 0);
  for (int missing = 0; missing < 4; ++missing)
    BOOST_TEST(num_wrong([&] { return program(missing); }) > 0, "missing wait " << missing);
}

BOOST_AUTO_TEST_CASE(the_host_may_not_touch_its_side_of_a_copy_before_a_wait) {
  const auto to_device = [](bool waits) {
    OwnedStream stream(Device::cuda);
    Tensor x = on_device();
    Pinned source(1.0F), result;
    start_copy(x.view(), source.view(), stream.stream());
    if (waits) synchronize(stream.stream());
    source.fill(2.0F);
    start_copy(result.view(), x.view(), stream.stream());
    synchronize(stream.stream());
    return result.holds(1.0F);
  };
  BOOST_TEST(num_wrong([&] { return to_device(true); }) == 0);
  BOOST_TEST(num_wrong([&] { return to_device(false); }) > num_orders / 4);
  const auto to_host = [](bool waits) {
    OwnedStream stream(Device::cuda);
    Event copied(Device::cuda);
    Tensor x = on_device();
    ops::fill(x.view(), 1.0, stream.stream());
    Pinned result(1.0F);  // what was there before does not help
    start_copy(result.view(), x.view(), stream.stream());
    copied.record(stream.stream());
    if (waits) copied.wait();
    const bool right = result.holds(1.0F);
    synchronize(stream.stream());
    return right;
  };
  BOOST_TEST(num_wrong([&] { return to_host(true); }) == 0);
  BOOST_TEST(num_wrong([&] { return to_host(false); }) > num_orders / 4);
}

BOOST_AUTO_TEST_CASE(page_locked_memory_is_freed_after_its_copies) {
  for (const bool waits : {false, true}) {
    const int signal = signal_of([&] {
      OwnedStream stream(Device::cuda);
      Tensor x = on_device();
      auto source = std::make_unique<Pinned>(1.0F);
      start_copy(x.view(), source->view(), stream.stream());
      if (waits) synchronize(stream.stream());
      source.reset();
    });
    BOOST_TEST(signal == (waits ? 0 : SIGABRT));
  }
}

BOOST_AUTO_TEST_CASE(device_memory_is_freed_after_all_work_and_then_holds_nothing) {
  BOOST_TEST(num_wrong([] {
               OwnedStream stream(Device::cuda);
               Pinned result;
               Tensor y = on_device();
               {
                 Tensor x = on_device();
                 ops::fill(x.view(), 5.0, stream.stream());
                 copy(y.view(), x.view(), stream.stream());
               }
               start_copy(result.view(), y.view(), stream.stream());
               synchronize(stream.stream());
               return result.holds(5.0F);
             }) == 0);
  const int signal = signal_of([] {
    OwnedStream stream(Device::cuda);
    TensorView dangling;
    {
      Tensor x = on_device();
      dangling = x.view();
    }
    ops::fill(dangling, 1.0, stream.stream());
    synchronize(stream.stream());
    const Tensor next = on_device();
  });
  BOOST_TEST(signal == SIGABRT);
}

BOOST_AUTO_TEST_CASE(questions_are_answered_late_but_not_never) {
  BOOST_TEST(num_wrong([] {
               OwnedStream stream(Device::cuda);
               Event never(Device::cuda), event(Device::cuda);
               BOOST_TEST(never.reached());  // not recorded: nothing to wait for
               Tensor x = on_device();
               ops::fill(x.view(), 1.0, stream.stream());
               event.record(stream.stream());
               int questions = 0;
               while (!event.reached() && questions < 1000) ++questions;
               return questions < 1000;
             }) == 0);
  emulation::use_order("0");
  OwnedStream stream(Device::cuda);
  Event event(Device::cuda);
  Tensor x = on_device();
  ops::fill(x.view(), 1.0, stream.stream());
  event.record(stream.stream());
  BOOST_TEST(!event.reached());
}
