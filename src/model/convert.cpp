// Conversion between the forms of a model, as streams of tensors.
#include "neuronmoe/model/convert.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/json_file.hpp"
#include "neuronmoe/io/manifest.hpp"
#include "neuronmoe/model/adapter.hpp"
#include "neuronmoe/model/checkpoint_weights.hpp"
#include "neuronmoe/model/hf_model.hpp"
#include "transformers_export.hpp"

namespace nmoe::model {

namespace {

namespace fs = std::filesystem;

/// What is to be written, whatever it was read from.
struct Opened {
  ModelConfig config;
  TensorSources tensors;
  std::string files;                // directory whose other files go along, or ""
  std::string base;                 // name of the dense model
  std::string base_hash;            // its identity, "" if not known
  TransformersModel exported = {};  // for transformers: beside the tensors, which are all of it then
};

/// config.json, tokenizer, license...: all plain files that are neither weights nor ours.
std::vector<std::string> accompanying_files(const std::string& directory) {
  constexpr std::array weights = {".safetensors", ".bin",  ".pt",   ".pth",   ".h5", ".msgpack",
                                  ".gguf",        ".onnx", ".ckpt", ".index", ".ot", ".tmp"};
  constexpr std::array ours = {"manifest.json", "provenance.json"};
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string(), extension = entry.path().extension().string();
    const bool skipped = std::find(weights.begin(), weights.end(), extension) != weights.end() ||
                         std::find(ours.begin(), ours.end(), name) != ours.end() ||
                         name.ends_with(".index.json") || name.starts_with('.');
    if (entry.is_regular_file() && !skipped) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// The text of config.json with the element type that transformers loads by default.
std::string with_dtype(const std::string& path, DType dtype) {
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(io::read_file(path));
  for (const char* key : {"torch_dtype", "dtype"})
    if (config.contains(key)) config[key] = name_of(dtype);
  return config.dump(2) + "\n";
}

void copy_accompanying_files(const Opened& model, const Conversion& c, const std::string& to) {
  constexpr std::int64_t max_bytes = 256 << 20;
  for (const std::string& name : accompanying_files(model.files)) {
    const std::string from = (fs::path(model.files) / name).string(), target = (fs::path(to) / name).string();
    const bool changed = name == "config.json" && c.dtype;
    io::write_file_atomically(target, changed ? with_dtype(from, *c.dtype) : io::read_file(from, max_bytes));
  }
}

ModelConfig open_dense_model(const std::string& directory) {
  ModelConfig config = load_directory_config(directory);
  require_dense_weights(config, directory);
  return config;
}

Opened open_checkpoint(const Conversion& c) {
  io::ManifestFacts facts = io::read_manifest_facts(c.input);
  Opened model;
  model.base = facts["base_model"];
  model.base_hash = facts["base_model_sha256"];
  const auto has_config = [](const std::string& directory) {
    return fs::exists(fs::path(directory) / "config.json");
  };
  model.files = has_config(c.input) ? c.input : c.base.empty() ? model.base : c.base;
  NMOE_CHECK(!model.files.empty() && has_config(model.files), config,
             "{} has no config.json of its own{}: pass --model, the Hugging Face directory it belongs to",
             c.input, model.files.empty() ? "" : " and there is none in " + model.files);
  const ModelConfig dense = load_directory_config(model.files);
  model.config = apply_checkpoint_config(dense, c.input);
  model.tensors = checkpoint_tensors(c.input);
  return model;
}

Opened open_input(const Conversion& c) {
  if (c.from == ModelForm::checkpoint) return open_checkpoint(c);
  if (c.from == ModelForm::adapter) {
    NMOE_CHECK(!c.base.empty(), config,
               "--model is not set: {} is an adapter, name the dense model it belongs to", c.input);
    const std::string hash = model_directory_hash(c.base);
    ModelConfig base = open_dense_model(c.base);
    base.release_router = c.release_router;
    Adapter adapter = open_adapter(c.input, base, hash);
    return {std::move(adapter.config), std::move(adapter.tensors), "", c.base, hash};
  }
  return {open_dense_model(c.input), dense_tensors(c.input), c.input, c.input, model_directory_hash(c.input)};
}

/// @throws Error(config) for a pair that has no meaning, with the one that was meant
void require_sensible(const Conversion& c, const ModelConfig& config) {
  const bool mixture = config.num_moe_layers() > 0;
  NMOE_CHECK(c.from != c.to || c.from == ModelForm::huggingface, config,
             "{} is a {} already; set convert.to to another form", c.input, name_of(c.to));
  NMOE_CHECK(
      !mixture || c.to != ModelForm::huggingface, config,
      "{} is a mixture of experts; set convert.to = transformers for a padded copy that transformers has "
      "a class for, transformers-code for one in its own size with Python, or adapter for its experts alone",
      c.input);
  NMOE_CHECK(mixture || c.to != ModelForm::adapter, config,
             "{} is a dense model: it has no experts to put into an adapter", c.input);
  NMOE_CHECK(mixture || !is_for_transformers(c.to), config,
             "{} is a dense model, which transformers has a class for; set convert.to = huggingface",
             c.input);
}

/// Tokenizer, chat template, license and the like: what an export takes over from the directory of its base.
bool goes_with_export(const std::string& name) {
  constexpr std::array names = {
      "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
      "generation_config.json"};
  constexpr std::array beginnings = {"tokenizer", "chat_template", "LICENSE",
                                     "LICENCE",   "NOTICE",        "USE_POLICY"};
  return std::find(names.begin(), names.end(), name) != names.end() ||
         std::any_of(beginnings.begin(), beginnings.end(),
                     [&](const char* b) { return name.starts_with(b); });
}

std::string model_card(const Opened& model, const Conversion& c) {
  return fmt::format(
      "---\nlibrary_name: transformers\n---\n\nA mixture of experts made by neuronmoe {} from {} (SHA-256 of "
      "config.json and "
      "weights: {}).\n\n* Experts per layer, base included: {}; {} per token.\n* In this copy: {}. {} The "
      "numbers "
      "are those of the checkpoint it was exported from.\n{}\nThe license of the base applies.\n",
      c.version, model.base.empty() ? "an unnamed base" : fs::path(model.base).filename().string(),
      model.base_hash, fmt::join(model.config.num_experts, ","), model.config.top_k, model.exported.layout,
      model.exported.note, c.origin.empty() ? "" : "* " + c.origin + "\n");
}

/// Files of an export beside its weights. Rank 0.
void write_export_files(const Opened& model, const Conversion& c, const std::string& directory) {
  constexpr std::int64_t max_bytes = 256 << 20;
  for (const std::string& name : accompanying_files(model.files))
    if (goes_with_export(name))
      io::write_file_atomically(directory + "/" + name,
                                io::read_file((fs::path(model.files) / name).string(), max_bytes));
  for (const TextFile& file : model.exported.files)
    io::write_file_atomically(directory + "/" + file.name, file.text);
  io::write_file_atomically(directory + "/config.json", model.exported.config_json);
  io::write_file_atomically(directory + "/README.md", model_card(model, c));
}

/// Replaces the experts of `model` by all of a model that transformers loads.
void export_for_transformers(Opened& model, const Conversion& c) {
  const std::string base = c.base.empty() ? model.base : c.base;
  NMOE_CHECK(!base.empty() && fs::exists(fs::path(base) / "config.json"), config,
             "--model is not set: {} holds experts only; pass the dense model they were trained on", c.input);
  const std::string hash = model_directory_hash(base);
  NMOE_CHECK(model.base_hash.empty() || hash == model.base_hash, bad_data,
             "{}: was trained on a base with hash {}, --model {} has {}; pass the base it was trained on",
             c.input, model.base_hash, base, hash);
  open_dense_model(base);
  TensorSources dense = dense_tensors(base), tensors;
  const auto is_bfloat16 = [](const auto& named) { return named.second.entry.dtype == "BF16"; };
  const bool narrow = std::all_of(dense.begin(), dense.end(), is_bfloat16) &&
                      std::all_of(model.tensors.begin(), model.tensors.end(), is_bfloat16);
  const DType dtype = c.dtype.value_or(narrow ? DType::bfloat16 : DType::float32);
  for (const auto& [name, source] : model.tensors)
    tensors[name] = require_finite(converted(source, dtype), c.input);
  for (const auto& [name, source] : dense)  // what a checkpoint holds itself stays
    tensors.try_emplace(name, require_finite(converted(source, dtype), base));
  model.exported = c.to == ModelForm::transformers ? pad_experts(model.config, tensors, c.input)
                                                   : add_python(model.config, tensors, c.input);
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(model.exported.config_json);
  config["dtype"] = name_of(dtype);
  model.exported.config_json = config.dump(2) + "\n";
  model.tensors = std::move(model.exported.tensors);
  model.files = base;
}

void write_huggingface(comm::Communicator& comm, const Opened& model, const Conversion& c,
                       const std::string& directory) {
  std::vector<io::TensorSource> sources;
  for (const auto& [name, source] : model.tensors) sources.push_back(source);
  const std::vector<io::Shard> shards = io::plan_shards(sources, c.max_shard_bytes);
  comm::agree(comm, [&] {
    const auto stride = static_cast<std::size_t>(comm.size());
    for (auto s = static_cast<std::size_t>(comm.rank()); s < shards.size(); s += stride) {
      std::vector<io::TensorSource> part;
      for (const std::size_t i : shards[s].tensors) part.push_back(sources[i]);
      io::write_tensor_sources((fs::path(directory) / shards[s].file).string(), std::move(part));
    }
    if (comm.rank() != 0) return;
    if (is_for_transformers(c.to))
      write_export_files(model, c, directory);
    else
      copy_accompanying_files(model, c, directory);
    if (shards.size() > 1)
      io::write_file_atomically(directory + "/model.safetensors.index.json",
                                io::shard_index_json(sources, shards));
  });
}

void write_checkpoint(comm::Communicator& comm, const Opened& model, const Conversion& c,
                      const std::string& directory) {
  write_model_file(comm, directory + "/model.h5", model.config, model.tensors);
  comm::agree(comm, [&] {
    if (comm.rank() == 0 && !model.files.empty()) copy_accompanying_files(model, c, directory);
  });
  // Other element types are other weights: a dense model converted so is not the base its source was.
  const bool same = !c.dtype || model.config.num_moe_layers() > 0;
  io::write_manifest(
      comm, directory,
      {{"step", "0"},
       {"version", c.version},
       {"converted_from", c.input},
       {"base_model", model.base},
       {"base_model_sha256",
        same ? model.base_hash : sha256_text(model.base_hash + std::string(name_of(*c.dtype)))}});
}

/// Makes OUTPUT.tmp after the checks that need no bytes. Rank 0.
void begin_output(const Conversion& c, const Opened& model, const std::string& tmp) {
  NMOE_CHECK(!fs::exists(c.output) || (fs::is_directory(c.output) && fs::is_empty(c.output)), config,
             "--output {} exists; choose another directory or remove it", c.output);
  std::int64_t bytes = 1 << 20;
  for (const auto& [name, source] : model.tensors) bytes += source.entry.num_bytes();
  io::require_free_space(c.output, bytes);
  fs::remove_all(tmp);
  io::make_directories(tmp);
}

}  // namespace

std::string convert_model(comm::Communicator& comm, const Conversion& c) {
  Opened model;
  const std::string tmp = c.output + ".tmp";
  comm::agree(comm, [&] {
    model = open_input(c);
    require_sensible(c, model.config);
    if (is_for_transformers(c.to)) export_for_transformers(model, c);
    for (auto& [name, source] : model.tensors) {
      const auto read = source.read;
      source.read = [read, beat = c.beat](std::int64_t begin, std::span<char> out) {
        read(begin, out);
        if (beat) beat();
      };
      if (c.dtype && !is_for_transformers(c.to)) source = converted(source, *c.dtype);
    }
    if (comm.rank() == 0) begin_output(c, model, tmp);
  });
  try {
    if (c.to == ModelForm::huggingface || is_for_transformers(c.to)) write_huggingface(comm, model, c, tmp);
    if (c.to == ModelForm::checkpoint) write_checkpoint(comm, model, c, tmp);
    if (c.to == ModelForm::adapter)
      comm::agree(comm, [&] {
        if (comm.rank() == 0) write_adapter(tmp, model.config, model.tensors, model.base, model.base_hash);
      });
    io::commit_directory(comm, tmp, c.output);
  } catch (const Error&) {
    if (comm.rank() == 0) {
      std::error_code ignored;
      fs::remove_all(tmp, ignored);
    }
    throw;
  }
  std::int64_t bytes = 0;
  std::set<std::string> dtypes;
  for (const auto& [name, source] : model.tensors) {
    bytes += source.entry.num_bytes();
    dtypes.insert(source.entry.dtype);
  }
  return fmt::format("{}: {} with {} tensors ({}), {} bytes{}", c.output, name_of(c.to), model.tensors.size(),
                     fmt::join(dtypes, ", "), bytes,
                     model.exported.layout.empty() ? "" : "; " + model.exported.layout);
}

}  // namespace nmoe::model
