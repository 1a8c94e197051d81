#pragma once
// model.h5 of a checkpoint: everything the dense base does not have (routers and new experts, frozen or not),
// anything else that trains, and the expert list. Written by train; read by train, analysis and evaluation,
// on any number of ranks.
#include <array>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/model/decoder.hpp"
#include "neuronmoe/model/tensor_sources.hpp"

namespace nmoe::model {

inline constexpr io::FileFormat model_file_format{"neuronmoe-model", 1};

/// Returns whether a checkpoint holds the parameter: all but the frozen base.
inline bool is_stored(const Parameter& p) {
  return p.trainable || !p.is_dense();
}

/// Datasets of a layer's group /model/layers/NN.
struct LayerDataset {
  Role role;
  std::string_view name;
};
inline constexpr std::array<LayerDataset, 4> layer_datasets = {{{Role::router, "router"},
                                                                {Role::gate, "experts/gate"},
                                                                {Role::up, "experts/up"},
                                                                {Role::down, "experts/down"}}};

/// Where a parameter lives in model.h5: dataset name, its full shape, and the parameter's first element in
/// it.
struct FileLocation {
  std::string dataset;
  std::vector<std::int64_t> shape;
  std::int64_t first_element;
};
/// Returns where a parameter is. Router: /model/layers/NN/router [E, D]; expert e: row e − 1 of
/// /model/layers/NN/experts/{gate,up,down} [E − 1, out, in]; anything else: /model/<Hugging Face name>.
FileLocation file_location(const ModelConfig& config, const Parameter& parameter);

/// A piece of a parameter this rank writes: elements [begin, end) of its flat value.
struct ParameterPiece {
  const Parameter* parameter;
  std::int64_t begin, end;
};
/// Writes the stored parameters; `pieces` of all ranks cover each of them exactly once. Collective over
/// `comm`.
void write_model_file(comm::Communicator& comm, const std::string& path, const Decoder& decoder,
                      std::span<const ParameterPiece> pieces);

/// Writes the same file from tensors that lie elsewhere, each in its own element type, streamed: a rank holds
/// 16 MiB. `sources` are parameters of `config` and what the architecture derives. Collective over `comm`.
/// @throws Error(bad_data) if experts of one layer have different types
void write_model_file(comm::Communicator& comm, const std::string& path, const ModelConfig& config,
                      const TensorSources& sources);

/// Fills what a mixture that is being extended takes over from its checkpoint: the experts below
/// first_trained_expert of every layer and, with ExtendRouter::keep, the rows of their routers. Whatever else
/// the decoder holds stays as it is. Not collective.
/// @pre the decoder's num_old_experts are the checkpoint's num_experts
/// @throws Error(bad_data) as load_checkpoint_weights
void load_old_experts(Decoder& decoder, const std::string& checkpoint_dir, ExtendRouter routers);

/// Returns the experts per layer of a checkpoint directory's model.h5, base included. Not collective.
/// @throws Error(bad_data) for a count that no layer can have
std::vector<int> read_expert_counts(const std::string& checkpoint_dir);

/// Puts expert counts and top_k from a checkpoint directory's model.h5 into a dense config. Not collective.
/// @throws Error(bad_data) if the checkpoint does not belong to this architecture, down to the shape of every
/// tensor, so that nothing is allocated for one that does not; names both values.
ModelConfig apply_checkpoint_config(ModelConfig dense, const std::string& checkpoint_dir);
/// Fills every parameter that is held here and stored in the checkpoint. Not collective: each rank reads for
/// itself.
/// @param widen take bfloat16 weights into a float32 decoder, which loses nothing
/// @throws Error(bad_data) if an MoE parameter is missing or of another shape, or weights of another type.
void load_checkpoint_weights(Decoder& decoder, const std::string& checkpoint_dir, bool widen = false);

}  // namespace nmoe::model
