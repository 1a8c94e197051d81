// Errors, hashes and random numbers against published values.
#include <unistd.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <vector>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/handle.hpp"
#include "neuronmoe/base/hash.hpp"
#include "neuronmoe/base/log.hpp"
#include "neuronmoe/base/one_line.hpp"
#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/base/shared_library.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;

namespace {

/// What `work` writes to standard error.
template <class Work>
std::string standard_error_of(Work&& work) {
  const test::TempDir dir;
  std::fflush(stderr);
  const int kept = ::dup(STDERR_FILENO);
  std::FILE* const file = std::fopen((dir / "log").c_str(), "w");
  ::dup2(::fileno(file), STDERR_FILENO);
  work();
  std::fflush(stderr);
  ::dup2(kept, STDERR_FILENO);
  ::close(kept);
  std::fclose(file);
  return test::read_bytes(dir / "log");
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_silence_is_broken_on_rank_zero) {
  const auto said = [](int rank, bool quiet, double silence_s) {
    return standard_error_of([&] {
      const Logger log(rank, quiet);
      const Progress progress(log, "sums", 10, "tokens");
      log.signs_of_life(silence_s);
    });
  };
  BOOST_TEST(said(0, false, 0.0).find("rank 0] sums: still at work, 0 s since the start\n") !=
             std::string::npos);
  BOOST_TEST(said(0, false, 60.0) == "");
  BOOST_TEST(said(0, true, 0.0) == "");
  BOOST_TEST(said(1, false, 0.0) == "");
}

BOOST_AUTO_TEST_CASE(progress_on_a_terminal_is_one_line_that_is_rewritten) {
  const auto said = [](int rank, Terminal terminal, std::uint64_t steps) {
    return standard_error_of([&] {
      const Logger log(rank, false, terminal);
      Progress progress(log, "sums", 4, "tokens", 0.0);
      for (std::uint64_t step = 1; step <= steps; ++step)
        progress.update(step, 100.0 * static_cast<double>(step));
      if (steps == 0) log.warn("odd");
    });
  };
  const auto lines = [](const std::string& text) { return std::count(text.begin(), text.end(), '\n'); };
  const std::string plain = said(0, {}, 4);
  BOOST_TEST(lines(plain) == 3);  // all but the first, which knows no rate
  BOOST_TEST(plain.find('\r') == std::string::npos);
  BOOST_TEST(plain.find("sums: 4/4 (100 %)") != std::string::npos);
  const std::string shown = said(0, {80, true}, 4);
  BOOST_TEST(lines(shown) == 1);  // the last one stays
  BOOST_TEST(shown.starts_with("\r\x1b[Ksums [########........] 2/4 (50 %)"), shown);
  BOOST_TEST(shown.find("\r\x1b[K[") != std::string::npos, shown);
  const std::string narrow = said(0, {20, false}, 3);
  BOOST_TEST(narrow == "\r\x1b[Ksums [########.....\n", narrow);  // and the next prompt has a line of its own
  BOOST_TEST(said(1, {80, true}, 4) == "");
  BOOST_TEST(said(0, {80, true}, 0).find("\x1b[33mwarning:\x1b[0m odd\n") != std::string::npos);
  BOOST_TEST(said(0, {80, false}, 0).find(" warning: odd\n") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_rate_is_known_of_work_that_is_done_at_once) {
  const std::string text = standard_error_of([] {
    const Logger log(0);
    Progress progress(log, "sums", 4, "tokens");
    ::usleep(2000);
    progress.update(4, 1e6);
  });
  BOOST_TEST(text.find("(100 %)") != std::string::npos);
  BOOST_TEST(text.find(" 0 tokens/s") == std::string::npos, text);
}

BOOST_AUTO_TEST_CASE(philox_known_answers) {
  // Random123, kat_vectors: philox4x32 10 rounds.
  using Counter = std::array<std::uint32_t, 4>;
  BOOST_TEST((philox4x32({0, 0, 0, 0}, {0, 0}) == Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  BOOST_TEST((philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
              Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  BOOST_TEST((philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
              Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

BOOST_AUTO_TEST_CASE(philox_streams_are_apart_and_repeat) {
  const Philox a(7, RandomPurpose::test), again(7, RandomPurpose::test);
  BOOST_TEST(a.bits(5) == again.bits(5));
  BOOST_TEST(a.bits(5) != a.bits(6));
  BOOST_TEST(a.bits(5) != Philox(8, RandomPurpose::test).bits(5));
  BOOST_TEST(a.bits(5) != Philox(std::uint64_t{7} | std::uint64_t{1} << 40, RandomPurpose::test).bits(5));
  BOOST_TEST(a.bits(5) != Philox(7, RandomPurpose::sense).bits(5));
  BOOST_TEST(a.bits(5) != Philox(7, RandomPurpose::test, 1).bits(5));
  BOOST_TEST(a.bits(5) != a.bits(5 + (std::uint64_t{1} << 32)));
}

BOOST_AUTO_TEST_CASE(philox_distributions) {
  const Philox random(3, RandomPurpose::test);
  constexpr int n = 20000;
  double sum = 0, normal_sum = 0, normal_squares = 0;
  std::vector<int> histogram(7);
  for (std::uint64_t i = 0; i < n; ++i) {
    const double u = random.uniform(i), z = random.normal(i);
    BOOST_REQUIRE((u >= 0.0 && u < 1.0));
    sum += u;
    normal_sum += z;
    normal_squares += z * z;
    ++histogram[random.below(i, 7)];
  }
  // Five standard errors: 0.289, 1 and 1.414 over sqrt(n); binomial for the histogram.
  const double root = std::sqrt(static_cast<double>(n));
  BOOST_TEST(std::abs(sum / n - 0.5) < 5 * 0.289 / root);
  BOOST_TEST(std::abs(normal_sum / n) < 5 / root);
  BOOST_TEST(std::abs(normal_squares / n - 1.0) < 5 * 1.415 / root);
  for (const int count : histogram) BOOST_TEST(std::abs(count - n / 7.0) < 5 * std::sqrt(n * 6 / 49.0));
  // High half of the 128-bit product, bound beyond 32 bits.
  const std::uint64_t bound = (std::uint64_t{1} << 40) + 12345;
  for (std::uint64_t i = 0; i < 100; ++i) {
    const double expected = static_cast<double>(random.bits(i)) * 0x1.0p-64 * static_cast<double>(bound);
    BOOST_TEST(std::abs(static_cast<double>(random.below(i, bound)) - expected) < 1.01);
  }
}

BOOST_AUTO_TEST_CASE(sha256_vectors) {
  // FIPS 180-2, appendix B.
  BOOST_TEST(sha256_text("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  BOOST_TEST(sha256_text("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  Sha256 pieces;
  pieces.update("a", 1);
  pieces.update("bc", 2);
  BOOST_TEST(pieces.hex() == sha256_text("abc"));
  const auto path = std::filesystem::temp_directory_path() / ("nmoe_sha_" + std::to_string(::getpid()));
  // One million times "a" (FIPS 180-2, B.3), longer than any read block.
  std::ofstream(path) << std::string(1000000, 'a');
  BOOST_TEST(sha256_file(path) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  std::filesystem::remove(path);
  BOOST_CHECK_EXCEPTION(sha256_file(path), Error, [&](const Error& error) {
    return error.code() == ErrorCode::bad_data && std::string(error.what()).find(path) != std::string::npos;
  });
}

BOOST_AUTO_TEST_CASE(fnv1a_published_values) {
  BOOST_TEST(fnv1a("") == 0x811C9DC5U);
  BOOST_TEST(fnv1a("a") == 0xE40C292CU);
  BOOST_TEST(fnv1a("foobar") == 0xBF9CF968U);
}

BOOST_AUTO_TEST_CASE(errors_carry_code_and_place) {
  const auto check = [](bool good) { NMOE_CHECK(good, internal, "{} is not {}", 1, 2); };
  BOOST_CHECK_NO_THROW(check(true));
  BOOST_CHECK_EXCEPTION(check(false), Error, [](const Error& error) {
    const std::string text = error.what();
    return error.code() == ErrorCode::internal && text.starts_with("1 is not 2 [") &&
           text.find("test_base_basics.cpp:") != std::string::npos && text.ends_with(": good]");
  });
  const auto option = [] { NMOE_CHECK(false, config, "mend the option"); };
  BOOST_CHECK_EXCEPTION(option(), Error,
                        [](const Error& error) { return error.what() == std::string("mend the option"); });
}

namespace {
int num_destroyed = 0;
void destroy(int) {
  ++num_destroyed;
}
}  // namespace

BOOST_AUTO_TEST_CASE(errors_stay_on_one_line) {
  const auto hostile = [] { NMOE_CHECK(false, bad_data, "key \"{}\" of Ελλάδα", "a\nb\x1b[2J\x7f"); };
  try {
    hostile();
    BOOST_TEST(false);
  } catch (const Error& e) {
    BOOST_TEST(std::string(e.what()) == "key \"a\\x0ab\\x1b[2J\\x7f\" of Ελλάδα");
  }
}

BOOST_AUTO_TEST_CASE(handle_destroys_once) {
  using Number = Handle<int, destroy>;
  {
    Number a(3);
    Number b(std::move(a));
    BOOST_TEST(b.get() == 3);
    Number c(4);
    c = std::move(b);  // destroys 4
    BOOST_TEST(num_destroyed == 1);
    BOOST_TEST(Number(5).release() == 5);
    BOOST_TEST(num_destroyed == 1);
  }
  BOOST_TEST(num_destroyed == 2);
}

BOOST_AUTO_TEST_CASE(shared_library_opens_the_first_there_is) {
  const std::string names[] = {"libno_such_thing.so.7", "libm.so.6"};
  const SharedLibrary found(names, "install it");
  double (*cosine)(double) = nullptr;
  found.find(cosine, "cos");
  BOOST_TEST(cosine(1.0) == std::cos(1.0));
  const auto says = [](const std::string& text) {
    return [text](const Error& e) { return e.code() == ErrorCode::config && e.what() == text; };
  };
  BOOST_CHECK_EXCEPTION(found.find(cosine, "no_such_function"), Error,
                        says("libm.so.6 has no function no_such_function; install it"));
  const std::string missing[] = {names[0], "/nowhere/libno_such_thing.so"};
  BOOST_CHECK_EXCEPTION(
      SharedLibrary(missing, "install it"), Error,
      says("libno_such_thing.so.7: cannot open shared object file: No such file or directory; "
           "install it"));
}

BOOST_AUTO_TEST_CASE(control_characters_are_shown) {
  BOOST_TEST(on_one_line("a\x1b[31m\n\tb\x7f") == "a\\x1b[31m\\x0a\\x09b\\x7f");
  BOOST_TEST(on_one_line("\xc2\x9b"
                         "1m\xc2\xa0\xce\xb1\xc2") == "\\xc2\\x9b1m\xc2\xa0\xce\xb1\xc2");
  BOOST_TEST(without_escapes("a\n\tb\x1b\r") == "a\n\tb\\x1b\\x0d");
}
