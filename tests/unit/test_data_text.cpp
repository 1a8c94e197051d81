// Documents from files, token files, tokenizers: round trips and bad input.
#include <boost/test/unit_test.hpp>

#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/data/jsonl.hpp"
#include "neuronmoe/data/token_file.hpp"
#include "neuronmoe/data/tokenize.hpp"
#include "neuronmoe/data/tokenizer.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/io/mapped_file.hpp"
#include "support/documents.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;
using namespace nmoe::data;
using test::expect_error;

namespace {

test::Documents documents_of_file(const std::string& path) {
  const TextFormat format = text_format_of(path);
  const io::MappedFile file(path);
  return test::documents_of(file.bytes(), format, 0, static_cast<std::int64_t>(file.bytes().size()));
}

struct Parts {  // the datasets of a token file, to damage one at a time
  std::vector<std::uint32_t> ids = {1, 2, 9, 3, 9};
  std::vector<std::uint64_t> offset = {0, 3, 5};
  std::vector<std::uint16_t> lang = {0, 1};
  std::vector<std::uint8_t> mark = {1, 0};
  std::int64_t vocab_size = 10, eos_id = 9, version = 1;
};

std::string refusal(const Parts& parts, std::string_view word) {
  const test::TempDir dir;
  io::write_h5_atomically(dir / "t.h5", io::Storage::contiguous, [&](io::H5File& f) {
    f.write_attribute("/", "format", "neuronmoe-tokens");
    f.write_attribute("/", "format_version", parts.version);
    f.write_attribute("/", "vocab_size", parts.vocab_size);
    f.write_attribute("/", "eos_id", parts.eos_id);
    f.write_attribute("/", "tokenizer_sha256", "t");
    f.write_attribute("/", "inputs_sha256", "i");
    f.write_strings("/languages", {"en", "el"});
    f.write("/ids", parts.ids);
    f.write("/doc/offset", parts.offset);
    f.write("/doc/lang", parts.lang);
    f.write("/doc/mark", parts.mark);
  });
  return expect_error(ErrorCode::bad_data, {"t.h5", word}, [&] { TokenFile file(dir / "t.h5"); });
}

template <typename Change>
std::string refusal(Change change, std::string_view word) {
  Parts parts;
  change(parts);
  return refusal(parts, word);
}

}  // namespace

BOOST_AUTO_TEST_CASE(utf8) {
  for (const char* good : {"", "abc", "ελ", "中文", "\xF0\x9F\x98\x80", "\xEF\xBF\xBF", "\xF4\x8F\xBF\xBF"})
    BOOST_TEST(is_valid_utf8(good));
  for (const char* bad : {"\x80", "\xC0\xAF", "\xC1\xBF", "\xC3", "\xC3\x28", "\xE0\x80\xAF", "\xE2\x82",
                          "\xED\xA0\x80", "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"})
    BOOST_TEST(!is_valid_utf8(bad));
}

BOOST_AUTO_TEST_CASE(bad_lines_are_named_or_skipped) {
  const test::TempDir dir;
  const std::string path = dir / "x.jsonl";
  test::write_bytes(
      path,
      "\xEF\xBB\xBF{\"text\": \"one\", \"id\": 7}\r\n"  // 1: byte order mark, CRLF, other columns
      "\n"                                              // 2: blank
      "{\"text\": \"tw\n"                               // 3: cut off
      "{\"text\": 5}\n"                                 // 4
      "{\"title\": \"x\"}\n"                            // 5
      "[\"text\"]\n"                                    // 6
      "{\"text\": \"\xC3\x28\"}\n"                      // 7: invalid UTF-8
      "{\"text\": \"a\\u0000b\"}\n"                     // 8: NUL
      "{\"text\": \"\\ud800\"}\n"                       // 9: lone surrogate
      "{\"text\": \"\\ud83d\\ude00\"}\n"                // 10: a pair is fine
      "{\"text\": \"a\", \"text\": \"b\"}\n"            // 11: twice
      "{\"text\": \"\"}\n"                              // 12: empty but a document
      "{\"text\": \"last\"}");                          // 13: no newline at the end
  const auto [docs, report] = documents_of_file(path);
  BOOST_TEST(docs == (std::vector<std::string>{"one", "\xF0\x9F\x98\x80", "", "last"}),
             boost::test_tools::per_element());
  BOOST_TEST(report.num_lines == 13);
  BOOST_TEST(report.num_bad == 8);
  std::vector<std::int64_t> lines;
  for (const BadLine& b : report.first_bad) lines.push_back(b.line);
  BOOST_TEST(lines == (std::vector<std::int64_t>{3, 4, 5, 6, 7, 8, 9, 11}), boost::test_tools::per_element());
  BOOST_TEST(report.first_bad[4].reason.find("UTF-8") != std::string::npos);
  BOOST_TEST(report.first_bad[5].reason.find("NUL") != std::string::npos);
  BOOST_TEST(report.first_bad[6].reason.find("surrogate") != std::string::npos);
  test::write_bytes(dir / "t.txt", "first document\r\n\n  \nzweites \xC3\x28\nthird\n");
  BOOST_TEST(documents_of_file(dir / "t.txt").texts == (std::vector<std::string>{"first document", "third"}),
             boost::test_tools::per_element());
  test::write_bytes(dir / "empty.jsonl", "");
  BOOST_TEST(documents_of_file(dir / "empty.jsonl").texts.empty());
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"x.parquet", ".jsonl"},
                          [&] { text_format_of(dir / "x.parquet"); }) == "");
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"none.jsonl"},
                          [&] { documents_of_file(dir / "none.jsonl"); }) == "");
}

BOOST_AUTO_TEST_CASE(an_endless_line_is_a_bad_line) {
  const test::TempDir dir;
  test::write_bytes(dir / "x.txt", std::string((64 << 20) + 1, 'x') + "\nshort\n");
  const auto [docs, report] = documents_of_file(dir / "x.txt");
  BOOST_TEST(docs.size() == 1U);
  BOOST_TEST(report.num_bad == 1);
}

BOOST_AUTO_TEST_CASE(pieces_give_every_document_once_in_order) {
  const test::TempDir dir;
  const Philox random(8, RandomPurpose::test);
  std::vector<std::string> paths, all;
  std::vector<std::int64_t> sizes;
  std::int64_t bad = 0, lines = 0;
  for (std::uint64_t f = 0; f < 4; ++f) {
    std::string text;
    for (std::uint64_t i = 0; i < (f == 2 ? 0 : 40); ++i) {  // the third file is empty
      const std::string doc(random.below(100 * f + i, 30), static_cast<char>('a' + i % 26));
      text += i % 7 == 3 ? "broken\n" : "{\"text\":\"" + doc + "\"}\n";
    }
    paths.push_back(dir / (std::to_string(f) + ".jsonl"));
    test::write_bytes(paths.back(), text);
    sizes.push_back(static_cast<std::int64_t>(text.size()));
    const auto [docs, report] = documents_of_file(paths.back());
    all.insert(all.end(), docs.begin(), docs.end());
    bad += report.num_bad;
    lines += report.num_lines;
  }
  for (int world_size = 1; world_size <= 300; world_size += world_size < 12 ? 1 : 41) {
    std::vector<std::string> found;
    std::int64_t found_bad = 0, found_lines = 0;
    for (int rank = 0; rank < world_size; ++rank)
      for (const InputPiece& piece : pieces_of(sizes, rank, world_size)) {
        const io::MappedFile file(paths[static_cast<std::size_t>(piece.input)]);
        const auto [docs, r] = test::documents_of(file.bytes(), TextFormat::jsonl, piece.begin, piece.end);
        found.insert(found.end(), docs.begin(), docs.end());
        found_bad += r.num_bad;
        found_lines += r.num_lines;
      }
    BOOST_TEST((found == all));
    BOOST_TEST(found_bad == bad);
    BOOST_TEST(found_lines == lines);
  }
}

BOOST_AUTO_TEST_CASE(damaged_token_files_are_refused) {
  BOOST_TEST(refusal(Parts{}, "") == "nothing was thrown");
  BOOST_TEST(refusal([](Parts& p) { p.ids[0] = 10; }, "id 10") == "");
  BOOST_TEST(refusal([](Parts& p) { p.ids[2] = 1; }, "EOS") == "");
  BOOST_TEST(refusal([](Parts& p) { p.offset[1] = 0; }, "document 0") == "");
  BOOST_TEST(refusal([](Parts& p) { p.offset[1] = 6; }, "document 0") == "");
  BOOST_TEST(refusal([](Parts& p) { p.offset[1] = ~std::uint64_t{0}; }, "document 0") == "");
  BOOST_TEST(refusal([](Parts& p) { p.offset[2] = 4; }, "/doc/offset") == "");
  BOOST_TEST(refusal([](Parts& p) { p.offset[0] = 1; }, "/doc/offset") == "");
  BOOST_TEST(refusal([](Parts& p) { p.offset.pop_back(); }, "/doc/offset") == "");
  BOOST_TEST(refusal([](Parts& p) { p.lang[1] = 2; }, "language 2 of 2") == "");
  BOOST_TEST(refusal([](Parts& p) { p.lang.push_back(0); }, "/doc/mark") == "");
  BOOST_TEST(refusal([](Parts& p) { p.mark[0] = 2; }, "mark 2") == "");
  BOOST_TEST(refusal([](Parts& p) { p.eos_id = 10; }, "eos_id 10") == "");
  BOOST_TEST(refusal([](Parts& p) { p.vocab_size = -1; }, "vocab_size -1") == "");
  BOOST_TEST(refusal([](Parts& p) { p.version = 2; }, "version 2 of format \"neuronmoe-tokens\"") == "");
}

BOOST_AUTO_TEST_CASE(token_file_round_trip) {
  const test::TempDir dir;
  const auto comm = comm::make_local_communicator();
  write_token_file(*comm, dir / "t.h5", {{1, 2, 9, 3, 9}, {3, 2}, {1, 0}, {0, 1}},
                   {10, 9, "tok", "in", {"en", "el"}});
  const TokenFile file(dir / "t.h5");
  BOOST_TEST(file.num_docs() == 2);
  BOOST_TEST(file.num_tokens() == 5);
  BOOST_TEST(file.document(1).size() == 2U);
  BOOST_TEST(file.document(1)[0] == 3U);
  BOOST_TEST(file.lang(0) == 1);
  BOOST_TEST((file.mark(1) == Mark::old_language));
  BOOST_TEST(file.language_index("el") == 1);
  BOOST_TEST(file.language_index("zh") == -1);
  BOOST_TEST(file.info().tokenizer_sha256 == "tok");
  BOOST_TEST(!file.info().bos_id.has_value());  // as an older program wrote it
  BOOST_TEST(!read_text_sizes(dir / "t.h5", 2).has_value());
}

BOOST_AUTO_TEST_CASE(sizes_of_texts) {
  const test::TempDir dir;
  const auto comm = comm::make_local_communicator();
  const auto write = [&](std::vector<std::uint64_t> bytes, std::vector<std::uint64_t> words,
                         std::int32_t bos_id) {
    write_token_file(*comm, dir / "t.h5",
                     {{1, 2, 9, 3, 9}, {3, 2}, {1, 0}, {0, 1}, std::move(bytes), std::move(words)},
                     {10, 9, "tok", "in", {"en", "el"}, bos_id});
  };
  write({7, 0}, {8, 1}, 3);
  BOOST_TEST((TokenFile(dir / "t.h5").info().bos_id == 3));
  const auto sizes = read_text_sizes(dir / "t.h5", 2);
  BOOST_TEST((sizes->bytes == std::vector<std::uint64_t>{7, 0}));
  BOOST_TEST((sizes->words == std::vector<std::uint64_t>{8, 1}));
  const auto refused = [&](std::string_view word) {
    return expect_error(ErrorCode::bad_data, {"t.h5", word}, [&] { read_text_sizes(dir / "t.h5", 2); });
  };
  write({7, 0}, {9, 1}, -1);
  BOOST_TEST(refused("document 0 has 7 bytes and 9 words") == "");
  write({7, 0}, {1, 0}, -1);
  BOOST_TEST(refused("document 1 has 0 bytes and 0 words") == "");
  write({7, std::uint64_t{1} << 40}, {1, 1}, -1);
  BOOST_TEST(refused("document 1 has 1099511627776 bytes") == "");
  for (const std::int32_t bos_id : {10, -2}) {
    write({7, 0}, {8, 1}, bos_id);
    BOOST_TEST(expect_error(ErrorCode::bad_data, {"t.h5: bos_id " + std::to_string(bos_id)},
                            [&] { TokenFile file(dir / "t.h5"); }) == "");
  }
}

BOOST_AUTO_TEST_CASE(tokenizers_that_cannot_be_read) {
  const test::TempDir dir;
  const auto refused = [&](const std::string& path, std::string_view word) {
    return expect_error(ErrorCode::bad_data, {word}, [&] { load_tokenizer(path); });
  };
  BOOST_TEST(refused(dir / "none.model", "none.model") == "");
  BOOST_TEST(refused(dir.path(), "holds none of") == "");
  test::write_bytes(dir / "qwen.tiktoken", "IQ== 0\nIg== 1\n");
  BOOST_TEST(refused(dir.path(), "2 ranks") == "");
  test::write_bytes(dir / "tokenizer.json", "{}");
  BOOST_TEST(refused(dir.path(), "tokenizer.json: tokenizer.pre_tokenizer is missing") == "");
  test::write_bytes(dir / "tokenizer.model", "IQ== 0\nIg== 2\n");
  BOOST_TEST(refused(dir.path(), "rank 2 in a file of 2 tokens") == "");
}

BOOST_AUTO_TEST_CASE(input_specifications) {
  const TokenizeInput input = parse_tokenize_input("el:new:C:/data/el.jsonl");
  BOOST_TEST(input.language == "el");
  BOOST_TEST((input.mark == Mark::new_language));
  BOOST_TEST(input.path == "C:/data/el.jsonl");
  for (const char* bad : {"", "el", "el:new", "el:new:", ":new:x", "el:nouveau:x"})
    BOOST_TEST(expect_error(ErrorCode::config, {bad}, [&] { parse_tokenize_input(bad); }) == "");
}
