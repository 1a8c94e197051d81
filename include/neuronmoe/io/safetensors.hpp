#pragma once
// Hugging Face safetensors: how weights come in and go out. The reader trusts nothing in the header and maps
// the data, so a tensor is read without loading the file. Called by model (load) and train, app (export).
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::io {

/// A tensor as the header describes it; dtype is one of F64, F32, BF16, F16.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;
  Shape shape;
};

/// One .safetensors file, or all shards of a model.safetensors.index.json. Not collective; every rank may
/// open the same files.
class SafetensorsReader {
 public:
  /// `path` is a .safetensors file, an index .json, or a directory holding model.safetensors or
  /// model.safetensors.index.json. @throws Error(bad_data) naming file and fault for any header that is not
  /// exactly right: size, JSON, duplicate names, offsets with holes or overlap, overflow, unknown dtype,
  /// shard names with '/' or '..', tensors missing from or alien to the index.
  explicit SafetensorsReader(const std::string& path);
  ~SafetensorsReader();
  SafetensorsReader(SafetensorsReader&&) noexcept;
  SafetensorsReader& operator=(SafetensorsReader&&) noexcept;

  /// Ascending names.
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const;
  /// @throws Error(bad_data) naming the tensor and the file if it is absent.
  const SafetensorsEntry& entry(const std::string& name) const;
  /// Fills `out` (CPU; float64, float32 or bfloat16), converting with round to nearest even.
  /// @throws Error(bad_data) if shapes differ.
  void read(const std::string& name, TensorView out) const;
  /// Files read: one, or the shards in ascending order.
  const std::vector<std::string>& files() const;

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

}  // namespace nmoe::io
