#pragma once
// Hugging Face safetensors: how weights come in and go out. The reader trusts nothing in the header and reads
// the data in small pieces, so that loading costs a model no memory beside its own. Called by model (load,
// convert) and train, app (export).
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::io {

/// A tensor as the header describes it; dtype is one of F64, F32, BF16, F16.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;
  Shape shape;
  std::int64_t num_bytes() const;
};

/// Returns the bytes per element of F64, F32, BF16, F16; 0 for any other dtype.
std::int64_t safetensors_element_bytes(const std::string& dtype);
/// Returns their name for one of our dtypes. @throws Error(internal) naming the tensor for integers
std::string safetensors_dtype(DType dtype, const std::string& tensor);
/// Fills `out` (CPU; float64, float32 or bfloat16) from unaligned little-endian elements of `dtype`, with
/// round to nearest even.
void safetensors_convert(const char* bytes, const std::string& dtype, TensorView out);

/// One .safetensors file, or all shards of an index. Not collective; every rank may open the same files.
class SafetensorsReader {
 public:
  /// Opens `path`: a .safetensors file, an index .json, or a directory holding model.safetensors or
  /// model.safetensors.index.json. @throws Error(bad_data) naming file and fault for any header that is not
  /// exactly right: size, JSON, duplicate names, offsets with holes or overlap, overflow, unknown dtype,
  /// shard names with '/' or '..', tensors missing from or alien to the index.
  explicit SafetensorsReader(const std::string& path);
  ~SafetensorsReader();
  SafetensorsReader(SafetensorsReader&&) noexcept;
  SafetensorsReader& operator=(SafetensorsReader&&) noexcept;

  /// Returns the names, ascending.
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const;
  /// @throws Error(bad_data) naming the tensor and the file if it is absent.
  const SafetensorsEntry& entry(const std::string& name) const;
  /// Fills `out` (CPU; float64, float32 or bfloat16), converting with round to nearest even. Holds 4 MiB
  /// beside it.
  /// @throws Error(bad_data) if shapes differ.
  void read(const std::string& name, TensorView out) const;
  /// Reads bytes [begin, begin + out.size()) of a tensor as they are in the file.
  /// @throws Error(bad_data) if the file has become shorter, Error(io) if it cannot be read
  void read_bytes(const std::string& name, std::int64_t begin, std::span<char> out) const;
  /// Returns the files read: one, or the shards in ascending order.
  const std::vector<std::string>& files() const;
  /// Returns `__metadata__` of the first file; empty if it has none.
  const std::map<std::string, std::string>& metadata() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct NamedTensor {
  std::string name;
  ConstTensorView view;  ///< CPU; float64, float32 or bfloat16
};

/// Writes one .safetensors file atomically; tensors in ascending name order, so equal content gives equal
/// bytes. @throws Error(no_space|io)
void write_safetensors(const std::string& path, std::vector<NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

/// A tensor that is written piece by piece: `read(begin, out)` gives its bytes [begin, begin + out.size());
/// begin and size are multiples of the element size.
struct TensorSource {
  SafetensorsEntry entry;
  std::function<void(std::int64_t begin, std::span<char> out)> read;
};
/// Fills `out` (CPU; float64, float32 or bfloat16), converting with round to nearest even, 4 MiB at a time.
/// @param where file named in messages   @throws Error(bad_data) if shapes differ
void read_tensor(const TensorSource& source, TensorView out, const std::string& where);
/// Writes as write_safetensors does, holding 16 MiB at a time.
void write_tensor_sources(const std::string& path, std::vector<TensorSource> sources,
                          const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

/// One file of a sharded model and the tensors that go into it (places in the list the plan was made from).
struct Shard {
  std::string file;
  std::vector<std::size_t> tensors;
};
/// Deals tensors in ascending name order to files of at most `max_bytes` of data (a larger tensor has a file
/// of its own): model.safetensors alone, or model-00001-of-0000N.safetensors and so on.
std::vector<Shard> plan_shards(const std::vector<TensorSource>& sources, std::int64_t max_bytes);
/// Returns the text of the model.safetensors.index.json that goes with a plan of several files.
std::string shard_index_json(const std::vector<TensorSource>& sources, const std::vector<Shard>& shards);

}  // namespace nmoe::io
