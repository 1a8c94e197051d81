// Fuzz target: a tiktoken rank file. What loads gives back every text that it encodes.
#include <cstdint>
#include <string>
#include <string_view>

#include "fuzz.hpp"
#include "neuronmoe/data/tokenizer.hpp"
#include "texts.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  using nmoe::data::RankFamily;
  nmoe::fuzz::only_bad_data(
      [&] { nmoe::data::parse_rank_file(bytes, "fuzz.tiktoken", RankFamily::by_size); });
  nmoe::fuzz::only_bad_data([&] {
    const auto tokenizer = nmoe::data::parse_rank_file(bytes, "fuzz.tiktoken", RankFamily::llama3);
    for (const std::string_view text : nmoe::fuzz::texts)
      nmoe::fuzz::require(tokenizer->decode(tokenizer->encode(text)) == text);
  });
  return 0;
}
