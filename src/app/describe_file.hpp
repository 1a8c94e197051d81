#pragma once
// What is in one file that we wrote, and whether it is intact: the words of `inspect`.
#include <string>

namespace nmoe::app {

/// By extension: .h5, .cfg (experts), .safetensors, .json, .jsonl. Everything in it is read.
/// @throws Error(bad_data) naming the fault. Not collective.
std::string describe_file(const std::string& path);
/// A Hugging Face model directory. Not collective.
std::string describe_model(const std::string& directory);

}  // namespace nmoe::app
