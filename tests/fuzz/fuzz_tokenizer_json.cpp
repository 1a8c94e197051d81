// Fuzz target: a tokenizer.json. What loads encodes any text, decodes it to valid UTF-8, and has the BOS
// that it adds.
#include <cstdint>
#include <string>
#include <string_view>

#include "fuzz.hpp"
#include "neuronmoe/data/jsonl.hpp"
#include "neuronmoe/data/tokenizer.hpp"
#include "texts.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  nmoe::fuzz::only_bad_data([&] {
    const auto tokenizer = nmoe::data::parse_tokenizer_json(bytes, "", "fuzz/tokenizer.json");
    for (const std::string_view text : nmoe::fuzz::texts) {
      const auto ids = tokenizer->encode(text);
      const std::string back = tokenizer->decode(ids);
      nmoe::fuzz::require(nmoe::data::is_valid_utf8(back));
      nmoe::fuzz::require(tokenizer->encode_sentence(text).size() ==
                          ids.size() + (tokenizer->bos_rule().id >= 0 ? 1 : 0));
    }
    const std::int32_t bos = tokenizer->bos_id();
    nmoe::fuzz::require(bos < tokenizer->vocab_size() && (bos >= 0 || tokenizer->bos_rule().id < 0));
  });
  return 0;
}
