// Dense weights from and to a Hugging Face directory, and its hash.
#include "neuronmoe/model/hf_model.hpp"

#include <algorithm>
#include <filesystem>

#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/manifest.hpp"
#include "neuronmoe/io/safetensors.hpp"
#include "neuronmoe/model/tensor_sources.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::model {

void require_dense_weights(const ModelConfig& config, const std::string& directory) {
  ModelConfig dense = config;
  dense.num_experts.assign(static_cast<std::size_t>(config.num_layers), 1);
  require_tensors(dense_tensors(directory), dense, directory, [](const Parameter&) { return true; });
}

void load_dense_weights(Decoder& decoder, const std::string& directory) {
  const TensorSources sources = dense_tensors(directory);
  for_each_parameter(decoder, [&](Parameter& p) {
    if (!p.is_dense()) return;
    HostSide side(p.value.view(), decoder.stream());
    read_tensor(sources, p.name, side.view(), directory);
    side.send();
  });
}

void save_dense_model(const Decoder& decoder, const std::string& directory) {
  io::make_directories(directory);
  std::vector<io::NamedTensor> tensors;
  std::vector<Tensor> copies;  // of what is on a GPU
  for_each_parameter(decoder, [&](const Parameter& p) {
    if (!p.is_dense()) return;
    ConstTensorView value = p.value.view();
    if (value.device() != Device::cpu) {
      value = copies.emplace_back(copied_to(Device::cpu, value, decoder.stream())).view();
    }
    tensors.push_back({p.name, value});
  });
  io::write_safetensors(directory + "/model.safetensors", std::move(tensors));
  io::write_file_atomically(directory + "/config.json", model_config_json(decoder.config()));
}

std::vector<FileDigest> model_directory_files(const std::string& directory) {
  if (std::filesystem::exists(directory + "/manifest.json")) return {};
  std::vector<std::string> files = io::SafetensorsReader(directory).files();
  std::sort(files.begin(), files.end());
  std::vector<FileDigest> digests = {{"config.json", sha256_file(directory + "/config.json")}};
  for (const std::string& file : files) {
    const std::string name = std::filesystem::path(file).filename();
    digests.push_back({name, sha256_file(directory + "/" + name)});
  }
  return digests;
}

std::string model_directory_hash(const std::string& directory) {
  return model_directory_hash(directory, model_directory_files(directory));
}

std::string model_directory_hash(const std::string& directory, const std::vector<FileDigest>& files) {
  if (files.empty()) {
    const std::string hash = io::read_manifest_facts(directory)["base_model_sha256"];
    NMOE_CHECK(!hash.empty(), bad_data, "{}: the checkpoint does not say which weights it holds", directory);
    return hash;
  }
  std::string digests = files.front().sha256;
  for (std::size_t i = 1; i < files.size(); ++i)
    digests += fmt::format(" {} {}", files[i].name, files[i].sha256);
  return sha256_text(digests);
}

}  // namespace nmoe::model
