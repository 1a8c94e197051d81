#pragma once
// Agreement on errors: no rank is left hanging in a collective because another one failed before it.
#include <functional>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::comm {

/// Returns the exception that is being handled as an Error: what the standard library says of files is one
/// about input (a path that leads nowhere) or of the operating system. Call it inside a catch block.
Error current_error();

/// Runs rank-local fallible work, then agrees. If any rank threw, every rank throws an Error with the code of
/// the lowest failing rank and a message naming all failing ranks (ESPResSo's parallel_try_catch).
/// Collective: yes.
void agree(Communicator& comm, const std::function<void()>& work);

/// An error that the other ranks do not know of and cannot be told: they wait inside a library. Only clean-up
/// that this rank can do alone may follow; nothing collective returns any more.
class LoneError : public Error {
 public:
  using Error::Error;
};

/// Agrees like agree() on work that calls a library which is collective by itself (parallel HDF5): where one
/// rank fails in it, another may never come back from it. A rank that failed waits `patience_s` for the
/// others, then throws LoneError with its own code and message; run_guarded ends the job with it.
/// Collective: yes.
void agree_on_library_calls(Communicator& comm, const std::function<void()>& work, double patience_s = 3.0);

}  // namespace nmoe::comm
