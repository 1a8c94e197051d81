// Stands in for the sentencepiece tokenizer in a build without the library.
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/data/tokenizer.hpp"

namespace nmoe::data {

std::unique_ptr<Tokenizer> load_sentencepiece(const std::string& path) {
  NMOE_CHECK(false, config,
             "{} is a sentencepiece model, but this program was built without sentencepiece; install "
             "libsentencepiece-dev and build again",
             path);
  return nullptr;
}

}  // namespace nmoe::data
