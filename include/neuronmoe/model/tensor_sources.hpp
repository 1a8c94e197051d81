#pragma once
// Weights by name, wherever they lie: a Hugging Face directory, a checkpoint's model.h5, a PEFT-MoE adapter.
// Used by whoever loads a model and by convert.
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "neuronmoe/io/safetensors.hpp"
#include "neuronmoe/model/parameter.hpp"

namespace nmoe::model {

struct ModelConfig;

/// Tensors under the names of model::Parameter. Reading one holds a few MiB; the files stay open as long as
/// the sources live. Not collective: every rank opens for itself.
using TensorSources = std::map<std::string, io::TensorSource>;

/// Returns the dense weights of a Hugging Face directory, or of a checkpoint that holds them all. @throws
/// Error(bad_data)
TensorSources dense_tensors(const std::string& directory);
/// Returns everything in the model.h5 of a step directory. @throws Error(bad_data) naming what has no place
/// there
TensorSources checkpoint_tensors(const std::string& step_dir);

/// Demands that `sources` have every parameter of `config` that is `needed`, all in the right shapes, and
/// nothing else but what the architecture derives (the head of a tied model, rotary frequencies). Reads
/// headers only: nothing is allocated for a config that does not fit its weights. @throws Error(bad_data)
/// naming `where` and the tensor
void require_tensors(const TensorSources& sources, const ModelConfig& config, const std::string& where,
                     const std::function<bool(const Parameter&)>& needed);

/// Fills `out` (CPU; float64, float32, bfloat16), converting with round to nearest even, 4 MiB at a time.
/// @throws Error(bad_data) naming `where` and both shapes if they differ
void read_tensor(const TensorSources& sources, const std::string& name, TensorView out,
                 const std::string& where);

/// Returns the same tensor with elements of `dtype` (float32 or bfloat16), converted while it is read.
io::TensorSource converted(io::TensorSource source, DType dtype);

}  // namespace nmoe::model
