#pragma once
// What is in one file that we wrote, and whether it is intact: the words of `inspect`.
#include <string>
#include <vector>

namespace nmoe::app {

/// By extension: .h5, .cfg (experts), .safetensors, .json, .jsonl, .csv. Everything in it is read.
/// @throws Error(bad_data) naming the fault. Not collective.
/// @pre whoever calls it for HDF5 has compared the checksum or tried the file (trial_read.hpp)
std::string describe_file(const std::string& path);
/// Whether describe_file would open it as HDF5.
bool described_as_h5(const std::string& path);
/// Opens a HDF5 file of anybody and looks, in each of `objects` ("/" is all, attributes too), at what a
/// reader would look at before it reads numbers; for a trial process. @throws Error(bad_data) for what it
/// would refuse. Not collective.
void look_through(const std::string& path, const std::vector<std::string>& objects);
/// A Hugging Face model directory. Not collective.
std::string describe_model(const std::string& directory);
/// A PEFT-MoE adapter. Not collective.
std::string describe_adapter(const std::string& directory);

}  // namespace nmoe::app
