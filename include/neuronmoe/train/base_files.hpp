#pragma once
// What a checkpoint remembers of the files of its frozen base, so that another base can be told from it by
// name.
#include <span>
#include <string>

#include "neuronmoe/model/hf_model.hpp"

namespace nmoe::train {

/// Returns a JSON object: the SHA-256 of each file in `files` (model::model_file_digests) of `directory` and,
/// as "config.json: KEY", that of each value of config.json. "" if `files` is empty. Reads config.json.
std::string base_files(const std::string& directory, std::span<const model::FileDigest> files);

/// Returns " (different: FILE, config.json: KEY, ...; the weights are the same)" for two texts of
/// base_files(), or "" where they do not tell. Checkpoints without the values of config.json name that file
/// alone.
std::string base_difference(const std::string& stored, const std::string& found);

}  // namespace nmoe::train
