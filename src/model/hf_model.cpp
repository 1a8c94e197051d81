#include "neuronmoe/model/hf_model.hpp"

#include <algorithm>
#include <filesystem>
#include <set>

#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/safetensors.hpp"

namespace nmoe::model {

void load_dense_weights(Decoder& decoder, const std::string& directory) {
  const io::SafetensorsReader reader(directory);
  // A tensor without a place (a bias, a norm of another architecture) means that this is not the model that
  // was trained.
  std::set<std::string> known;
  for_each_parameter(decoder, [&](const Parameter& p) { known.insert(p.name); });
  for (const std::string& name : reader.names()) {
    const bool derived = name.ends_with("rotary_emb.inv_freq") ||
                         (name == "lm_head.weight" && decoder.config().tie_word_embeddings);
    NMOE_CHECK(derived || known.contains(name), bad_data,
               "{}: tensor {} has no place in the architecture of its config.json", directory, name);
  }
  for_each_parameter(decoder, [&](Parameter& p) {
    if (p.is_router || p.is_new_expert()) return;
    reader.read(p.name, p.value.view());
  });
}

void save_dense_model(const Decoder& decoder, const std::string& directory) {
  io::make_directories(directory);
  std::vector<io::NamedTensor> tensors;
  for_each_parameter(decoder, [&](const Parameter& p) {
    if (!p.is_router && !p.is_new_expert()) tensors.push_back({p.name, p.value.view()});
  });
  io::write_safetensors(directory + "/model.safetensors", std::move(tensors));
  io::write_file_atomically(directory + "/config.json", model_config_json(decoder.config()));
}

std::string model_directory_hash(const std::string& directory) {
  std::vector<std::string> files = io::SafetensorsReader(directory).files();
  std::sort(files.begin(), files.end());
  std::string digests = sha256_file(directory + "/config.json");
  for (const std::string& file : files) {
    const std::string name = std::filesystem::path(file).filename();
    digests += fmt::format(" {} {}", name, sha256_file(directory + "/" + name));
  }
  return sha256_text(digests);
}

}  // namespace nmoe::model
