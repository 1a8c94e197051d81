#pragma once
// What every command that writes does before any work: look at --output, or what another option names, and
// keep others from writing there.
#include <memory>
#include <string>
#include <vector>

#include "commands.hpp"
#include "neuronmoe/comm/execution_context.hpp"
#include "neuronmoe/io/output_lock.hpp"

namespace nmoe::app {

class OutputClaim {
 public:
  /// Makes the parent directories of what `option` names, looks whether it can be written there and has some
  /// room, and takes the lock; nothing for a command that writes none. Collective: rank 0 looks, all agree.
  /// @throws Error(config) if another run writes there or a file stands where a directory is wanted (or the
  /// other way round), Error(io|no_space)
  OutputClaim(comm::ExecutionContext& context, OutputKind kind, const std::string& output,
              std::string option = "--output");
  /// Releases the lock and removes directories that were made and stayed empty. Not collective.
  ~OutputClaim();
  OutputClaim(const OutputClaim&) = delete;
  OutputClaim& operator=(const OutputClaim&) = delete;

 private:
  void claim(comm::ExecutionContext& context, OutputKind kind, const std::string& output);

  std::string option_;
  std::vector<std::string> made_;  // directories, parents first
  std::unique_ptr<io::OutputLock> lock_;
};

}  // namespace nmoe::app
