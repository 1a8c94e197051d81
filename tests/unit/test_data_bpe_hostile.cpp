// Damaged and unsupported tokenizer.json and rank files: one line that names the file and the place.
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>

#include "neuronmoe/data/tokenizer.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;
using namespace nmoe::data;
using nlohmann::json;

namespace {

json sound_document() {
  static const json file = json::parse(
      test::read_bytes(std::string(std::getenv("NMOE_TEST_SOURCE_DIR")) + "/tests/golden/tokenizers.json"));
  json document = file["variants"]["llama3"]["document"];
  document["model"]["vocab"] = file["vocab"];
  document["model"]["merges"] = file["merges"];
  return document;
}

std::string refused(const std::string& text, std::initializer_list<std::string_view> words) {
  const std::string outcome = test::expect_error(ErrorCode::bad_data, words,
                                                 [&] { parse_tokenizer_json(text, "", "d/tokenizer.json"); });
  return outcome.empty() ? test::expect_error(ErrorCode::bad_data, {"d/tokenizer.json"},
                                              [&] { parse_tokenizer_json(text, "", "d/tokenizer.json"); })
                         : outcome;
}

struct Case {
  std::string place;  // JSON pointer
  json value;         // what stands there instead; discarded = removed
  std::string word;
};

const json removed(json::value_t::discarded);

}  // namespace

BOOST_AUTO_TEST_CASE(unsupported_settings_are_named) {
  BOOST_TEST((parse_tokenizer_json(sound_document().dump(), "", "x") != nullptr));
  const json byte_level = {{"type", "ByteLevel"}};
  const std::string split = "/pre_tokenizer/pretokenizers/0", regex = split + "/pattern/Regex";
  const std::vector<Case> cases = {
      {"/model", removed, "tokenizer.model is missing"},
      {"/model/type", "WordPiece", "model.type is \"WordPiece\""},
      {"/model/dropout", 0.1, "model.dropout"},
      {"/model/byte_fallback", true, "model.byte_fallback"},
      {"/model/continuing_subword_prefix", "##", "model.continuing_subword_prefix"},
      {"/model/end_of_word_suffix", "</w>", "model.end_of_word_suffix"},
      {"/model/cache_capacity", 1, "model.cache_capacity is not supported"},
      {"/model/ignore_merges", "yes", "model.ignore_merges"},
      {"/model/vocab", json::array(), "model.vocab"},
      {"/model/vocab/a", -1, "model.vocab[\"a\"]"},
      {"/model/vocab/a", 1.5, "model.vocab[\"a\"]"},
      {"/model/vocab/a", 4294967296, "model.vocab[\"a\"]"},
      {"/model/vocab/a", 1 << 29, "far beyond"},
      {"/model/vocab/a", 0, "id 0 is given twice"},
      {"/model/vocab/a", removed, "is not in the vocabulary"},
      {"/model/merges", json::object(), "model.merges"},
      {"/model/merges/3", "one two three", "model.merges[3]"},
      {"/model/merges/3", json::array({"a"}), "model.merges[3]"},
      {"/model/merges/3", json::array({"a", 1}), "model.merges[3]"},
      {"/model/merges/3", json::array({"a", "zzzz"}), "\"zzzz\" is not in the vocabulary"},
      {"/model/merges/3", json::array({"Ġunreachable", "a"}), "\"Ġunreachablea\" is not in the vocabulary"},
      {"/normalizer", {{"type", "NFKC"}}, "tokenizer.normalizer.type is \"NFKC\""},
      {"/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Replace"}}}}}, "normalizers[0]"},
      {"/normalizer", "NFC", "tokenizer.normalizer is not an object"},
      {"/pre_tokenizer", nullptr, "tokenizer.pre_tokenizer"},
      {"/pre_tokenizer", {{"type", "Whitespace"}}, "Whitespace"},
      {"/pre_tokenizer/pretokenizers/1/add_prefix_space", true, "behind a Split"},
      {"/pre_tokenizer/pretokenizers/1/surprise", 1, "surprise is not supported"},
      {"/pre_tokenizer/pretokenizers", json::array(), "tokenizer.pre_tokenizer"},
      {split, {{"type", "Punctuation"}}, "pretokenizers[0].type is \"Punctuation\""},
      {split, {{"type", "Digits"}, {"runs", true}}, "runs is not supported"},
      {split + "/behavior", "Removed", "behavior is \"Removed\""},
      {split + "/invert", true, "invert"},
      {split + "/pattern", {{"String", " "}}, "String is not supported"},
      {regex, "", "Regex is empty"},
      {regex, "a(", "is not valid"},
      {regex, "a*", "match the empty text"},
      {regex, "^a", "\"^\" at byte 0"},
      {regex, "a$", "\"$\" at byte 1"},
      {regex, "\\bx", "\"\\b\""},
      {regex, "(?<=a)b", "\"(?<\""},
      {regex, "(*ACCEPT)a", "\"(*\""},
      {regex, "[[:alpha:]]", "\"[\""},
      {regex, "[a&&b]", "\"&&\""},
      {regex, "[\\S]", "\"\\S\""},
      {regex, "\\p{Greek}", "\\p{Greek"},
      {regex, "a{,3}", "\"{,3}\""},
      {regex, std::string(3000, 'a'), "3000 bytes"},
      {"/post_processor", {{"type", "BertProcessing"}}, "BertProcessing"},
      {"/post_processor/processors/1/single/1", {{"Sequence", {{"id", "B"}}}}, "single[1]"},
      {"/post_processor/processors/1/single/2", {{"SpecialToken", {{"id", "<|end|>"}}}}, "single[2]"},
      {"/post_processor/processors/1/single", json::array(), "single has no text"},
      {"/post_processor/processors/1/special_tokens", json::object(), "special_tokens.<|begin|> is missing"},
      {"/post_processor/processors/1/special_tokens/<|begin|>/ids", {5}, "is not the token of id 5"},
      {"/post_processor/processors/1/special_tokens/<|begin|>/ids", {1, 2}, "needs to be one id"},
      {"/decoder", nullptr, "tokenizer.decoder"},
      {"/decoder", {{"type", "Metaspace"}}, "Metaspace"},
      {"/added_tokens/0/content", "", "added_tokens[0].content is empty"},
      {"/added_tokens/0/id", 3, "added_tokens[0].id"},
      {"/added_tokens/1/id", 1 << 30, "added_tokens[1].id is 1073741824"},
      {"/added_tokens/1/id", 900, "added_tokens[1].id is 900"},
      {"/added_tokens/1/content", "<|begin|>", "added_tokens[1].id is 802, but \"<|begin|>\" has id 801"},
      {"/added_tokens/0/rstrip", 1, "added_tokens[0].rstrip"},
      {"/added_tokens", json::object(), "tokenizer.added_tokens is not an array"},
      {"/extra", 1, "tokenizer.extra is not supported"},
  };
  for (const Case& c : cases) {
    json document = sound_document();
    const json::json_pointer at(c.place);
    if (c.value.is_discarded())
      document.at(at.parent_pointer()).erase(at.back());
    else
      document[at] = c.value;
    BOOST_TEST_CONTEXT(c.place << " = " << c.value.dump()) {
      BOOST_TEST(refused(document.dump(), {c.word}) == "");
    }
  }
}

BOOST_AUTO_TEST_CASE(text_that_needs_a_byte_without_token_is_refused) {
  json document = sound_document();
  document["model"]["merges"] = json::array();
  document["model"]["vocab"].erase("Ġ");  // the space
  document["added_tokens"] = json::array();
  document["post_processor"] = nullptr;
  const auto encode = [&](const std::string& text) {
    return parse_tokenizer_json(document.dump(), "", "dir/tokenizer.json")->encode(text);
  };
  BOOST_TEST(encode("ab").size() == 2U);
  const auto lost = [&](const std::string& text, std::string_view word) {
    return test::expect_error(ErrorCode::bad_data, {"dir/tokenizer.json", word}, [&] { encode(text); });
  };
  BOOST_TEST(lost("a b", "byte 0x20 (\"Ġ\") has no token") == "");
  json raw = json::object();  // characters instead of GPT-2's alphabet: Hugging Face would drop every space
  for (int c = 0; c < 128; ++c) raw[std::string(1, static_cast<char>(c))] = c;
  document["model"]["vocab"] = raw;
  BOOST_TEST(encode("ab").size() == 2U);
  BOOST_TEST(lost("a b", "has no token") == "");
  BOOST_TEST(lost("κ", "has no token") == "");
}

BOOST_AUTO_TEST_CASE(added_tokens_do_not_share_ids_with_a_vocabulary_that_has_gaps) {
  json document = sound_document();
  document["model"]["vocab"].erase("Ġunreachable");  // id 800, the last
  document["model"]["vocab"]["Ġfar"] = 805;
  BOOST_TEST(refused(document.dump(), {"added_tokens[0].id is 801", "uses too"}) == "");
}

BOOST_AUTO_TEST_CASE(damaged_json_is_refused) {
  const std::string whole = sound_document().dump();
  for (const std::string& text :
       {std::string(), whole.substr(0, whole.size() / 2), whole + "}", "\xFF" + whole, std::string("[]"),
        std::string("null"), std::string(5000, '[')})
    BOOST_TEST(refused(text, {}) == "");
  BOOST_TEST(refused("{\"model\":1,\"model\":2}", {"\"model\" appears twice"}) == "");
  for (std::size_t cut = 0; cut < whole.size(); cut += 997)
    BOOST_TEST(refused(whole.substr(0, cut), {}) == "");
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"d/tokenizer_config.json", "eos_token"}, [&] {
               parse_tokenizer_json(whole, R"({"eos_token": 3})", "d/tokenizer.json");
             }) == "");
}

// Merging takes memory for every byte of a piece; text that splits may be as long as it likes.
BOOST_AUTO_TEST_CASE(pieces_too_long_to_merge_are_refused) {
  const auto tokenizer = parse_tokenizer_json(sound_document().dump(), "", "x");
  constexpr std::size_t nine_mib = std::size_t{9} << 20;
  const std::string word(nine_mib, 'a');
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"9437184 bytes in one piece", "at most 8388608"},
                                [&] { tokenizer->encode(word); }) == "");
  std::string words;
  while (words.size() < nine_mib) words += "ab cd ";
  BOOST_TEST(tokenizer->encode(words).size() > nine_mib / 6);
}

BOOST_AUTO_TEST_CASE(damaged_rank_files_are_refused) {
  const auto outcome = [](const std::string& bytes, std::string_view word) {
    return test::expect_error(ErrorCode::bad_data, {"r.tiktoken", word},
                              [&] { parse_rank_file(bytes, "r.tiktoken", RankFamily::llama3); });
  };
  std::string token257;
  for (int i = 0; i < 343; ++i) token257 += i < 342 ? "QUFB" : "QQ==";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "byte 0x00"},
      {"IQ==\n", ":1: no space"},
      {"IQ== 0\nIg==\n", ":2: no space"},
      {"I!== 0\n", "not base64"},
      {"IQ= 0\n", "base64 of 3 characters"},
      {" 0\n", "base64 of 0 characters"},
      {"IR== 0\n", "stray bits"},
      {"IQ== x\n", "not a number"},
      {"IQ== -1\n", "not a number"},
      {"IQ== 0 \n", "not a number"},
      {"IQ== 99999999999999999999\n", "not a number"},
      {"IQ== 1\n", "rank 1 in a file of 1 tokens"},
      {"IQ== 2147483647\n", "rank 2147483647 in a file of 1 tokens"},
      {"IQ== 0\nIg== 0\n", "rank 0 is given twice"},
      {"IQ== 0\nIQ== 1\n", "ranks 0 and 1 are the same token"},
      {token257 + " 0\n", "token of 1027 bytes"},
      {"IQ== 0\n", "byte 0x00"},
  };
  for (const auto& [bytes, word] : cases) BOOST_TEST_CONTEXT(bytes.substr(0, 60)) {
      BOOST_TEST(outcome(bytes, word) == "");
    }
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"1 ranks", "tokenizer.json"},
                                [&] { parse_rank_file("IQ== 0\n", "r", RankFamily::by_size); }) == "");
}
