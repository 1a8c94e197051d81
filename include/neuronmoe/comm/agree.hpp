#pragma once
// Agreement on errors: no rank is left hanging in a collective because another one failed before it.
#include <functional>

#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::comm {

/// Runs rank-local fallible work, then agrees. If any rank threw, every rank throws an Error with the code of
/// the lowest failing rank and a message naming all failing ranks (ESPResSo's parallel_try_catch).
/// Collective: yes.
void agree(Communicator& comm, const std::function<void()>& work);

}  // namespace nmoe::comm
