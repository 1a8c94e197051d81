// Groups, many collectives in flight at once, drain, and what the watchdog would read.
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <thread>

#include "support/mpi_fixture.hpp"

using namespace nmoe;
using namespace nmoe::comm;

BOOST_AUTO_TEST_CASE(split_orders_by_key_and_keeps_groups_apart) {
  Communicator& comm = test::world();
  const int color = comm.rank() % 2;
  const auto group = comm.split(color, -comm.rank());  // descending world rank
  const int num_of_color = (comm.size() + 1 - color) / 2;
  BOOST_TEST(group->size() == num_of_color);
  BOOST_TEST(group->rank() == num_of_color - 1 - comm.rank() / 2);
  std::int64_t expected = 0;
  for (int r = color; r < comm.size(); r += 2) expected += r + 1;
  BOOST_TEST(all_reduce_sum(*group, std::int64_t{comm.rank() + 1}) == expected);
  const auto alone = group->split(group->rank(), 0);  // a group of a group
  BOOST_TEST(alone->size() == 1);
  BOOST_TEST(all_reduce_sum(*alone, 2.5) == 2.5);
  BOOST_TEST(broadcast_string(*alone, "me") == "me");
  alone->close();
  group->close();
}

BOOST_AUTO_TEST_CASE(interleaved_works_on_world_and_groups) {
  for (const std::int64_t wake_bytes : {std::int64_t{0}, std::int64_t{256}, std::int64_t{1} << 40}) {
    MpiOptions options;
    options.debug_checks = true;
    options.wake_bytes = wake_bytes;
    const auto world = test::make_world(options);
    const auto group = world->split(world->rank() / 2, world->rank());
    const int size = world->size(), rank = world->rank();
    Stream stream;
    constexpr int num_rounds = 100;
    std::vector<Tensor> sums, gathered, sent;
    std::vector<Work> works;
    const std::vector<std::int64_t> counts(static_cast<std::size_t>(size), 1);
    const std::vector<std::int64_t> group_counts(static_cast<std::size_t>(group->size()), 1);
    for (int k = 0; k < num_rounds; ++k) {
      const std::int64_t width = 1 + (k * 37) % 900;
      sums.emplace_back(Shape{width}, DType::float32);
      sent.emplace_back(Shape{group->size(), width}, DType::int32);
      gathered.emplace_back(Shape{group->size(), width}, DType::int32);
      for (std::int64_t i = 0; i < width; ++i) sums.back().data<float>()[i] = static_cast<float>(rank + k);
      for (std::int64_t i = 0; i < sent.back().num_elements(); ++i) {
        sent.back().data<std::int32_t>()[i] = rank * 1000 + k;
      }
      works.push_back(world->all_reduce(sums.back().view(), ReduceOp::sum, stream));
      works.push_back(group->all_to_all_v(gathered.back().view(), group_counts, sent.back().view(),
                                          group_counts, stream));
    }
    // Waiting from the back must not matter: the order of execution is that of the calls.
    for (auto work = works.rbegin(); work != works.rend(); ++work) work->wait();
    const int group_first = rank / 2 * 2;
    for (int k = 0; k < num_rounds; ++k) {
      const auto slot = static_cast<std::size_t>(k);
      const auto expected = static_cast<float>(size * (size - 1) / 2 + size * k);
      const std::int64_t width = sums[slot].num_elements();
      BOOST_TEST(sums[slot].data<float>()[0] == expected);
      BOOST_TEST(sums[slot].data<float>()[width - 1] == expected);
      for (int peer = 0; peer < group->size(); ++peer) {
        BOOST_TEST(gathered[slot].data<std::int32_t>()[peer * width] == (group_first + peer) * 1000 + k);
      }
    }
    group->close();
    world->close();
  }
}

BOOST_AUTO_TEST_CASE(big_collective_goes_on_while_the_caller_computes) {
  MpiOptions options;
  options.wake_bytes = 0;
  const auto comm = test::make_world(options);
  Tensor x({1000}, DType::float32);
  for (int i = 0; i < 1000; ++i) x.data<float>()[i] = 1.0F;
  Stream stream;
  Work work = comm->all_reduce(x.view(), ReduceOp::sum, stream);
  // No wait: the communication thread alone must bring it to its end.
  if (comm->size() > 1) {
    for (int k = 0; k < 2000 && comm->last_operation().find("finished") == std::string::npos; ++k) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    BOOST_TEST(comm->last_operation().find("all_reduce sum of 1000 float32") == 0U);
    BOOST_TEST(comm->last_operation().find("finished") != std::string::npos);
    BOOST_TEST(x.data<float>()[999] == static_cast<float>(comm->size()));
  }
  work.wait();
  BOOST_TEST(x.data<float>()[0] == static_cast<float>(comm->size()));
  comm->close();
}

BOOST_AUTO_TEST_CASE(drain_finishes_everything_queued) {
  for (const std::int64_t wake_bytes : {std::int64_t{0}, std::int64_t{1} << 40}) {
    MpiOptions options;
    options.wake_bytes = wake_bytes;
    const auto comm = test::make_world(options);
    Stream stream;
    std::vector<Tensor> values;
    std::vector<Work> works;
    for (int k = 0; k < 30; ++k) {
      values.emplace_back(Shape{200}, DType::int64);
      for (int i = 0; i < 200; ++i) values.back().data<std::int64_t>()[i] = k;
    }
    for (Tensor& x : values) works.push_back(comm->all_reduce(x.view(), ReduceOp::sum, stream));
    comm->drain();
    for (std::size_t k = 0; k < values.size(); ++k) {
      BOOST_TEST(values[k].data<std::int64_t>()[199] == static_cast<std::int64_t>(k) * comm->size());
    }
    for (Work& work : works) work.wait();
    comm->barrier();
    comm->close();
  }
}

BOOST_AUTO_TEST_CASE(closed_communicator_refuses_calls) {
  const auto comm = test::make_world({});
  BOOST_TEST(comm->native() != nullptr);
  comm->close();
  comm->close();  // twice is fine
  BOOST_CHECK_THROW(comm->barrier(), Error);
}
