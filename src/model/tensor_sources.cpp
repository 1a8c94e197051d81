// Finding the weights of a model in its files, and the demand that they fit the architecture.
#include "neuronmoe/model/tensor_sources.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <memory>
#include <set>

#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/model/checkpoint_weights.hpp"
#include "neuronmoe/model/decoder.hpp"

namespace nmoe::model {

namespace {

namespace fs = std::filesystem;

std::string dtype_of(io::ElementType type, const std::string& path, const std::string& dataset) {
  switch (type) {
    case io::ElementType::float64:
      return "F64";
    case io::ElementType::float32:
      return "F32";
    case io::ElementType::bfloat16:
      return "BF16";
    case io::ElementType::float16:
      return "F16";
    default:
      NMOE_CHECK(false, bad_data, "{}: {} holds {}, which is no type of weights", path, dataset,
                 name_of(type));
  }
}

Shape shape_of(std::span<const std::int64_t> extents, const std::string& path, const std::string& dataset) {
  NMOE_CHECK(extents.size() == 1 || extents.size() == 2, bad_data, "{}: {} has {} axes, weights have 1 or 2",
             path, dataset, extents.size());
  return extents.size() == 1 ? Shape{extents[0]} : Shape{extents[0], extents[1]};
}

/// Datasets of a model.h5 as sources that share the open file.
class CheckpointLister {
 public:
  explicit CheckpointLister(const std::string& path)
      : path_(path), file_(std::make_shared<io::H5File>(io::H5File::open(path, model_file_format))) {}

  TensorSources list() {
    if (!file_->exists("/model")) return {};
    for (const std::string& name : file_->list("/model")) {
      if (name == "layers")
        list_layers();
      else
        add("/model/" + name, name, 0, file_->info("/model/" + name).shape);
    }
    return std::move(sources_);
  }

 private:
  void list_layers() {
    for (const std::string& number : file_->list("/model/layers")) {
      int layer = -1;
      const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), layer);
      NMOE_CHECK(error == std::errc() && end == number.data() + number.size() && layer >= 0 &&
                     fmt::format("{:02d}", layer) == number,
                 bad_data, "{}: /model/layers/{} is no layer", path_, number);
      const std::string group = "/model/layers/" + number;
      for (const std::string& member : file_->list(group)) {
        if (member != "experts") {
          list_layer_dataset(group, member, layer);
          continue;
        }
        for (const std::string& which : file_->list(group + "/experts"))
          list_layer_dataset(group, "experts/" + which, layer);
      }
    }
  }

  void list_layer_dataset(const std::string& group, const std::string& name, int layer) {
    const std::string dataset = group + "/" + name;
    const auto* const known = std::find_if(layer_datasets.begin(), layer_datasets.end(),
                                           [&](const LayerDataset& d) { return d.name == name; });
    NMOE_CHECK(known != layer_datasets.end(), bad_data, "{}: {} has no place", path_, dataset);
    const std::vector<std::int64_t> shape = file_->info(dataset).shape;
    if (known->role == Role::router) return add(dataset, parameter_name(Role::router, layer), 0, shape);
    NMOE_CHECK(shape.size() == 3 && shape[0] < max_num_experts, bad_data,
               "{}: {} has {} axes and not experts, out, in, or too many experts", path_, dataset,
               shape.size());
    for (int e = 1; e <= shape[0]; ++e)
      add(dataset, parameter_name(known->role, layer, e), (e - 1) * shape[1] * shape[2],
          std::span(shape).subspan(1));
  }

  void add(const std::string& dataset, const std::string& name, std::int64_t first,
           std::span<const std::int64_t> extents) {
    const io::DatasetInfo info = file_->info(dataset);
    NMOE_CHECK(info.kind == io::DatasetInfo::Kind::numbers, bad_data, "{}: {} holds no numbers", path_,
               dataset);
    const std::int64_t element = io::size_of(info.type);
    const auto read = [file = file_, dataset, info, first, element](std::int64_t begin, std::span<char> out) {
      const io::FileRange range{first + begin / element, static_cast<std::int64_t>(out.size()) / element};
      file->read_ranges(dataset, info.type, info.shape, {&range, 1}, out.data());
    };
    sources_[name] = {{name, dtype_of(info.type, path_, dataset), shape_of(extents, path_, dataset)}, read};
  }

  std::string path_;
  std::shared_ptr<io::H5File> file_;
  TensorSources sources_;
};

/// Whether a file is of transformers' class without the head, which leaves the prefix of its names out.
bool is_without_prefix(const io::SafetensorsReader& reader) {
  const std::vector<std::string> names = reader.names();
  return reader.contains(parameter_name(Role::embedding).substr(base_prefix.size())) &&
         std::none_of(names.begin(), names.end(),
                      [](const std::string& name) { return name.starts_with(base_prefix); });
}

/// Names that a file may have although no parameter is filled from them.
bool is_derived(const std::string& name, const ModelConfig& config) {
  const bool rotary = name.starts_with(base_prefix) && name.ends_with("rotary_emb.inv_freq");
  return (rotary && name.find('/') == std::string::npos) ||
         (config.tie_word_embeddings && name == parameter_name(Role::head));
}

}  // namespace

TensorSources dense_tensors(const std::string& directory) {
  if (fs::exists(fs::path(directory) / "model.h5")) return checkpoint_tensors(directory);
  const auto reader = std::make_shared<io::SafetensorsReader>(directory);
  const std::string prefix(is_without_prefix(*reader) ? base_prefix : "");
  TensorSources sources;
  for (const std::string& name : reader->names()) {
    io::SafetensorsEntry entry = reader->entry(name);
    entry.name = prefix + name;
    sources[entry.name] = {entry, [reader, name](std::int64_t begin, std::span<char> out) {
                             reader->read_bytes(name, begin, out);
                           }};
  }
  return sources;
}

TensorSources checkpoint_tensors(const std::string& step_dir) {
  return CheckpointLister(step_dir + "/model.h5").list();
}

void require_tensors(const TensorSources& sources, const ModelConfig& config, const std::string& where,
                     const std::function<bool(const Parameter&)>& needed) {
  std::set<std::string> known;
  for (const Parameter& p : list_parameters(config)) {
    known.insert(p.name);
    const auto found = sources.find(p.name);
    NMOE_CHECK(found != sources.end() || !needed(p), bad_data, "{}: tensor {} of shape {} is missing", where,
               p.name, p.shape.to_string());
    NMOE_CHECK(found == sources.end() || found->second.entry.shape == p.shape, bad_data,
               "{}: tensor {} has shape {} but the model's config asks for {}", where, p.name,
               found->second.entry.shape.to_string(), p.shape.to_string());
  }
  // A tensor without a place (a bias, a norm of another architecture) means that this is not the model that
  // was trained.
  for (const auto& [name, source] : sources)
    NMOE_CHECK(known.contains(name) || is_derived(name, config), bad_data,
               "{}: tensor {} has no place in the architecture of the model's config", where, name);
}

void read_tensor(const TensorSources& sources, const std::string& name, TensorView out,
                 const std::string& where) {
  const auto found = sources.find(name);
  NMOE_CHECK(found != sources.end(), bad_data, "{} has no tensor {}", where, name);
  io::read_tensor(found->second, out, where);
}

io::TensorSource converted(io::TensorSource source, DType dtype) {
  io::SafetensorsEntry entry = source.entry;
  entry.dtype = io::safetensors_dtype(dtype, entry.name);
  if (entry.dtype == source.entry.dtype) return source;
  const std::int64_t from = io::safetensors_element_bytes(source.entry.dtype), to = size_of(dtype);
  const auto read = [source, dtype, from, to](std::int64_t begin, std::span<char> out) {
    const std::int64_t first = begin / to, count = static_cast<std::int64_t>(out.size()) / to;
    std::vector<char> bytes(static_cast<std::size_t>(count * from));
    source.read(first * from, bytes);
    io::safetensors_convert(bytes.data(), source.entry.dtype, {out.data(), dtype, {count}});
  };
  return {entry, read};
}

}  // namespace nmoe::model
