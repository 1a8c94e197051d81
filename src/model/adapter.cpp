// PEFT-MoE adapters read and written, with the names they give to our parameters.
#include "neuronmoe/model/adapter.hpp"

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/json_file.hpp"
#include "neuronmoe/model/decoder.hpp"

namespace nmoe::model {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* weights_file = "adapter_model.safetensors";
constexpr const char* config_file = "adapter_config.json";
constexpr const char* hash_key = "base_model_sha256";
constexpr const char* router_key = "router_compat";

const Parameter* find_by_adapter_name(const std::map<std::string, Parameter>& known,
                                      const std::string& name) {
  const auto found = known.find(name);
  return found == known.end() ? nullptr : &found->second;
}

/// Routers and new experts of an architecture by the reference code's names.
std::map<std::string, Parameter> expert_parameters(const ModelConfig& config) {
  std::map<std::string, Parameter> known;
  for (Parameter& p : list_parameters(config))
    if (!p.is_dense()) known.emplace(adapter_name(p.role, p.layer, p.expert), std::move(p));
  return known;
}

/// Experts per layer from the rows of the routers; 1 where a layer has none.
std::vector<int> count_experts(const io::SafetensorsReader& reader, const ModelConfig& base,
                               const std::string& path) {
  std::vector<int> counts(static_cast<std::size_t>(base.num_layers), 1);
  for (int l = 0; l < base.num_layers; ++l) {
    const std::string name = adapter_name(Role::router, l);
    if (!reader.contains(name)) continue;
    const Shape& shape = reader.entry(name).shape;
    NMOE_CHECK(
        shape.rank() == 2 && shape[0] >= 2 && shape[0] <= max_num_experts && shape[1] == base.hidden_size,
        bad_data, "{}: {} has shape {}, expected 2 to {} experts by the model's hidden size {}", path, name,
        shape.to_string(), max_num_experts, base.hidden_size);
    counts[static_cast<std::size_t>(l)] = static_cast<int>(shape[0]);
  }
  return counts;
}

/// A list must be that of the tensors; a single number, as files of before have it, says nothing.
void require_counts(const json& listed, const std::vector<int>& counts, const std::string& path) {
  if (!listed.is_array()) return;
  NMOE_CHECK(listed.size() == counts.size(), bad_data, "{}: num_experts lists {} layers, the model has {}",
             path, listed.size(), counts.size());
  for (std::size_t l = 0; l < counts.size(); ++l)
    NMOE_CHECK(listed[l] == counts[l], bad_data,
               "{}: num_experts says {:.80} for layer {}, its tensors hold {} experts, base included", path,
               listed[l].dump(), l, counts[l]);
}

/// top_k, after the fields that would make it another model.
int read_adapter_config(const std::string& path, const std::vector<int>& counts) {
  constexpr std::int64_t max_bytes = 16 << 20;
  const json config = io::read_json(path, max_bytes);
  NMOE_CHECK(config.is_object(), bad_data, "{}: expected a JSON object", path);
  const auto field = [&](const char* key) -> json { return config.contains(key) ? config.at(key) : json(); };
  NMOE_CHECK(field("peft_type") == "MOE", bad_data, "{}: peft_type is {:.80}, only \"MOE\" is read", path,
             field("peft_type").dump());
  NMOE_CHECK(field("aux_loss_coef").is_null() || field("lpr_loss_coef").is_null(), bad_data,
             "{}: aux_loss_coef and lpr_loss_coef are both set; an adapter belongs to one stage", path);
  const json top_k = field("topk");
  NMOE_CHECK(top_k.is_number_integer() && top_k.get<std::int64_t>() >= 1 &&
                 top_k.get<std::int64_t>() <= max_num_experts,
             bad_data, "{}: topk is {:.80}, expected an integer from 1 to {}", path, top_k.dump(),
             max_num_experts);
  require_counts(field("num_experts"), counts, path);
  if (field("layers_to_transform").is_null()) return top_k.get<int>();
  std::vector<bool> listed(counts.size(), false);
  const json layers = field("layers_to_transform").is_array() ? field("layers_to_transform")
                                                              : json::array({field("layers_to_transform")});
  for (const json& layer : layers) {
    NMOE_CHECK(layer.is_number_unsigned() && layer.get<std::uint64_t>() < counts.size(), bad_data,
               "{}: layers_to_transform has {:.80}, the model has layers 0 to {}", path, layer.dump(),
               counts.size() - 1);
    listed[layer.get<std::size_t>()] = true;
  }
  for (std::size_t l = 0; l < counts.size(); ++l)
    NMOE_CHECK(counts[l] == 1 || listed[l], bad_data,
               "{}: layers_to_transform lacks layer {}, which has experts", path, l);
  return top_k.get<int>();
}

}  // namespace

std::string adapter_name(Role role, int layer, int expert) {
  const std::string mlp = "base_model.model." + layer_prefix(layer) + "mlp.";
  if (role == Role::router) return mlp + "moe_router_embedding.weight";
  return fmt::format("{}moe_experts.{}.{}", mlp, expert - 1, properties(role).name);
}

Adapter open_adapter(const std::string& directory, const ModelConfig& base, const std::string& base_hash) {
  const std::string path = (fs::path(directory) / weights_file).string();
  NMOE_CHECK(fs::exists(path) || !fs::exists(fs::path(directory) / "adapter_model.bin"), bad_data,
             "{}/adapter_model.bin is a Python pickle, which is never read; save it as {} in Python",
             directory, weights_file);
  const auto reader = std::make_shared<io::SafetensorsReader>(path);
  const auto made_for = reader->metadata().find(hash_key);
  NMOE_CHECK(made_for == reader->metadata().end() || made_for->second == base_hash, bad_data,
             "{}: was trained on a base with hash {}, --model has {}; pass the base it was trained on", path,
             made_for->second, base_hash);
  Adapter adapter{base, {}};
  if (const auto router = reader->metadata().find(router_key); router != reader->metadata().end())
    adapter.config.release_router = find_enum<RouterCompat>(router->second) == RouterCompat::release;
  adapter.config.num_experts = count_experts(*reader, base, path);
  NMOE_CHECK(adapter.config.num_moe_layers() > 0, bad_data, "{}: no layer of the model has a router in it",
             path);
  adapter.config.top_k =
      read_adapter_config((fs::path(directory) / config_file).string(), adapter.config.num_experts);
  const std::map<std::string, Parameter> known = expert_parameters(adapter.config);
  for (const std::string& name : reader->names()) {
    const Parameter* const p = find_by_adapter_name(known, name);
    NMOE_CHECK(p != nullptr, bad_data,
               "{}: tensor {} is no router or expert of this model; expected names as {}", path, name,
               known.begin()->first);
    io::SafetensorsEntry entry = reader->entry(name);
    entry.name = p->name;
    adapter.tensors[p->name] = {entry, [reader, name](std::int64_t begin, std::span<char> out) {
                                  reader->read_bytes(name, begin, out);
                                }};
  }
  require_tensors(adapter.tensors, adapter.config, path, [](const Parameter& p) { return !p.is_dense(); });
  return adapter;
}

void write_adapter(const std::string& directory, const ModelConfig& config, const TensorSources& tensors,
                   const std::string& base_model, const std::string& base_hash) {
  std::map<std::string, std::string> names;  // ours to the reference code's
  for (const auto& [name, p] : expert_parameters(config)) names[p.name] = name;
  std::vector<io::TensorSource> sources;
  for (const auto& [name, source] : tensors) {
    NMOE_CHECK(names.contains(name), internal, "{} is no router and no new expert", name);
    sources.push_back(source);
    sources.back().entry.name = names.at(name);
  }
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  if (!base_hash.empty()) metadata[hash_key] = base_hash;
  metadata[router_key] = name_of(config.router_compat());
  io::write_tensor_sources((fs::path(directory) / weights_file).string(), std::move(sources), metadata);
  // The reference code's loader adds up the entries of num_experts above 1 and compares with the rows of the
  // routers in the file; where they differ it draws every router anew, without a word. One number is not
  // enough.
  json layers = json::array();
  for (std::size_t l = 0; l < config.num_experts.size(); ++l) layers.push_back(l);
  io::write_json((fs::path(directory) / config_file).string(), {{"peft_type", "MOE"},
                                                                {"task_type", "CAUSAL_LM"},
                                                                {"base_model_name_or_path", base_model},
                                                                {"inference_mode", true},
                                                                {"num_experts", config.num_experts},
                                                                {"topk", config.top_k},
                                                                {"layers_to_transform", layers},
                                                                {"init_moe_weights", true},
                                                                {"save_all_params", false},
                                                                {"aux_loss_coef", nullptr},
                                                                {"lpr_loss_coef", nullptr}});
  io::write_file_atomically((fs::path(directory) / "experts.cfg").string(),
                            "# experts per layer, base included, as in adapter_config.json\n" +
                                expert_counts_line(config.num_experts));
}

}  // namespace nmoe::model
