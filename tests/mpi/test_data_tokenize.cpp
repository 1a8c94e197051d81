// tokenize over ranks: the same bytes, counts and messages for any world size.
#include <omp.h>

#include <boost/test/unit_test.hpp>

#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/data/tokenize.hpp"
#include "support/mpi_fixture.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;
using namespace nmoe::data;

namespace {

/// Bytes as ids, 256 = EOS: enough of a tokenizer to see where every id came from.
class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() : Tokenizer("bytes", "sha-of-bytes") {}
  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(std::span<const std::int32_t> ids) const override {
    std::string text;
    for (const std::int32_t id : ids) text += static_cast<char>(id);
    return text;
  }
  std::int64_t vocab_size() const override { return 257; }
  std::int32_t bos_id() const override { return -1; }
  std::int32_t eos_id() const override { return 256; }
  std::string token(std::int32_t) const override { return {}; }
  const BosRule& bos_rule() const override { return bos_; }
  std::string name() const override { return "bytes"; }

 private:
  BosRule bos_;
};

/// Two languages in three files, one of them empty; documents of very different lengths.
std::vector<TokenizeInput> write_corpus(comm::Communicator& comm, const std::string& dir,
                                        bool with_bad_lines) {
  if (comm.rank() == 0) {
    std::string english, greek;
    for (int i = 0; i < 50; ++i) {
      english += "{\"text\": \"document " + std::to_string(i) +
                 std::string(static_cast<std::size_t>(i * i), '.') + "\"}\n";
      if (with_bad_lines && i % 10 == 4) english += "not a document\n";
      greek += "έγγραφο " + std::to_string(i) + "\n";
    }
    test::write_bytes(dir + "/en.jsonl", english);
    test::write_bytes(dir + "/none.jsonl", "");
    test::write_bytes(dir + "/el.txt", greek);
  }
  comm.barrier();
  return {{"en", Mark::old_language, dir + "/en.jsonl"},
          {"zh", Mark::new_language, dir + "/none.jsonl"},
          {"el", Mark::new_language, dir + "/el.txt"}};
}

TokenizeResult run(comm::Communicator& comm, const std::vector<TokenizeInput>& inputs,
                   const std::string& output, BadLinePolicy policy) {
  Stream stream;
  const Logger log(1);
  comm::Heartbeat heartbeat;
  comm::ExecutionContext context{comm, Device::cpu, stream, log, heartbeat};
  return tokenize_corpus(context, inputs, ByteTokenizer(), output, policy);
}

}  // namespace

BOOST_AUTO_TEST_CASE(same_file_for_any_number_of_ranks) {
  comm::Communicator& comm = test::world();
  const test::SharedDirectory dir("tokenize");
  const auto inputs = write_corpus(comm, dir.path(), true);
  const std::string path = dir.path() + "/parallel.h5",
                    mine = dir.path() + "/" + std::to_string(comm.rank()) + ".h5";
  const TokenizeResult result = run(comm, inputs, path, BadLinePolicy::skip);
  const auto local = comm::make_local_communicator();
  const TokenizeResult alone = run(*local, inputs, mine, BadLinePolicy::skip);
  BOOST_TEST(sha256_file(path) == sha256_file(mine));
  BOOST_TEST(result.num_docs == 100);
  BOOST_TEST(result.num_tokens == alone.num_tokens);
  BOOST_TEST(result.num_bad_lines == 5);
  BOOST_TEST(result.bad_lines == alone.bad_lines, boost::test_tools::per_element());
  BOOST_TEST(result.bad_lines[1].find("en.jsonl:17: ") != std::string::npos);
  const TokenFile file(path);
  BOOST_TEST(file.num_docs() == 100);
  BOOST_TEST(file.info().languages == (std::vector<std::string>{"en", "zh", "el"}),
             boost::test_tools::per_element());
  BOOST_TEST((file.info().bos_id == -1));
  const auto sizes = read_text_sizes(path, file.num_docs());
  BOOST_REQUIRE(sizes.has_value());
  for (std::int64_t doc : {0, 3, 49, 50, 99}) {
    const auto ids = file.document(doc);
    const std::vector<std::int32_t> text(ids.begin(), ids.end() - 1);
    const std::string number = std::to_string(doc % 50);
    const std::string expected =
        doc < 50 ? "document " + number + std::string(static_cast<std::size_t>(doc * doc), '.')
                 : "έγγραφο " + number;
    BOOST_TEST(ByteTokenizer().decode(text) == expected);
    BOOST_TEST(ids.back() == 256U);
    BOOST_TEST(sizes->bytes[static_cast<std::size_t>(doc)] == expected.size());
    BOOST_TEST(sizes->words[static_cast<std::size_t>(doc)] == 2U);
    BOOST_TEST(file.lang(doc) == (doc < 50 ? 0 : 2));
    BOOST_TEST((file.mark(doc) == (doc < 50 ? Mark::old_language : Mark::new_language)));
  }
  comm.barrier();
}

// Words are the pieces of Python's re.split(r"\s+", text), which gave these numbers.
BOOST_AUTO_TEST_CASE(bytes_and_words_of_a_text) {
  comm::Communicator& comm = test::world();
  const test::SharedDirectory dir("words");
  struct Text {
    std::string json;
    std::uint64_t bytes, words;
  };
  const std::vector<Text> texts = {{"", 0, 1},
                                   {" ", 1, 2},
                                   {"a", 1, 1},
                                   {" a b ", 5, 4},
                                   {"a\\u00a0b\\u3000c", 8, 3},
                                   {"a\\u001cb\\u0085c", 6, 3},
                                   {"a\\u200bb", 5, 1},
                                   {"\\t\\u2029 x", 6, 2},
                                   {"日本語 です", 16, 2},
                                   {"a\\u180eb", 5, 1},
                                   {"x\\u205f\\u202fy z", 10, 3}};
  std::string lines;
  for (const Text& text : texts) lines += "{\"text\": \"" + text.json + "\"}\n";
  if (comm.rank() == 0) test::write_bytes(dir.path() + "/x.jsonl", lines);
  comm.barrier();
  const std::string path = dir.path() + "/x.h5";
  run(comm, {{"en", Mark::new_language, dir.path() + "/x.jsonl"}}, path, BadLinePolicy::error);
  const auto sizes = read_text_sizes(path, static_cast<std::int64_t>(texts.size()));
  BOOST_REQUIRE(sizes.has_value());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    BOOST_TEST(sizes->bytes[i] == texts[i].bytes, texts[i].json);
    BOOST_TEST(sizes->words[i] == texts[i].words, texts[i].json);
  }
  comm.barrier();
}

BOOST_AUTO_TEST_CASE(bad_lines_stop_every_rank_and_nothing_is_written) {
  comm::Communicator& comm = test::world();
  const test::SharedDirectory dir("bad");
  const auto inputs = write_corpus(comm, dir.path(), true);
  const std::string path = dir.path() + "/out.h5";
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"en.jsonl:6: ", "5 bad lines"},
                                [&] { run(comm, inputs, path, BadLinePolicy::error); }) == "");
  BOOST_TEST(!std::filesystem::exists(path));
  BOOST_TEST(!std::filesystem::exists(path + ".tmp"));
  auto missing = inputs;
  missing[1].path = dir.path() + "/missing.jsonl";
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"missing.jsonl"},
                                [&] { run(comm, missing, path, BadLinePolicy::skip); }) == "");
  comm.barrier();
}

// More than one batch of lines (1 MiB), with bad ones among them.
BOOST_AUTO_TEST_CASE(same_file_for_any_number_of_threads) {
  const test::TempDir dir;
  std::string text;
  for (int i = 0; i < 6000; ++i)
    text += i % 1000 == 999 ? "bad\n"
                            : "{\"text\": \"" + std::string(static_cast<std::size_t>(i * 37 % 701), 'a') +
                                  std::to_string(i) + "\"}\n";
  BOOST_TEST(text.size() > (std::size_t{3} << 19U));
  test::write_bytes(dir / "en.jsonl", text);
  const auto local = comm::make_local_communicator();
  const int before = omp_get_max_threads();
  std::vector<std::string> hashes, third_bad_line;
  for (const int threads : {1, 2, 5}) {
    omp_set_num_threads(threads);
    const std::string output = dir / (std::to_string(threads) + ".h5");
    const TokenizeResult result =
        run(*local, {{"en", Mark::new_language, dir / "en.jsonl"}}, output, BadLinePolicy::skip);
    BOOST_TEST(result.num_docs == 5994);
    BOOST_TEST(result.num_bad_lines == 6);
    third_bad_line.push_back(result.bad_lines.at(2));
    hashes.push_back(sha256_file(output));
  }
  omp_set_num_threads(before);
  BOOST_TEST((hashes[0] == hashes[1] && hashes[0] == hashes[2]));
  BOOST_TEST((third_bad_line[0] == third_bad_line[1] && third_bad_line[0] == third_bad_line[2]));
  BOOST_TEST(third_bad_line[0].find("en.jsonl:3000: ") != std::string::npos);
}

// A text that a tokenizer refuses is a bad line; any other failure must end the command, not the process.
BOOST_AUTO_TEST_CASE(a_fault_in_a_thread_is_an_error_of_all_ranks) {
  comm::Communicator& comm = test::world();
  const test::SharedDirectory dir("fault");
  if (comm.rank() == 0) test::write_bytes(dir.path() + "/en.txt", "one\ntwo\nthree\n");
  if (comm.rank() == 0) test::write_bytes(dir.path() + "/el.txt", "one\nfour\nthree\n");
  comm.barrier();
  class Failing final : public Tokenizer {
   public:
    Failing() : Tokenizer("failing", "none") {}
    std::vector<std::int32_t> encode(std::string_view text) const override {
      NMOE_CHECK(text != "two", bad_data, "{} bytes are too many", text.size());
      NMOE_CHECK(text != "four", internal, "cannot encode {}", text);
      return {1};
    }
    std::string decode(std::span<const std::int32_t>) const override { return {}; }
    std::int64_t vocab_size() const override { return 4; }
    std::int32_t bos_id() const override { return -1; }
    std::int32_t eos_id() const override { return 2; }
    std::string token(std::int32_t) const override { return {}; }
    const BosRule& bos_rule() const override { return bos_; }
    std::string name() const override { return "failing"; }

   private:
    BosRule bos_;
  };
  Stream stream;
  const Logger log(1);
  comm::Heartbeat heartbeat;
  comm::ExecutionContext context{comm, Device::cpu, stream, log, heartbeat};
  const auto work = [&](const char* file, BadLinePolicy policy) {
    return tokenize_corpus(context, {{"en", Mark::new_language, dir.path() + file}}, Failing(),
                           dir.path() + "/out.h5", policy);
  };
  BOOST_TEST(test::expect_error(ErrorCode::internal, {"cannot encode four"},
                                [&] { work("/el.txt", BadLinePolicy::skip); }) == "");
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"en.txt:2: 3 bytes are too many"},
                                [&] { work("/en.txt", BadLinePolicy::error); }) == "");
  const TokenizeResult result = work("/en.txt", BadLinePolicy::skip);
  BOOST_TEST(result.num_docs == 2);
  BOOST_TEST(result.num_bad_lines == 1);
  comm.barrier();
}
