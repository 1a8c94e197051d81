// The sentencepiece tokenizer against ids from spm_encode. tests/golden/tiny_spm.model: 340 pieces, BPE with
// byte fallback, trained by spm_train on 120 lines of English and Greek.
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "neuronmoe/base/philox.hpp"
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

/// The tiny model with one more piece, "qζ▁ξq", which goes on behind a word: its texts are never cut.
std::unique_ptr<data::Tokenizer> uncut_copy(const data::Tokenizer& original, const test::TempDir& dir) {
  const std::string piece = "qζ\xE2\x96\x81ξq";
  std::string message = {'\x0A', static_cast<char>(piece.size())};
  message += piece;
  message += std::string("\x15\0\0\xC8\xC2", 5);  // score −100
  std::string model = test::read_bytes(original.path());
  model += '\x0A';
  model += static_cast<char>(message.size());
  test::write_bytes(dir / "uncut.model", model + message);
  return data::load_tokenizer(dir / "uncut.model");
}

/// Words, runs of spaces, other white space, characters without a piece, and U+2581 as it is.
std::string many_words(std::size_t bytes, std::uint64_t seed) {
  const Philox random(seed, RandomPurpose::test);
  const char* words[] = {"the", "fox",          "αλεπού",        "12",       "中文", "a",  ".", "\t",
                         "\n",  "\xE2\x96\x81", "\xE2\x96\x81x", "\xC2\xA0", "\x01", "καὶ"};
  const char* between[] = {" ", " ", " ", " ", "  ", "", "   ", " \n "};
  std::string text = "  ";
  for (std::uint64_t i = 0; text.size() < bytes; ++i) {
    text += words[random.below(2 * i, std::size(words))];
    text += between[random.below(2 * i + 1, std::size(between))];
  }
  return text;
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
  BOOST_TEST(tokenizer->bos_rule().to_string() == "1 (tiny_spm.model)");
  const auto special = tokenizer->encode_sentence("the");
  BOOST_TEST(special == (std::vector<std::int32_t>{1, 265}), boost::test_tools::per_element());
  const std::vector<std::int32_t> outside = {340};
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"id 340"}, [&] { tokenizer->decode(outside); }) == "");
}

// A text of several parts has the ids that the library gives to the whole of it.
BOOST_AUTO_TEST_CASE(long_texts_are_encoded_in_parts) {
  const auto tokenizer = load_tiny();
  if (!tokenizer) return;
  const test::TempDir dir;
  const auto uncut = uncut_copy(*tokenizer, dir);
  BOOST_TEST(uncut->vocab_size() == 341);
  for (const std::uint64_t seed : {1, 2, 3}) {
    const std::string text = many_words(400'000, seed);
    BOOST_TEST((tokenizer->encode(text) == uncut->encode(text)));
  }
  const std::string word(70'000, 'e');  // longer than a part
  for (const std::string& text :
       {word + " the fox", "the " + word + " fox", word + "  fox", word + ' ', ' ' + word})
    BOOST_TEST((tokenizer->encode(text) == uncut->encode(text)));
  const std::string words = many_words(3 << 20, 4), letters(3 << 20, 'e');
  BOOST_TEST(tokenizer->encode(words).size() > 1000000U);
  BOOST_TEST(
      test::expect_error(ErrorCode::bad_data,
                         {"3145728 bytes without a place to cut", "space between two words", "2097152"},
                         [&] { tokenizer->encode(letters); }) == "");
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"pieces go on behind a word", "2097152"},
                                [&] { uncut->encode(words); }) == "");
}

BOOST_AUTO_TEST_CASE(files_beside_a_model_say_how_a_sentence_begins) {
  const auto bare = load_tiny();
  if (!bare) return;
  const test::TempDir dir;
  test::write_bytes(dir / "tokenizer.model", test::read_bytes(bare->path()));
  const auto rule = [&](const std::string& settings) {
    test::write_bytes(dir / "tokenizer_config.json", settings);
    return data::load_tokenizer(dir.path())->bos_rule().to_string();
  };
  BOOST_TEST(rule("{}") == "1 (tokenizer.model)");
  BOOST_TEST(rule(R"({"add_bos_token": false, "bos_token": "<s>"})") == "none (tokenizer_config.json)");
  BOOST_TEST(rule(R"({"add_bos_token": true})") == "1 (tokenizer_config.json)");
  BOOST_TEST(rule(R"({"add_bos_token": true, "bos_token": {"content": "</s>"}})") ==
             "2 (tokenizer_config.json)");
  const auto tokenizer = data::load_tokenizer(dir.path());
  BOOST_TEST(tokenizer->encode_sentence("the") == (std::vector<std::int32_t>{2, 265}),
             boost::test_tools::per_element());
  for (const char* bad : {R"({"add_bos_token": true, "bos_token": "<bos>"})", R"({"add_bos_token": 1})"})
    BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"tokenizer_config.json", "add_bos_token"},
                                  [&] { rule(bad); }) == "");
  test::write_bytes(dir / "tokenizer.json", R"({"model": {}, "post_processor": null})");
  BOOST_TEST(rule(R"({"add_bos_token": true})") == "none (tokenizer.json)");
  test::write_bytes(dir / "tokenizer.json", R"({"post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
    "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}}})");
  BOOST_TEST(rule(R"({"add_bos_token": false})") == "2 (tokenizer.json)");
}

/// A copy under the name tokenizer.model, with the settings that settings_of_copy gives it.
std::unique_ptr<data::Tokenizer> copy_of(const data::Tokenizer& original, const std::string& settings,
                                         const test::TempDir& dir) {
  test::write_bytes(dir / "tokenizer.model", test::read_bytes(original.path()));
  test::write_bytes(dir / "tokenizer_config.json", settings);
  return data::load_tokenizer(dir.path());
}

BOOST_AUTO_TEST_CASE(a_copy_begins_sentences_as_the_original) {
  const auto bare = load_tiny();
  if (!bare) return;
  const test::TempDir dir;
  const auto copy = copy_of(*bare, data::settings_of_copy(*bare, 2), dir);  // the model's own BOS stays
  BOOST_TEST(copy->bos_rule().to_string() == "1 (tokenizer_config.json)");
  test::write_bytes(dir / "tokenizer_config.json", R"({"add_bos_token": false, "chat_template": "x"})");
  const auto none = data::load_tokenizer(dir.path());
  const test::TempDir second;
  const std::string settings = data::settings_of_copy(*none, 2);
  BOOST_TEST(settings.find("chat_template") != std::string::npos);
  BOOST_TEST(copy_of(*none, settings, second)->bos_rule().to_string() == "none (tokenizer_config.json)");
}

BOOST_AUTO_TEST_CASE(config_of_a_model_says_it_where_nothing_else_does) {
  struct Bare final : data::Tokenizer {  // a sentencepiece model without a BOS
    Bare() : Tokenizer("dir/bare.model", "none") {}
    std::vector<std::int32_t> encode(std::string_view) const override { return {}; }
    std::string decode(std::span<const std::int32_t>) const override { return {}; }
    std::int64_t vocab_size() const override { return 4; }
    std::int32_t bos_id() const override { return -1; }
    std::int32_t eos_id() const override { return 2; }
    std::string token(std::int32_t id) const override { return "<" + std::to_string(id) + ">"; }
    const data::BosRule& bos_rule() const override { return rule; }
    std::string name() const override { return "bare"; }
    data::BosRule rule = {-1, "bare.model", false};
  } bare;
  const auto settings = [&](std::int64_t id) {
    return nlohmann::json::parse(data::settings_of_copy(bare, id));
  };
  BOOST_TEST(settings(3).dump() == R"({"add_bos_token":true,"bos_token":"<3>","eos_token":"<2>"})");
  BOOST_TEST(settings(-1).dump() == R"({"add_bos_token":false,"eos_token":"<2>"})");
  BOOST_TEST(test::expect_error(ErrorCode::config, {"bos_token_id = 4", "bare", "has 4"},
                                [&] { settings(4); }) == "");
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
