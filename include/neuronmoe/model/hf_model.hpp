#pragma once
// Hugging Face model directories in and out: config.json and safetensors. Used by pretrain (out) and by every
// command that starts from a dense model (in).
#include <string>
#include <vector>

#include "neuronmoe/model/decoder.hpp"

namespace nmoe::model {

/// Returns the architecture of a model directory: config.json, untied if the weights hold a head whose values
/// differ from the embedding's, which is what transformers 5 does with "tie_word_embeddings": true then. A
/// directory without weights is what its config.json says. Not collective.
/// @throws Error(bad_data) like load_model_config(), and for a head of another shape
ModelConfig load_directory_config(const std::string& directory);

/// Returns the files of a model, checkpoint or adapter directory that decide its numbers, in name order;
/// empty if there is no such directory. Not collective.
std::vector<std::string> list_model_files(const std::string& directory);

/// Checks name and shape of every dense weight against the architecture, before anything is allocated.
/// `directory` is a Hugging Face directory or a checkpoint that `convert` made of one. @throws
/// Error(bad_data) naming the tensor
void require_dense_weights(const ModelConfig& config, const std::string& directory);

/// Reads the dense weights of this decoder from such a directory (new experts and routers are left alone).
/// Each rank reads for itself and holds a few MiB beside its model. @throws Error(bad_data) naming the tensor
/// for anything missing or of another shape.
void load_dense_weights(Decoder& decoder, const std::string& directory);

/// Writes config.json and model.safetensors, atomically and without new experts or routers. Rank 0 only; not
/// collective.
void save_dense_model(const Decoder& decoder, const std::string& directory);

/// Returns the identity of a model directory for checkpoints: SHA-256 over config.json and the weight files,
/// in name order. A checkpoint that `convert` made has that of the directory it came from.
std::string model_directory_hash(const std::string& directory);

/// A file of a model directory and its SHA-256.
struct FileDigest {
  std::string name, sha256;
};
/// Hashes config.json, first, and the weight files of a directory in name order. Empty for a checkpoint that
/// `convert` made: its manifest holds the hash of the directory it came from.
std::vector<FileDigest> model_file_digests(const std::string& directory);
/// Returns model_directory_hash() of what model_file_digests() returned.
std::string model_directory_hash(const std::string& directory, const std::vector<FileDigest>& files);

}  // namespace nmoe::model
