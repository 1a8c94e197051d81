#pragma once
// responses.h5: the response of every neuron of chosen modules to every sense sentence, the numbers that
// average precision is computed from. Written by analyze for analyses of the user's own; `score` reads it.
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "neuronmoe/analysis/neuron_analysis.hpp"

namespace nmoe::analysis {

/// Returns the modules that `wanted` names, in the order of `all`. An entry of the comma-separated list names
/// every module of which it is a run of whole parts of the name between dots: layers.3, mlp.down_proj, model.
/// @throws Error(config) naming an entry that names none and the choices, or that there is no entry
std::vector<Module> find_modules(const std::string& wanted, const ModuleTable& all);

/// What a file of responses is written from; refers to what it names.
struct ResponseFile {
  std::string path;
  std::vector<Module> modules;  ///< as find_modules gives them
  const SampleSet& samples;
  const Provenance& provenance;

  std::int64_t num_neurons() const;
  std::int64_t num_bytes() const;  ///< of the responses
};

/// Says how large the file will be, then runs `analyze` with the sink that writes it: a module at a time,
/// each rank its units. The file appears whole, after `analyze`, or not at all; the same bytes for any number
/// of ranks. Collective over the world.
/// @throws Error(no_space) before anything is computed if the disk has less room, Error(io), and what
/// `analyze` throws
void write_response_file(comm::ExecutionContext& context, const ResponseFile& what,
                         const std::function<void(const ResponseSink&)>& analyze);

}  // namespace nmoe::analysis
