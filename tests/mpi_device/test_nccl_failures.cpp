// What NCCL does not say by itself: which call hangs, on which rank, and that all groups end. A peer that is
// lost or late becomes an Error of the next call, never a wait without end.
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <thread>

#include "neuronmoe/comm/agree.hpp"
#include "support/device_communicators.hpp"
#include "support/nccl_emulation/hooks.hpp"

using namespace nmoe;
using namespace nmoe::comm;
using namespace nmoe::test;

namespace {

std::unique_ptr<Communicator> make_world_with_timeout(double timeout_s, bool debug_checks = false) {
  MpiOptions host;
  host.debug_checks = debug_checks;
  NcclOptions options;
  options.timeout_s = timeout_s;
  options.debug_checks = debug_checks;
  return make_nccl_communicator(make_world(host), options);
}

/// The Error that `body` throws; the test fails if it throws none.
template <typename Body>
Error error_of(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return error;
  }
  BOOST_ERROR("no Error was thrown");
  return {ErrorCode::internal, ""};
}

bool contains(const Error& error, const std::string& text) {
  const bool found = std::string(error.what()).find(text) != std::string::npos;
  if (!found) BOOST_TEST_MESSAGE("'" << text << "' is not in: " << error.what());
  return found;
}

}  // namespace

BOOST_AUTO_TEST_CASE(close_leaves_nothing_behind_and_is_final) {
  const int before = emulation::num_open_nccl_communicators(),
            aborted = emulation::num_aborted_nccl_communicators();
  auto comm = make_world_with_timeout(60);
  BOOST_TEST(emulation::num_open_nccl_communicators() == before + 1);
  auto group = comm->split(0, comm->rank());
  Tensor x({4}, DType::float32, Device::cuda);
  BOOST_TEST(emulation::num_open_nccl_communicators() == before + 1);  // the group has not needed one yet
  group->all_reduce(x.view(), ReduceOp::sum, device_stream()).wait();
  BOOST_TEST(emulation::num_open_nccl_communicators() == before + 2);
  group->close();
  comm->close();
  comm->close();  // twice is fine
  BOOST_TEST(emulation::num_open_nccl_communicators() == before);
  BOOST_TEST(emulation::num_aborted_nccl_communicators() == aborted);
  BOOST_CHECK_THROW((void)comm->all_reduce(x.view(), ReduceOp::sum, device_stream()), Error);
}

BOOST_AUTO_TEST_CASE(a_communicator_that_nobody_closed_is_aborted) {
  const int before = emulation::num_open_nccl_communicators(),
            aborted = emulation::num_aborted_nccl_communicators();
  { const auto comm = make_world_with_timeout(60); }
  BOOST_TEST(emulation::num_open_nccl_communicators() == before);
  BOOST_TEST(emulation::num_aborted_nccl_communicators() == aborted + 1);
}

BOOST_AUTO_TEST_CASE(a_rank_that_does_not_come_is_an_error_naming_call_and_rank) {
  if (world().size() < 2) return;  // one rank waits for nobody
  const auto comm = make_world_with_timeout(1.0);
  const int late = comm->size() - 1;
  Tensor x({1000}, DType::float32, Device::cuda);
  if (comm->rank() != late) {
    const Error error = error_of([&] { comm->all_reduce(x.view(), ReduceOp::sum, device_stream()).wait(); });
    BOOST_TEST((error.code() == ErrorCode::watchdog));
    BOOST_TEST(contains(error, fmt::format("rank {} of {}", comm->rank(), comm->size())));
    BOOST_TEST(contains(error, "all_reduce sum of 1000 float32 (call 1 of a group of"));
    BOOST_TEST(contains(error, "1 s"));
    // From now on it is refused, for host tensors as well: results of the device are not to be trusted.
    BOOST_TEST(contains(error_of([&] { comm->barrier(); }), "all_reduce sum of 1000 float32"));
    BOOST_CHECK_THROW(comm->drain(), Error);
  }
  world().barrier();
}

BOOST_AUTO_TEST_CASE(a_collective_that_is_queued_and_does_not_finish_is_an_error_naming_it) {
  if (world().size() < 2) return;
  const auto comm = make_world_with_timeout(3.0);
  Tensor x({1000}, DType::float32, Device::cuda);
  comm->all_reduce(x.view(), ReduceOp::sum, device_stream()).wait();  // connects the ranks
  synchronize(device_stream());
  world().barrier();
  if (comm->rank() != comm->size() - 1) {
    comm->all_reduce(x.view(), ReduceOp::sum, device_stream()).wait();
    const auto has_failed = [&] {
      return comm->last_operation().find("all_reduce sum of 1000 float32 (call 2 of a group of") !=
                 std::string::npos &&
             comm->last_operation().find("has not finished 3 s after") != std::string::npos;
    };
    for (int i = 0; i < 2000 && !has_failed(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    BOOST_TEST(has_failed());
  }
  world().barrier();
}

BOOST_AUTO_TEST_CASE(a_lost_peer_is_noticed_while_nobody_calls) {
  const auto comm = make_world_with_timeout(60);
  const auto group = comm->split(0, comm->rank());
  Tensor x({8}, DType::float32, Device::cuda);
  group->all_reduce(x.view(), ReduceOp::sum, device_stream()).wait();
  world().barrier();
  const int aborted = emulation::num_aborted_nccl_communicators();
  emulation::lose_nccl_peers();
  for (int i = 0; i < 1000 && emulation::num_aborted_nccl_communicators() < aborted + 2; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  BOOST_TEST(emulation::num_aborted_nccl_communicators() == aborted + 2);  // all groups, not only one
  const Error error = error_of([&] { comm->all_reduce(x.view(), ReduceOp::sum, device_stream()).wait(); });
  BOOST_TEST((error.code() == ErrorCode::watchdog));
  BOOST_TEST(contains(error, "remote process exited"));
  BOOST_TEST(contains(error, fmt::format("rank {} of {}", comm->rank(), comm->size())));
  BOOST_TEST(comm->last_operation().find("remote process exited") != std::string::npos);
  world().barrier();
}

BOOST_AUTO_TEST_CASE(mismatched_calls_are_found_on_every_rank) {
  if (world().size() < 2) return;  // one rank cannot disagree
  const auto comm = make_world_with_timeout(60, true);
  const bool odd = comm->rank() == comm->size() - 1;
  const std::string odd_rank = "rank " + std::to_string(comm->size() - 1);
  Tensor f({8}, DType::float32, Device::cuda), longer({9}, DType::float32, Device::cuda);
  const Error count = error_of(
      [&] { comm->all_reduce(odd ? longer.view() : f.view(), ReduceOp::sum, device_stream()).wait(); });
  BOOST_TEST((count.code() == ErrorCode::internal));
  BOOST_TEST(contains(count, "rank 0 all_reduce sum of 8 float32"));
  BOOST_TEST(contains(count, odd_rank + " all_reduce sum of 9 float32"));
  const auto n = static_cast<std::size_t>(comm->size());
  std::vector<std::int64_t> send(n, 2);
  const std::vector<std::int64_t> recv(n, 2);
  if (odd) send[0] = 3;
  Tensor a({2 * comm->size() + (odd ? 1 : 0), 2}, DType::float32, Device::cuda);
  Tensor b({2 * comm->size(), 2}, DType::float32, Device::cuda);
  const Error rows =
      error_of([&] { comm->all_to_all_v(b.view(), recv, a.view(), send, device_stream()).wait(); });
  BOOST_TEST(contains(rows, odd_rank + " sends 3 rows to rank 0, which expects 2"));
  std::vector<std::int64_t> gather(n, 1);
  if (odd) gather[0] = 2;
  Tensor mine({1, 2}, DType::float32, Device::cuda);
  Tensor all({comm->size() + (odd ? 1 : 0), 2}, DType::float32, Device::cuda);
  const Error counts =
      error_of([&] { comm->all_gather_v(all.view(), gather, mine.view(), device_stream()).wait(); });
  BOOST_TEST(contains(counts, "their lists of counts differ"));
  const Error invalid =
      error_of([&] { comm->broadcast(f.view(), odd ? comm->size() : 0, device_stream()).wait(); });
  BOOST_TEST(contains(invalid, "root " + std::to_string(comm->size())));
  comm->all_reduce(f.view(), ReduceOp::sum, device_stream()).wait();  // still usable
  const Error device = error_of([&] {                                 // one rank hands in a host tensor
    Tensor host({8}, DType::float32);
    comm->all_reduce(odd ? host.view() : f.view(), ReduceOp::sum, device_stream()).wait();
  });
  BOOST_TEST(contains(device, "different collective calls"));
  comm->close();
}
