// Encoding rate of one thread, driven by bench_tokenizers.py: for every line on standard input the whole text
// is encoded once and "CPU_SECONDS NUM_TOKENS" is answered; the first line out is the seconds it took to
// load.
//   bench_tokenizers TOKENIZER TEXT.txt      one document per line
#include <fmt/core.h>
#include <time.h>

#include <iostream>
#include <string>
#include <vector>

#include "neuronmoe/data/jsonl.hpp"
#include "neuronmoe/data/tokenizer.hpp"
#include "neuronmoe/io/mapped_file.hpp"

namespace {

/// Seconds this thread computed: on a shared machine the wall clock would also count the others.
double thread_seconds() {
  timespec t{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

std::vector<std::string> read_documents(const std::string& path) {
  const nmoe::data::TextFormat format = nmoe::data::text_format_of(path);
  const nmoe::io::MappedFile file(path);
  std::vector<std::string> documents;
  nmoe::data::LineReader reader(file.bytes(), 0, static_cast<std::int64_t>(file.bytes().size()));
  for (nmoe::data::Line line; reader.next(line);)
    documents.push_back(nmoe::data::document_of(line.text, format));
  return documents;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    fmt::print(stderr, "usage: bench_tokenizers TOKENIZER TEXT.txt\n");
    return 78;
  }
  double begin = thread_seconds();
  const auto tokenizer = nmoe::data::load_tokenizer(argv[1]);
  fmt::print("{}\n", thread_seconds() - begin);
  std::fflush(stdout);
  const auto documents = read_documents(argv[2]);
  for (std::string line; std::getline(std::cin, line);) {
    std::size_t num_tokens = 0;
    begin = thread_seconds();
    for (const auto& document : documents) num_tokens += tokenizer->encode(document).size();
    fmt::print("{} {}\n", thread_seconds() - begin, num_tokens);
    std::fflush(stdout);
  }
  return 0;
}
