// model.h5: which parameters are in it, and where in its datasets each of them lies.
#include "neuronmoe/model/checkpoint_weights.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "all_finite.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::model {

namespace {

constexpr const char* old_experts_dataset = "/num_old_experts";

/// What an extended mixture says about itself; empty for any other. Entries are as the file has them.
std::vector<int> read_old_experts(io::H5File& file) {
  if (!file.exists(old_experts_dataset)) return {};
  const std::vector<std::int32_t> counts = file.read<std::int32_t>(old_experts_dataset);
  return {counts.begin(), counts.end()};
}

std::string layer_dataset(int layer, Role role) {
  const auto* const found = std::find_if(layer_datasets.begin(), layer_datasets.end(),
                                         [&](const LayerDataset& dataset) { return dataset.role == role; });
  return fmt::format("/model/layers/{:02d}/{}", layer, found->name);
}

std::int64_t product(const std::vector<std::int64_t>& shape) {
  std::int64_t n = 1;
  for (const std::int64_t extent : shape) n *= extent;
  return n;
}

io::H5File create_model_file(comm::Communicator& comm, const std::string& path, const ModelConfig& config,
                             const std::string& dtype) {
  io::H5File file = io::H5File::create(path, comm);
  file.write_format(model_file_format);
  file.write_attribute("/", "top_k", config.top_k);
  file.write_attribute("/", "router_compat", name_of(config.router_compat()));
  file.write_attribute("/", "dtype", dtype);
  const std::vector<int>& counts = config.num_experts;
  file.write("/num_experts", std::vector<std::int32_t>(counts.begin(), counts.end()));
  const std::vector<int>& old = config.num_old_experts;
  if (!old.empty()) file.write(old_experts_dataset, std::vector<std::int32_t>(old.begin(), old.end()));
  return file;
}

io::ElementType element_type_of(const std::string& dtype) {
  if (dtype == "F64") return io::ElementType::float64;
  if (dtype == "BF16") return io::ElementType::bfloat16;
  return dtype == "F16" ? io::ElementType::float16 : io::ElementType::float32;
}

}  // namespace

FileLocation file_location(const ModelConfig& config, const Parameter& p) {
  std::vector<std::int64_t> shape;
  for (int axis = 0; axis < p.shape.rank(); ++axis) shape.push_back(p.shape[axis]);
  if (p.is_dense()) return {"/model/" + p.name, shape, 0};
  const std::string dataset = layer_dataset(p.layer, p.role);
  if (p.is_router()) return {dataset, shape, 0};
  shape.insert(shape.begin(), config.num_experts[static_cast<std::size_t>(p.layer)] - 1);
  return {dataset, shape, (p.expert - 1) * p.shape.num_elements()};
}

void write_model_file(comm::Communicator& comm, const std::string& path, const Decoder& decoder,
                      std::span<const ParameterPiece> pieces) {
  // Every rank knows every dataset; its own pieces are ranges of them, in ascending order.
  struct Dataset {
    std::vector<std::int64_t> shape;
    std::map<std::int64_t, ParameterPiece> pieces;  // by first element in the dataset
  };
  std::map<std::string, Dataset> datasets;
  for_each_parameter(decoder, [&](const Parameter& p) {
    if (!is_stored(p)) return;
    const FileLocation location = file_location(decoder.config(), p);
    datasets[location.dataset].shape = location.shape;
  });
  for (const ParameterPiece& piece : pieces) {
    const FileLocation location = file_location(decoder.config(), *piece.parameter);
    datasets.at(location.dataset).pieces.emplace(location.first_element + piece.begin, piece);
  }
  io::H5File file = create_model_file(comm, path, decoder.config(), std::string(name_of(decoder.dtype())));
  const std::int64_t element = size_of(decoder.dtype());
  for (const auto& [name, dataset] : datasets) {
    std::vector<io::FileRange> ranges;
    std::vector<char> packed;
    for (const auto& [first, piece] : dataset.pieces) {
      ranges.push_back({first, piece.end - piece.begin});
      const auto at = static_cast<std::int64_t>(packed.size()), bytes = (piece.end - piece.begin) * element;
      packed.resize(static_cast<std::size_t>(at + bytes));
      copy(TensorView(packed.data() + at, decoder.dtype(), {piece.end - piece.begin}),
           piece.parameter->value.view()
               .reshape({piece.parameter->shape.num_elements()})
               .rows(piece.begin, piece.end - piece.begin),
           decoder.stream());
    }
    file.write_ranges(name, io::element_type_of(decoder.dtype()), dataset.shape, ranges, packed.data());
  }
  file.finish();
}

void write_model_file(comm::Communicator& comm, const std::string& path, const ModelConfig& config,
                      const TensorSources& sources) {
  struct Dataset {
    std::vector<std::int64_t> shape;
    std::map<std::int64_t, io::TensorSource> parts;  // by first element: a layer's experts, or the one tensor
  };
  std::map<std::string, Dataset> datasets;
  std::set<std::string> dtypes, left;
  for (const auto& [name, source] : sources) left.insert(name);
  for (const Parameter& p : list_parameters(config)) {
    if (left.erase(p.name) == 0) continue;
    const FileLocation location = file_location(config, p);
    Dataset& dataset = datasets[location.dataset];
    dataset.shape = location.shape;
    dataset.parts.emplace(location.first_element, sources.at(p.name));
  }
  for (const std::string& name : left) {  // what the architecture derives travels along
    const io::TensorSource& source = sources.at(name);
    Dataset& dataset = datasets["/model/" + name];
    dataset.parts.emplace(0, source);
    for (int axis = 0; axis < source.entry.shape.rank(); ++axis)
      dataset.shape.push_back(source.entry.shape[axis]);
  }
  for (const auto& [name, dataset] : datasets) {
    const io::SafetensorsEntry& first = dataset.parts.begin()->second.entry;
    dtypes.insert(first.dtype);
    for (const auto& [at, part] : dataset.parts)
      NMOE_CHECK(part.entry.dtype == first.dtype, bad_data, "{} is {} but {} is {}; set convert.dtype",
                 first.name, first.dtype, part.entry.name, part.entry.dtype);
  }
  const std::string dtype =
      dtypes.size() == 1 ? std::string(name_of(element_type_of(*dtypes.begin()))) : "mixed";
  io::H5File file = create_model_file(comm, path, config, dtype);
  for (const auto& [name, dataset] : datasets) {
    const io::SafetensorsEntry& first = dataset.parts.begin()->second.entry;
    const io::ElementType type = element_type_of(first.dtype);
    const std::int64_t part_bytes = first.num_bytes(), part_elements = part_bytes / io::size_of(type);
    file.write_streamed(
        name, type, dataset.shape, [&, &parts = dataset.parts](std::int64_t begin, std::span<char> bytes) {
          for (std::int64_t at = begin * io::size_of(type); !bytes.empty();) {
            const std::int64_t rest = part_bytes - at % part_bytes;
            const auto count = std::min(bytes.size(), static_cast<std::size_t>(rest));
            parts.at(at / part_bytes * part_elements).read(at % part_bytes, bytes.first(count));
            bytes = bytes.subspan(count);
            at += static_cast<std::int64_t>(count);
          }
        });
  }
  file.finish();
}

std::vector<int> read_expert_counts(const std::string& checkpoint_dir) {
  io::H5File file = io::H5File::open(checkpoint_dir + "/model.h5", model_file_format);
  const std::vector<std::int32_t> counts = file.read<std::int32_t>("/num_experts");
  file.close();
  NMOE_CHECK(std::all_of(counts.begin(), counts.end(),
                         [](std::int32_t c) { return c >= 1 && c <= max_num_experts; }),
             bad_data, "{}/model.h5: /num_experts has an entry outside 1..{}", checkpoint_dir,
             max_num_experts);
  return {counts.begin(), counts.end()};
}

ModelConfig apply_checkpoint_config(ModelConfig dense, const std::string& checkpoint_dir) {
  const std::vector<int> counts = read_expert_counts(checkpoint_dir);
  NMOE_CHECK(static_cast<int>(counts.size()) == dense.num_layers, bad_data,
             "{}/model.h5: made for {} layers, the model has {}; pass the --model it was trained from",
             checkpoint_dir, counts.size(), dense.num_layers);
  io::H5File file = io::H5File::open(checkpoint_dir + "/model.h5", model_file_format);
  dense.num_experts = counts;
  dense.num_old_experts = read_old_experts(file);
  NMOE_CHECK(
      dense.num_old_experts.empty() ||
          std::equal(counts.begin(), counts.end(), dense.num_old_experts.begin(), dense.num_old_experts.end(),
                     [](int all, int old) { return old >= 1 && old <= all; }),
      bad_data, "{}/model.h5: {} is {}, wanted one entry per layer from 1 to those of /num_experts, {}",
      checkpoint_dir, old_experts_dataset, fmt::join(dense.num_old_experts, ","), fmt::join(counts, ","));
  dense.top_k = static_cast<int>(file.read_int_attribute("/", "top_k"));
  NMOE_CHECK(dense.top_k >= 1, bad_data, "{}/model.h5: top_k is {}", checkpoint_dir, dense.top_k);
  const bool stored = file.has_attribute("/", "router_compat");  // files of earlier builds have none
  dense.release_router = stored && parse_enum<RouterCompat>(
                                       file.read_string_attribute("/", "router_compat"), ErrorCode::bad_data,
                                       checkpoint_dir + "/model.h5: router_compat") == RouterCompat::release;
  file.close();
  require_tensors(checkpoint_tensors(checkpoint_dir), dense, checkpoint_dir + "/model.h5",
                  [](const Parameter& p) { return !p.is_dense(); });
  return dense;
}

namespace {

/// model.h5 of a checkpoint, opened to fill parameters of a decoder.
class WeightFile {
 public:
  /// @throws Error(bad_data) if its weights have another type than the decoder's
  WeightFile(Decoder& decoder, const std::string& checkpoint_dir, bool widen)
      : decoder_(decoder), file_(io::H5File::open(checkpoint_dir + "/model.h5", model_file_format)) {
    const std::string stored = file_.read_string_attribute("/", "dtype");
    const bool trained = std::find(weight_dtypes.begin(), weight_dtypes.end(), stored) != weight_dtypes.end();
    widen_ = widen && stored == name_of(DType::bfloat16) && decoder.dtype() == DType::float32;
    NMOE_CHECK(widen_ || stored == name_of(decoder.dtype()), bad_data,
               "{}: weights are {}, the run asks for {}; {}", file_.path(), stored, name_of(decoder.dtype()),
               trained ? "set train.dtype = " + stored : "convert them again with convert.dtype = float32");
  }
  io::H5File& file() { return file_; }

  /// Reads elements from the beginning of the parameter at `location` into `target`, as many as it has.
  void read(const FileLocation& location, TensorView target, const std::string& name) {
    const io::FileRange range{location.first_element, target.num_elements()};
    NMOE_CHECK(product(file_.info(location.dataset).shape) == product(location.shape), bad_data,
               "{}: {} has another shape than the model needs", file_.path(), location.dataset);
    HostSide side(target, decoder_.stream());
    if (widen_) {
      std::vector<std::uint16_t> narrow(static_cast<std::size_t>(target.num_elements()));
      file_.read_ranges(location.dataset, io::ElementType::bfloat16, location.shape, {&range, 1},
                        narrow.data());
      io::safetensors_convert(reinterpret_cast<const char*>(narrow.data()), "BF16", side.view());
    } else {
      file_.read_ranges(location.dataset, io::element_type_of(decoder_.dtype()), location.shape, {&range, 1},
                        side.view().raw());
    }
    NMOE_CHECK(all_finite(side.view()), bad_data,
               "{}: {} holds numbers that are not finite; take another checkpoint", file_.path(), name);
    side.send();
  }

 private:
  Decoder& decoder_;
  io::H5File file_;
  bool widen_ = false;
};

}  // namespace

void load_checkpoint_weights(Decoder& decoder, const std::string& checkpoint_dir, bool widen) {
  WeightFile weights(decoder, checkpoint_dir, widen);
  io::H5File& file = weights.file();
  const ModelConfig& config = decoder.config();
  const std::vector<std::int32_t> counts = file.read<std::int32_t>("/num_experts");
  NMOE_CHECK(std::equal(counts.begin(), counts.end(), config.num_experts.begin(), config.num_experts.end()),
             bad_data, "{}: /num_experts is {}, the model has {}; pass the experts it was trained with",
             file.path(), fmt::join(counts, ","), fmt::join(config.num_experts, ","));
  const std::vector<int> old = read_old_experts(file);
  NMOE_CHECK(
      old == config.num_old_experts, bad_data,
      "{}: experts of an earlier stage per layer are {}, the run has {}; pass the train.init_from it was "
      "begun with",
      file.path(), old.empty() ? "none" : fmt::format("{}", fmt::join(old, ",")),
      config.num_old_experts.empty() ? "none" : fmt::format("{}", fmt::join(config.num_old_experts, ",")));
  for_each_parameter(decoder, [&](Parameter& p) {
    if (!p.held()) return;
    const FileLocation location = file_location(config, p);
    if (!file.exists(location.dataset)) {
      NMOE_CHECK(!is_stored(p), bad_data, "{}: dataset {} is missing", file.path(), location.dataset);
      return;
    }
    weights.read(location, p.value.view(), p.name);
  });
  file.close();
}

void load_old_experts(Decoder& decoder, const std::string& checkpoint_dir, ExtendRouter routers) {
  WeightFile weights(decoder, checkpoint_dir, false);
  ModelConfig old = decoder.config();
  old.num_experts = old.num_old_experts;
  for_each_parameter(decoder, [&](Parameter& p) {
    if (!p.held() || p.is_dense() || !old.is_moe(p.layer)) return;
    if (p.is_router()) {
      if (routers == ExtendRouter::redraw) return;
      const std::int64_t rows = old.num_experts[static_cast<std::size_t>(p.layer)];
      FileLocation location = file_location(old, p);
      location.shape.front() = rows;
      weights.read(location, p.value.view().rows(0, rows), p.name);
    } else if (p.expert < old.num_experts[static_cast<std::size_t>(p.layer)]) {
      weights.read(file_location(old, p), p.value.view(), p.name);
    }
  });
  weights.file().close();
}

}  // namespace nmoe::model
