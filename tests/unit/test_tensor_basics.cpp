// Shapes, views, bfloat16 rounding and the arena.
#include <bit>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <limits>

#include "neuronmoe/tensor/tensor.hpp"

using namespace nmoe;

BOOST_AUTO_TEST_CASE(bfloat16_rounds_to_nearest_even) {
  const auto bits_of = [](std::uint32_t float_bits) {
    return bfloat16(std::bit_cast<float>(float_bits)).bits;
  };
  BOOST_TEST(bfloat16(1.0F).bits == 0x3F80);
  BOOST_TEST(static_cast<float>(bfloat16(-2.5F)) == -2.5F);
  BOOST_TEST(bits_of(0x3F807FFF) == 0x3F80);  // below half: down
  BOOST_TEST(bits_of(0x3F808000) == 0x3F80);  // half: to even, down
  BOOST_TEST(bits_of(0x3F818000) == 0x3F82);  // half: to even, up
  BOOST_TEST(bits_of(0x3F808001) == 0x3F81);  // above half: up
  BOOST_TEST(bits_of(0xBF818000) == 0xBF82);
  BOOST_TEST(bits_of(0x7F7FFFFF) == 0x7F80);  // the largest float becomes infinity
  BOOST_TEST(bfloat16(std::numeric_limits<float>::infinity()).bits == 0x7F80);
  BOOST_TEST(std::isnan(static_cast<float>(bfloat16(std::numeric_limits<float>::quiet_NaN()))));
  BOOST_TEST(std::isnan(
      static_cast<float>(bfloat16(std::bit_cast<float>(0x7F800001U)))));  // payload in the lost half
  BOOST_TEST(bits_of(0x00000001) == 0x0000);
  BOOST_TEST(bits_of(0x80000000) == 0x8000);
}

BOOST_AUTO_TEST_CASE(shapes) {
  BOOST_TEST(Shape{}.num_elements() == 1);
  BOOST_TEST((Shape{3, 0, 2}.num_elements()) == 0);
  BOOST_TEST((Shape{2, 3, 4, 5}.num_elements()) == 120);
  BOOST_TEST((Shape{2, 3}.to_string()) == "[2, 3]");
  BOOST_TEST((Shape{2, 3} == Shape{2, 3}));
  BOOST_TEST(!(Shape{2, 3} == Shape{3, 2}));
  BOOST_TEST((Shape{1LL << 20, 1LL << 20}.num_elements()) == (std::int64_t{1} << 40));
  BOOST_CHECK_THROW((Shape{1, 1, 1, 1, 1}), Error);
  BOOST_CHECK_THROW((Shape{-1}), Error);
}

BOOST_AUTO_TEST_CASE(tensors_start_as_zeros_and_move) {
  Tensor a({5, 3}, DType::float32);
  BOOST_TEST(reinterpret_cast<std::uintptr_t>(a.view().raw()) % 64 == 0U);
  for (int i = 0; i < 15; ++i) BOOST_TEST(a.data<float>()[i] == 0.0F);
  a.data<float>()[14] = 2.0F;
  Tensor b = std::move(a);
  BOOST_TEST(!a.valid());  // NOLINT(bugprone-use-after-move)
  BOOST_TEST(b.data<float>()[14] == 2.0F);
  b.zero();
  BOOST_TEST(b.data<float>()[14] == 0.0F);
  BOOST_CHECK_THROW(b.data<double>(), Error);
  const Tensor empty({0, 7}, DType::int64);
  BOOST_TEST(empty.valid());
  BOOST_TEST(bool(empty.view()));
  BOOST_TEST(empty.num_elements() == 0);
  BOOST_TEST(!Tensor().view());
}

BOOST_AUTO_TEST_CASE(views) {
  const Tensor t = make_tensor<std::int32_t>({0, 1, 2, 3, 4, 5, 6, 7}, {4, 2});
  const ConstTensorView rows = t.view().rows(1, 2);
  BOOST_TEST(rows.data<std::int32_t>()[0] == 2);
  BOOST_TEST((rows.shape() == Shape{2, 2}));
  BOOST_TEST(rows.num_bytes() == 16);
  BOOST_TEST(t.view().rows(4, 0).num_elements() == 0);
  BOOST_CHECK_THROW(t.view().rows(3, 2), Error);
  BOOST_CHECK_THROW(t.view().rows(-1, 1), Error);
  BOOST_TEST((t.view().reshape({2, 2, 2}).shape() == Shape{2, 2, 2}));
  BOOST_CHECK_THROW(t.view().reshape({3, 2}), Error);
  BOOST_CHECK_THROW(make_tensor<float>({1.0F}, {2}), Error);
}

BOOST_AUTO_TEST_CASE(arena_gives_disjoint_aligned_memory_and_reuses_it) {
  Arena arena;
  const auto step = [&] {
    std::vector<TensorView> views;
    // 9 MiB twice does not fit one 16 MiB block; 20 MiB is larger than a block.
    for (const std::int64_t n : {1LL, 100LL, 9LL << 20, 9LL << 20, 20LL << 20, 7LL}) {
      views.push_back(arena.take({n}, DType::uint8));
      BOOST_TEST(reinterpret_cast<std::uintptr_t>(views.back().raw()) % 64 == 0U);
      std::memset(views.back().raw(), static_cast<int>(views.size()), static_cast<std::size_t>(n));
    }
    for (std::size_t i = 0; i < views.size(); ++i) {  // nobody wrote into anybody else's
      const auto* p = views[i].data<std::uint8_t>();
      BOOST_TEST(p[0] == i + 1);
      BOOST_TEST(p[views[i].num_elements() - 1] == i + 1);
    }
    return views;
  };
  const auto first = step();
  const std::int64_t peak = arena.peak_bytes();
  BOOST_TEST(peak == 64 + 128 + (38LL << 20) + 64);
  arena.reset();
  const auto second = step();
  for (std::size_t i = 0; i < first.size(); ++i) BOOST_TEST(first[i].raw() == second[i].raw());
  BOOST_TEST(arena.peak_bytes() == peak);
}

BOOST_AUTO_TEST_CASE(arena_rewinds_to_a_mark) {
  Arena arena;
  (void)arena.take({10}, DType::float32);
  const Arena::Mark mark = arena.mark();
  const TensorView a = arena.take({1000}, DType::float32);
  arena.rewind(mark);
  BOOST_TEST(arena.take({5}, DType::float32).raw() == a.raw());
  BOOST_TEST(arena.peak_bytes() == 64 + 4032);  // 4000 rounded up to 64
}
