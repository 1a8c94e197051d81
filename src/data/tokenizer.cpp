// Finds the tokenizer file of a model and loads it by what it holds.
#include "neuronmoe/data/tokenizer.hpp"

#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <fstream>

#include "neuronmoe/base/error.hpp"

namespace nmoe::data {
namespace {

namespace fs = std::filesystem;

constexpr std::array<const char*, 3> tokenizer_names = {"tokenizer.model", "tokenizer.json", "qwen.tiktoken"};

/// A tiktoken rank file begins with a line "base64 rank"; a sentencepiece model is binary.
bool is_tiktoken(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string line;
  std::getline(file, line);
  if (line.ends_with('\r')) line.pop_back();
  const std::size_t space = line.find(' ');
  constexpr std::string_view base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
  return space != std::string::npos && space > 0 && line.find_first_not_of(base64) == space &&
         line.size() > space + 1 && line.find_first_not_of("0123456789", space + 1) == std::string::npos;
}

}  // namespace

std::string BosRule::to_string() const {
  return fmt::format("{} ({})", id < 0 ? "none" : std::to_string(id), source);
}

std::vector<std::int32_t> Tokenizer::encode_sentence(std::string_view text) const {
  std::vector<std::int32_t> ids = encode(text);
  if (bos_rule().id >= 0) ids.insert(ids.begin(), bos_rule().id);
  return ids;
}

std::string find_tokenizer_file(const std::string& path) {
  if (fs::is_directory(path)) {
    for (const char* name : tokenizer_names)
      if (const fs::path file = fs::path(path) / name; fs::is_regular_file(file)) return file.string();
    NMOE_CHECK(false, bad_data, "{} holds none of tokenizer.model, tokenizer.json and qwen.tiktoken", path);
  }
  NMOE_CHECK(fs::is_regular_file(path), bad_data, "there is no tokenizer at {}", path);
  return path;
}

std::vector<std::string> list_tokenizer_files(const std::string& directory) {
  std::vector<std::string> files;
  for (const fs::path& folder : {fs::path(directory), fs::path(directory) / "original"}) {
    for (const char* name : tokenizer_names)
      if (fs::is_regular_file(folder / name)) files.push_back((folder / name).string());
  }
  return files;
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path) {
  const std::string file = find_tokenizer_file(path);
  if (file.ends_with(".json")) return load_tokenizer_json(file);
  return is_tiktoken(file) ? load_rank_file(file) : load_sentencepiece(file);
}

}  // namespace nmoe::data
