// The sentencepiece tokenizer against ids from spm_encode. tests/golden/tiny_spm.model: 340 pieces, BPE with
// byte fallback, trained by spm_train on 120 lines of English and Greek.
#include <boost/test/unit_test.hpp>
#include <cstdlib>

#include "neuronmoe/data/tokenizer.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;

namespace {

/// The tiny model, or nothing in a build without sentencepiece (which must say so).
std::unique_ptr<data::Tokenizer> load_tiny() {
  const std::string path = std::string(std::getenv("NMOE_TEST_SOURCE_DIR")) + "/tests/golden/tiny_spm.model";
  try {
    return data::load_tokenizer(path);
  } catch (const Error& e) {
    BOOST_TEST((e.code() == ErrorCode::config));
    BOOST_TEST(std::string(e.what()).find("without sentencepiece") != std::string::npos);
    return nullptr;
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(ids_are_those_of_spm_encode) {
  const auto tokenizer = load_tiny();
  if (!tokenizer) return;
  const std::string text = "the fox η αλεπού 中 12";
  const std::vector<std::int32_t> expected = {265, 280, 270, 314, 280, 287, 263, 298, 296, 283,
                                              288, 329, 280, 231, 187, 176, 280, 330, 331};
  const auto ids = tokenizer->encode(text);
  BOOST_TEST(ids == expected, boost::test_tools::per_element());
  BOOST_TEST(tokenizer->decode(ids) == text);
  BOOST_TEST(tokenizer->encode("").empty());
  BOOST_TEST(tokenizer->vocab_size() == 340);
  BOOST_TEST(tokenizer->bos_id() == 1);
  BOOST_TEST(tokenizer->eos_id() == 2);
  BOOST_TEST(tokenizer->add_bos());
  const std::vector<std::int32_t> outside = {340};
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"id 340"}, [&] { tokenizer->decode(outside); }) == "");
}

BOOST_AUTO_TEST_CASE(damaged_models_are_refused) {
  const auto tokenizer = load_tiny();
  if (!tokenizer) return;
  const test::TempDir dir;
  const std::string whole = test::read_bytes(tokenizer->path());
  for (const std::string& bytes :
       {std::string(), whole.substr(0, whole.size() / 2), std::string(1000, 'x')}) {
    test::write_bytes(dir / "bad.model", bytes);
    BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"bad.model"},
                                  [&] { data::load_tokenizer(dir / "bad.model"); }) == "");
  }
}
