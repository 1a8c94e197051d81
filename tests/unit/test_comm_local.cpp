// The communicator of one rank behaves like the others: it copies, checks and counts.
#include <boost/test/unit_test.hpp>

#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/comm/communicator.hpp"

using namespace nmoe;
using namespace nmoe::comm;

BOOST_AUTO_TEST_CASE(local_communicator_copies_checks_and_counts) {
  const auto comm = make_local_communicator();
  Stream stream;
  const Tensor send = make_tensor<float>({1, 2, 3, 4, 5, 6}, {3, 2});
  Tensor recv({3, 2}, DType::float32);
  const std::vector<std::int64_t> three = {3}, two = {2};
  comm->all_to_all_v(recv.view(), three, send.view(), three, stream).wait();
  BOOST_TEST(recv.data<float>()[5] == 6.0F);
  recv.zero();
  comm->all_gather_v(recv.view(), three, send.view(), stream).wait();
  BOOST_TEST(recv.data<float>()[5] == 6.0F);
  comm->all_reduce(recv.view(), ReduceOp::sum, stream).wait();
  comm->broadcast(recv.view(), 0, stream).wait();
  BOOST_TEST(recv.data<float>()[0] == 1.0F);
  BOOST_TEST(comm->last_operation() == "broadcast");
  BOOST_TEST(comm->counters()[Operation::all_gather_v].calls == 1U);
  for (const auto& entry : comm->counters().entries) BOOST_TEST(entry.bytes_sent == 0);
  BOOST_CHECK_THROW((void)comm->all_gather_v(recv.view(), two, send.view(), stream), Error);
  BOOST_CHECK_THROW((void)comm->broadcast(recv.view(), 1, stream), Error);
  Tensor other({3, 2}, DType::float64);
  BOOST_CHECK_THROW((void)comm->all_gather_v(other.view(), three, send.view(), stream), Error);
  const auto group = comm->split(0, 0);
  BOOST_TEST(group->size() == 1);
  BOOST_TEST(all_reduce_sum(*group, std::int64_t{5}) == 5);
  BOOST_TEST(all_gather_strings(*group, "abc").at(0) == "abc");
  BOOST_CHECK_THROW(agree(*comm, [] { throw std::runtime_error("x"); }), Error);
}
