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

ModelConfig apply_checkpoint_config(ModelConfig dense, const std::string& checkpoint_dir) {
  io::H5File file = io::H5File::open(checkpoint_dir + "/model.h5", model_file_format);
  const std::vector<std::int32_t> counts = file.read<std::int32_t>("/num_experts");
  NMOE_CHECK(static_cast<int>(counts.size()) == dense.num_layers, bad_data,
             "{}/model.h5: made for {} layers, the model has {}; pass the --model it was trained from",
             checkpoint_dir, counts.size(), dense.num_layers);
  NMOE_CHECK(std::all_of(counts.begin(), counts.end(),
                         [](std::int32_t c) { return c >= 1 && c <= max_num_experts; }),
             bad_data, "{}/model.h5: /num_experts has an entry outside 1..{}", checkpoint_dir,
             max_num_experts);
  dense.num_experts.assign(counts.begin(), counts.end());
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

void load_checkpoint_weights(Decoder& decoder, const std::string& checkpoint_dir, bool widen) {
  const std::string path = checkpoint_dir + "/model.h5";
  io::H5File file = io::H5File::open(path, model_file_format);
  const std::string stored = file.read_string_attribute("/", "dtype");
  const bool trained = std::find(weight_dtypes.begin(), weight_dtypes.end(), stored) != weight_dtypes.end();
  widen = widen && stored == name_of(DType::bfloat16) && decoder.dtype() == DType::float32;
  NMOE_CHECK(widen || stored == name_of(decoder.dtype()), bad_data,
             "{}: weights are {}, the run asks for {}; {}", path, stored, name_of(decoder.dtype()),
             trained ? "set train.dtype = " + stored : "convert them again with convert.dtype = float32");
  const std::vector<std::int32_t> counts = file.read<std::int32_t>("/num_experts");
  NMOE_CHECK(std::equal(counts.begin(), counts.end(), decoder.config().num_experts.begin(),
                        decoder.config().num_experts.end()),
             bad_data, "{}: /num_experts is {}, the model has {}; pass the experts it was trained with", path,
             fmt::join(counts, ","), fmt::join(decoder.config().num_experts, ","));
  for_each_parameter(decoder, [&](Parameter& p) {
    if (!p.held()) return;
    const FileLocation location = file_location(decoder.config(), p);
    if (!file.exists(location.dataset)) {
      NMOE_CHECK(!is_stored(p), bad_data, "{}: dataset {} is missing", path, location.dataset);
      return;
    }
    const io::FileRange range{location.first_element, p.shape.num_elements()};
    NMOE_CHECK(product(file.info(location.dataset).shape) == product(location.shape), bad_data,
               "{}: {} has another shape than the model needs", path, location.dataset);
    HostSide side(p.value.view(), decoder.stream());
    if (widen) {
      std::vector<std::uint16_t> narrow(static_cast<std::size_t>(p.shape.num_elements()));
      file.read_ranges(location.dataset, io::ElementType::bfloat16, location.shape, {&range, 1},
                       narrow.data());
      io::safetensors_convert(reinterpret_cast<const char*>(narrow.data()), "BF16", side.view());
    } else {
      file.read_ranges(location.dataset, io::element_type_of(decoder.dtype()), location.shape, {&range, 1},
                       side.view().raw());
    }
    NMOE_CHECK(all_finite(side.view()), bad_data,
               "{}: {} holds numbers that are not finite; take another checkpoint", path, p.name);
    side.send();
  });
  file.close();
}

}  // namespace nmoe::model
