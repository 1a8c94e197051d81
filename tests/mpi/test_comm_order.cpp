// Float reductions take ranks in ascending order: values are chosen so that any other order shows.
#include <bit>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <limits>

#include "neuronmoe/base/philox.hpp"
#include "support/mpi_fixture.hpp"

using namespace nmoe;
using namespace nmoe::comm;

namespace {

/// Magnitudes over 2^±20, mixed signs: float addition of these does not commute over more than two terms.
double value(int rank, std::int64_t i) {
  const Philox random(11, RandomPurpose::test, static_cast<std::uint32_t>(rank));
  const auto index = static_cast<std::uint64_t>(i);
  return std::ldexp(random.uniform(2 * index) - 0.5, static_cast<int>(random.below(2 * index + 1, 40)) - 20);
}

template <typename T, typename A>
void check_sum(Communicator& comm, std::int64_t n) {
  constexpr std::int64_t guard = 8;  // elements behind the buffer that nobody may touch
  Tensor x({n + guard}, dtype_of<T>::value);
  for (std::int64_t i = 0; i < n; ++i) x.data<T>()[i] = T(static_cast<A>(value(comm.rank(), i)));
  for (std::int64_t i = n; i < n + guard; ++i) x.data<T>()[i] = T(A{7});
  Stream stream;
  comm.all_reduce(x.view().rows(0, n), ReduceOp::sum, stream).wait();
  std::int64_t num_wrong = 0;
  for (std::int64_t i = n; i < n + guard; ++i) num_wrong += static_cast<A>(x.data<T>()[i]) != A{7} ? 1 : 0;
  for (std::int64_t i = 0; i < n; ++i) {
    A expected = static_cast<A>(T(static_cast<A>(value(0, i))));
    for (int r = 1; r < comm.size(); ++r) expected += static_cast<A>(T(static_cast<A>(value(r, i))));
    const T rounded(expected);
    num_wrong += std::memcmp(&rounded, &x.data<T>()[i], sizeof(T)) != 0 ? 1 : 0;
  }
  BOOST_TEST(num_wrong == 0);
}

}  // namespace

BOOST_AUTO_TEST_CASE(float_sums_ascend_over_ranks_bitwise) {
  // 1 and 3: fewer elements than ranks; 100: one gather; 5000 and 100003: slices of unequal length.
  for (const std::int64_t n : {0, 1, 3, 100, 5000, 100003}) {
    check_sum<float, float>(test::world(), n);
    check_sum<double, double>(test::world(), n);
    check_sum<bfloat16, float>(test::world(), n);
  }
  MpiOptions options;
  options.small_reduce_bytes = 0;  // slices even for one element
  options.max_message_bytes = 100;
  options.wake_bytes = 0;
  const auto sliced = test::make_world(options);
  for (const std::int64_t n : {1, 2, 3, 101, 4099}) check_sum<float, float>(*sliced, n);
  sliced->close();
}

BOOST_AUTO_TEST_CASE(the_values_really_depend_on_the_order) {
  if (test::world().size() < 3) return;  // two terms commute
  int num_different = 0;
  for (std::int64_t i = 0; i < 1000; ++i) {
    const auto a = static_cast<float>(value(0, i)), b = static_cast<float>(value(1, i)),
               c = static_cast<float>(value(2, i));
    num_different += ((a + b) + c) != ((c + b) + a) ? 1 : 0;
  }
  BOOST_TEST(num_different > 100);
}

BOOST_AUTO_TEST_CASE(float_min_and_max_pass_nan_on) {
  Communicator& comm = test::world();
  Stream stream;
  for (const std::int64_t n : {4, 6000}) {
    Tensor lo({n}, DType::float32), hi({n}, DType::float32);
    for (std::int64_t i = 0; i < n; ++i) {
      lo.data<float>()[i] = hi.data<float>()[i] = static_cast<float>(comm.rank() * 10 - i);
    }
    if (comm.rank() == comm.size() / 2) {
      lo.data<float>()[1] = hi.data<float>()[1] = std::numeric_limits<float>::quiet_NaN();
    }
    comm.all_reduce(lo.view(), ReduceOp::min, stream).wait();
    comm.all_reduce(hi.view(), ReduceOp::max, stream).wait();
    BOOST_TEST(lo.data<float>()[0] == 0.0F);
    BOOST_TEST(hi.data<float>()[0] == static_cast<float>((comm.size() - 1) * 10));
    BOOST_TEST(lo.data<float>()[n - 1] == static_cast<float>(1 - n));
    BOOST_TEST(std::isnan(lo.data<float>()[1]));
    BOOST_TEST(std::isnan(hi.data<float>()[1]));
  }
}
