#pragma once
// Results of all ranks in the order of what they are about, so that sums do not depend on the rank count.
#include <vector>

#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::evaluation {

/// Records of `width` doubles whose first is their number: those of all ranks, ascending by number, on every
/// rank. Collective.
std::vector<double> gather_records(comm::Communicator& comm, Stream& stream, const std::vector<double>& mine,
                                   std::size_t width);

}  // namespace nmoe::evaluation
