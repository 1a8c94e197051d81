// Byte-level BPE tokenizers against ids made by Hugging Face tokenizers and tiktoken
// (tests/golden/tokenizers.json, written by tokenizers_make.py).
#include <omp.h>

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "neuronmoe/data/tokenizer.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;
using namespace nmoe::data;
using nlohmann::json;
using Ids = std::vector<std::int32_t>;

namespace {

const json& golden() {
  static const json file = json::parse(
      test::read_bytes(std::string(std::getenv("NMOE_TEST_SOURCE_DIR")) + "/tests/golden/tokenizers.json"));
  return file;
}

/// The tokenizer.json of a variant, with merges as ["a", "b"] or as "a b".
json document_of(const std::string& variant, bool merges_as_text = false) {
  json document = golden()["variants"][variant]["document"];
  document["model"]["vocab"] = golden()["vocab"];
  document["model"]["merges"] = golden()["merges"];
  if (merges_as_text)
    for (json& merge : document["model"]["merges"])
      merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  return document;
}

std::unique_ptr<Tokenizer> parse(const json& document, const std::string& config = "") {
  return parse_tokenizer_json(document.dump(), config, "dir/tokenizer.json");
}

std::string shown(const Ids& ids) {
  return json(ids).dump();
}

/// "" or the first text whose ids differ.
std::string first_difference(const Tokenizer& tokenizer, const json& texts, const json& expected) {
  BOOST_TEST(texts.size() == expected.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const Ids found = tokenizer.encode(texts[i].get<std::string>()), wanted = expected[i].get<Ids>();
    if (found != wanted) return texts[i].dump() + ": " + shown(found) + " instead of " + shown(wanted);
  }
  return "";
}

json ids_of(const json& cases) {
  json ids = json::array();
  for (const json& c : cases) ids.push_back(c["ids"]);
  return ids;
}

}  // namespace

BOOST_AUTO_TEST_CASE(ids_and_texts_of_hugging_face_tokenizers) {
  const json& texts = golden()["texts"];
  BOOST_TEST(texts.size() >= 50U);
  BOOST_TEST(golden()["variants"].size() == 11U);
  for (const auto& [name, variant] : golden()["variants"].items()) {
    BOOST_TEST_CONTEXT(name) {
      const auto pairs = parse(document_of(name)), strings = parse(document_of(name, true));
      const json expected = ids_of(variant["cases"]);
      BOOST_TEST(first_difference(*pairs, texts, expected) == "");
      BOOST_TEST(first_difference(*pairs, texts, expected) == "");  // out of the cache of pieces
      BOOST_TEST(first_difference(*strings, texts, expected) == "");
      for (std::size_t i = 0; i < texts.size(); ++i) {
        const json& c = variant["cases"][i];
        const auto decoded =
            c.contains("decoded") ? c["decoded"].get<std::string>() : texts[i].get<std::string>();
        BOOST_TEST(pairs->decode(c["ids"].get<Ids>()) == decoded);
        Ids with_specials = c["with_specials"].get<Ids>();
        for (const std::int32_t id : c["ids"].get<Ids>()) with_specials.push_back(id);
        BOOST_TEST(pairs->encode_sentence(texts[i].get<std::string>()) == with_specials,
                   boost::test_tools::per_element());
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(ids_of_tiktoken) {
  const json& ranks = golden()["ranks"];
  const auto file = ranks["file"].get<std::string>();
  std::string crlf;
  for (const char c : file) crlf += c == '\n' ? std::string("\r\n") : std::string(1, c);
  for (const auto& [name, family] :
       {std::pair{"llama3", RankFamily::llama3}, std::pair{"qwen", RankFamily::qwen},
        std::pair{"gpt2", RankFamily::gpt2}}) {
    BOOST_TEST_CONTEXT(name) {
      const json& expected = ranks["cases"][name];
      BOOST_TEST(first_difference(*parse_rank_file(file, "r", family), ranks["texts"], expected) == "");
      BOOST_TEST(first_difference(*parse_rank_file(crlf, "r", family), ranks["texts"], expected) == "");
    }
  }
  const auto first = static_cast<std::int32_t>(golden()["vocab"].size());
  const auto llama3 = parse_rank_file(file, "r", RankFamily::llama3),
             qwen = parse_rank_file(file, "r", RankFamily::qwen);
  BOOST_TEST(llama3->vocab_size() == first + 256);
  BOOST_TEST((llama3->bos_rule().id == first && llama3->bos_id() == first && llama3->eos_id() == first + 1));
  BOOST_TEST((qwen->bos_rule().id == -1 && qwen->bos_id() == -1 && qwen->eos_id() == first));
  const Ids last = {first + 255};
  BOOST_TEST(llama3->decode(last) == "<|reserved_special_token_247|>");  // Llama 3.1's own list ends there
  const Ids eot = {first + 9};
  BOOST_TEST(llama3->decode(eot) == "<|eot_id|>");
}

BOOST_AUTO_TEST_CASE(special_tokens_and_their_ids) {
  const auto first = static_cast<std::int32_t>(golden()["vocab"].size());
  const auto llama3 = parse(document_of("llama3"));
  BOOST_TEST((llama3->bos_rule().id == first && llama3->bos_id() == first));
  BOOST_TEST(llama3->eos_id() == -1);  // "<|end|>" is no well-known name
  BOOST_TEST(llama3->vocab_size() == first + 2);
  const auto named =
      parse(document_of("llama3"), R"({"eos_token": {"content": "<|end|>"}, "bos_token": null})");
  BOOST_TEST(named->eos_id() == first + 1);
  const auto gpt2 = parse(document_of("gpt2"), R"({"eos_token": "<|end|>", "bos_token": "<|begin|>"})");
  BOOST_TEST((gpt2->bos_rule().id == -1 && gpt2->bos_id() == first && gpt2->eos_id() == first + 1));
  json known = document_of("gpt2");
  known["added_tokens"][1]["content"] = "<|endoftext|>";
  BOOST_TEST(parse(known)->eos_id() == first + 1);
  BOOST_TEST(test::expect_error(ErrorCode::bad_data,
                                {"dir/tokenizer_config.json", "\"<|fin|>\"", "dir/tokenizer.json"},
                                [&] { parse(document_of("gpt2"), R"({"eos_token": "<|fin|>"})"); }) == "");
}

BOOST_AUTO_TEST_CASE(post_processor_alone_puts_a_bos) {
  const std::string first = std::to_string(golden()["vocab"].size());
  for (const char* add : {"true", "false", "null"}) {
    const std::string config = R"({"bos_token": "<|begin|>", "add_bos_token": )" + std::string(add) + "}";
    BOOST_TEST(parse(document_of("llama3"), config)->bos_rule().to_string() == first + " (tokenizer.json)");
    for (const char* none : {"gpt2", "qwen"}) {
      const auto tokenizer = parse(document_of(none), config);
      BOOST_TEST(tokenizer->bos_rule().to_string() == "none (tokenizer.json)");
      BOOST_TEST(std::to_string(tokenizer->bos_id()) == first);
      BOOST_TEST(tokenizer->encode_sentence("the") == tokenizer->encode("the"),
                 boost::test_tools::per_element());
      BOOST_TEST(settings_of_copy(*tokenizer, 5) == "");  // config.json has no say
    }
  }
  const auto ranks = golden()["ranks"]["file"].get<std::string>();
  const auto rule = [&](RankFamily family) {
    return parse_rank_file(ranks, "dir/r.model", family)->bos_rule().to_string();
  };
  BOOST_TEST(rule(RankFamily::llama3) == first + " (r.model)");
  BOOST_TEST(rule(RankFamily::qwen) == "none (r.model)");
  BOOST_TEST(rule(RankFamily::gpt2) == "none (r.model)");
}

BOOST_AUTO_TEST_CASE(directories_and_files) {
  const test::TempDir dir;
  test::write_bytes(dir / "tokenizer.json", document_of("llama3").dump());
  test::write_bytes(dir / "tokenizer_config.json", R"({"eos_token": "<|end|>"})");
  const auto tokenizer = load_tokenizer(dir.path());
  BOOST_TEST(tokenizer->name() == "tokenizer.json " + (dir / "tokenizer.json"));
  BOOST_TEST(tokenizer->sha256().size() == 64U);
  BOOST_TEST(tokenizer->eos_id() == tokenizer->bos_id() + 1);
  BOOST_TEST(settings_of_copy(*tokenizer, -1) == R"({"eos_token": "<|end|>"})");
}

BOOST_AUTO_TEST_CASE(texts_that_are_no_text) {
  const auto tokenizer = parse(document_of("llama3"));
  for (const char* bad : {"\xFF", "a\xC3", "\xED\xA0\x80", "\xC0\xAF", "\xF4\x90\x80\x80"})
    BOOST_TEST(
        test::expect_error(ErrorCode::bad_data, {"not valid UTF-8"}, [&] { tokenizer->encode(bad); }) == "");
  const Ids half = {tokenizer->encode("é")[0]};  // é is two tokens here
  BOOST_TEST(tokenizer->encode("é").size() == 2U);
  BOOST_TEST(tokenizer->decode(half) == "\uFFFD");
  const Ids outside = {static_cast<std::int32_t>(tokenizer->vocab_size())}, negative = {-1};
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"is not in a vocabulary"},
                                [&] { tokenizer->decode(outside); }) == "");
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"id -1"}, [&] { tokenizer->decode(negative); }) == "");
}

// A quadratic merge or split would take hours here, not a second.
BOOST_AUTO_TEST_CASE(long_runs_take_linear_time) {
  const auto tokenizer = parse(document_of("llama3")), qwen = parse(document_of("qwen"));
  const std::size_t million = 1 << 20;
  std::string marks;
  for (std::size_t i = 0; i < million / 4; ++i) marks += i % 2 == 0 ? "\u0301" : "\u0323";
  for (const std::string& text :
       {std::string(million, 'a'), std::string(million, ' ') + "x", std::string(million, '='),
        std::string(million, '\n'), std::string(million, '<'), std::string(million, '1')}) {
    BOOST_TEST((tokenizer->decode(tokenizer->encode(text)) == text));
    BOOST_TEST((qwen->decode(qwen->encode(text)) == text));
  }
  BOOST_TEST(qwen->decode(qwen->encode(marks)).size() == marks.size());
}

BOOST_AUTO_TEST_CASE(threads_share_a_tokenizer) {
  const auto tokenizer = parse(document_of("qwen"));
  const json& texts = golden()["texts"];
  const json expected = ids_of(golden()["variants"]["qwen"]["cases"]);
  int wrong = 0;
#pragma omp parallel for num_threads(4) reduction(+ : wrong)
  for (int i = 0; i < 2000; ++i) {
    const auto at = static_cast<std::size_t>(i) % texts.size();
    if (tokenizer->encode(texts[at].get<std::string>()) != expected[at].get<Ids>()) ++wrong;
  }
  BOOST_TEST(wrong == 0);
}

// Equal ranks merge from the left: an odd run leaves its single letter at the end, in short pieces
// and long.
BOOST_AUTO_TEST_CASE(ties_merge_leftmost_first) {
  json document = document_of("llama3_merged");
  document["model"]["vocab"]["zz"] = golden()["vocab"].size();
  document["model"]["merges"] = json::array({json::array({"z", "z"})});
  document["added_tokens"] = json::array();
  document["post_processor"] = nullptr;
  const auto tokenizer = parse(document);
  const auto one = golden()["vocab"]["z"].get<std::int32_t>();
  const auto two = static_cast<std::int32_t>(golden()["vocab"].size());
  for (const std::size_t length : {3U, 5U, 47U, 49U, 51U, 1001U}) {
    Ids expected(length / 2, two);
    expected.push_back(one);
    BOOST_TEST(tokenizer->encode(std::string(length, 'z')) == expected, boost::test_tools::per_element());
  }
}

// More pieces of one length than the cache of pieces holds: an entry must never answer for another piece.
BOOST_AUTO_TEST_CASE(many_pieces_of_one_length) {
  const auto tokenizer = parse(document_of("llama3"));
  std::string text;
  for (int i = 0; i < 26 * 26 * 26 * 10; ++i) {
    text += ' ';
    for (int j = i, k = 0; k < 4; ++k, j /= 26) text += static_cast<char>('a' + j % 26);
  }
  const Ids ids = tokenizer->encode(text);
  BOOST_TEST((tokenizer->decode(ids) == text));
  BOOST_TEST((tokenizer->encode(text) == ids));
}

// U+180E is no white space to Oniguruma and Unicode, but it is to PCRE2's own \s.
BOOST_AUTO_TEST_CASE(white_space_is_that_of_unicode) {
  json document = document_of("llama3");
  document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\s+|\\S+";
  const auto first = static_cast<std::int32_t>(golden()["vocab"].size());
  document["model"]["vocab"]["áłİz"] = first;      // the bytes E1 A0 8E of U+180E, and z
  document["model"]["vocab"]["âĢĥz"] = first + 1;  // E2 80 83 of U+2003, which is white space
  document["added_tokens"] = json::array();
  document["post_processor"] = nullptr;
  const auto tokenizer = parse(document);
  BOOST_TEST(tokenizer->encode("\u180Ez") == Ids{first}, boost::test_tools::per_element());
  BOOST_TEST(tokenizer->encode("\u2003z").size() > 1U);
}
