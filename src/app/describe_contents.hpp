#pragma once
// What files of ours hold, in a few lines a person asks for: languages, documents, tokens, neurons, experts,
// steps. `inspect` prints them above the list of everything.
#include <string>

#include "neuronmoe/io/hdf5_file.hpp"

namespace nmoe::app {

/// Returns lines "  what  how much" of a HDF5 file of ours, by what is in it; "" of anybody else's. What does
/// not look as this program writes it is said so. Not collective.
std::string contents_of(io::H5File& file);
/// Returns the same of a checkpoint step: experts, step, tokens seen.
std::string contents_of_step(const std::string& directory);
/// Returns the same of a run directory, from its metrics.jsonl: steps and losses; "" if there is none.
std::string contents_of_run(const std::string& directory);
/// Returns the same of a JSON file, if it has scores of languages or a stated end of a run.
std::string contents_of_json(const std::string& path);
/// Returns the same of the rows of a JSONL file, as far as they have steps and losses.
std::string contents_of_rows(const std::string& path);

}  // namespace nmoe::app
