#pragma once
// Pieces that neurons.h5, expert_neurons.h5, expert_probe.h5 and the output of `score` share.
#include <string_view>

#include "neuronmoe/analysis/neuron_file.hpp"
#include "neuronmoe/io/hdf5_file.hpp"

namespace nmoe::analysis {

inline constexpr io::FileFormat neuron_file_format{"neuronmoe-neurons", 1};
inline constexpr io::FileFormat expert_file_format{"neuronmoe-expert-neurons", 1};
inline constexpr io::FileFormat expert_probe_format{"neuronmoe-expert-probe", 1};
inline constexpr io::FileFormat score_file_format{"neuronmoe-scores", 1};
inline constexpr io::FileFormat response_file_format{"neuronmoe-responses", 1};

void write_modules(io::H5File& file, const ModuleTable& modules);
ModuleTable read_modules(io::H5File& file);
/// Writes a dataset [G, num_neurons] for every statistic of the list.
void write_statistics(io::H5File& file, const StatisticTables& tables, std::int64_t num_neurons);
/// Writes /language, the statistics and /n_*.
void write_score_tables(io::H5File& file, const NeuronStatistics& statistics);
/// Writes what a file is and what it was made from; the second form adds what its scores mean.
void write_provenance(io::H5File& file, const io::FileFormat& format, const Provenance& provenance,
                      std::string_view definition);
void write_root_attributes(io::H5File& file, const io::FileFormat& format, const Provenance& provenance,
                           std::string_view definition);

}  // namespace nmoe::analysis
