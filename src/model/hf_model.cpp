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
namespace {

namespace fs = std::filesystem;

bool holds_weights(const fs::path& directory) {
  return fs::exists(directory / "model.h5") || fs::exists(directory / "model.safetensors") ||
         fs::exists(directory / "model.safetensors.index.json");
}

/// Elements [first, first + count) of a source as float32.
std::vector<float> read_floats(const io::TensorSource& source, std::int64_t first, std::int64_t count) {
  const std::int64_t element = io::safetensors_element_bytes(source.entry.dtype);
  std::vector<char> bytes(static_cast<std::size_t>(count * element));
  source.read(first * element, bytes);
  std::vector<float> values(static_cast<std::size_t>(count));
  io::safetensors_convert(bytes.data(), source.entry.dtype, {values.data(), DType::float32, {count}});
  return values;
}

/// Whether the weights of a model that says its head is the embedding have another head. Stops at the first
/// difference.
bool has_own_head(const ModelConfig& config, const std::string& directory) {
  const TensorSources sources = dense_tensors(directory);
  const auto head = sources.find(parameter_name(Role::head));
  const auto embedding = sources.find(parameter_name(Role::embedding));
  if (head == sources.end() || embedding == sources.end()) return false;
  const Shape wanted{config.vocab_size, config.hidden_size};
  NMOE_CHECK(head->second.entry.shape == wanted, bad_data,
             "{}: tie_word_embeddings is true, but {} has shape {} and not that of the embedding, {}; remove "
             "the tensor or the field",
             directory, head->first, head->second.entry.shape.to_string(), wanted.to_string());
  if (embedding->second.entry.shape != wanted) return false;  // named when the weights are read
  constexpr std::int64_t piece = std::int64_t{1} << 20;
  const std::int64_t total = wanted.num_elements();
  for (std::int64_t first = 0; first < total; first += piece) {
    const std::int64_t count = std::min(piece, total - first);
    if (read_floats(head->second, first, count) != read_floats(embedding->second, first, count)) return true;
  }
  return false;
}

}  // namespace

ModelConfig load_directory_config(const std::string& directory) {
  ModelConfig config = load_model_config((fs::path(directory) / "config.json").string());
  if (config.tie_word_embeddings && holds_weights(directory) && has_own_head(config, directory))
    config.tie_word_embeddings = false;
  return config;
}

std::vector<std::string> list_model_files(const std::string& directory) {
  std::vector<std::string> files;
  std::error_code ignored;  // whoever opens the directory says why it cannot be read
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    const bool decides = name == "config.json" || name == "manifest.json" || name == "adapter_config.json" ||
                         name.ends_with(".safetensors") || name.ends_with(".index.json");
    if (decides) files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

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

std::vector<FileDigest> model_file_digests(const std::string& directory) {
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
  return model_directory_hash(directory, model_file_digests(directory));
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
