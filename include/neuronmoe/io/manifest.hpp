#pragma once
// Checkpoint directories that are whole or invisible. train fills step_NNNNNNNNNN.tmp/ with files, then
// commit_step() describes every byte of them in manifest.json and renames; resume asks newest_valid_step().
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::io {

/// Returns "step_0000001200".
std::string step_directory_name(std::int64_t step);
/// Returns the step number of such a name; nothing for any other name (".tmp" directories included).
std::optional<std::int64_t> step_of_directory_name(const std::string& name);

/// What a manifest says besides checksums: step, config hash, code version, parent step, base model hash...
using ManifestFacts = std::map<std::string, std::string>;

/// Writes DIR/manifest.json: sizes, and CRC-32C per dataset per 64 MiB block of every file in DIR (what lies
/// between datasets is covered too), computed from the files as read back. Blocks are dealt over the ranks.
/// provenance.json, which may differ between layouts, is checked like the others. Collective.
void write_manifest(comm::Communicator& comm, const std::string& directory, const ManifestFacts& facts);

/// Checks every byte against DIR/manifest.json, and that a directory named step_N holds step N. Returns "" if
/// intact, else what is wrong ("model.h5: /model/layers/03/router differs in bytes [..)"). Files that the
/// manifest does not know are no damage (stray_files). Same answer on every rank. Collective.
/// @throws Error(bad_data) if a later version of the program wrote the manifest, Error(io) if something
/// cannot be read for now (permission, EIO, a stale handle): neither is damage
std::string verify_manifest(comm::Communicator& comm, const std::string& directory);
/// Returns the same for one file of DIR, at its own cost; "" also if the manifest knows no such file. Not
/// collective.
std::string verify_file(const std::string& directory, const std::string& file);
/// Returns the names in DIR that its manifest does not know, in order. Not collective.
std::vector<std::string> stray_files(const std::string& directory);
/// Returns the facts of a manifest. @throws Error(bad_data). Not collective.
ManifestFacts read_manifest_facts(const std::string& directory);

/// Makes RUN/step_NNNNNNNNNN.tmp (leftovers of killed saves are removed) and returns its path. Collective.
std::string begin_step(comm::Communicator& comm, const std::string& run_dir, std::int64_t step);
/// Syncs TMP, renames it to FINAL (replacing an older FINAL) and syncs the parent. Collective.
void commit_directory(comm::Communicator& comm, const std::string& tmp_dir, const std::string& final_dir);
/// Does write_manifest and commit_directory for a directory made by begin_step(). Returns the final path.
/// Collective.
std::string commit_step(comm::Communicator& comm, const std::string& run_dir, std::int64_t step,
                        const ManifestFacts& facts);

/// The newest step whose manifest verifies, and why newer ones were ignored.
struct ValidStep {
  std::int64_t step = -1;  ///< −1: there is none
  std::string directory;
  std::vector<std::string> skipped;  ///< "path: reason", newest first
  explicit operator bool() const { return step >= 0; }
};
/// Returns the newest step whose manifest verifies, and why newer ones do not. Deletes nothing. A missing
/// run_dir is an empty one. Collective.
/// @throws Error(bad_data, io) as verify_manifest
ValidStep newest_valid_step(comm::Communicator& comm, const std::string& run_dir);
/// Removes the oldest steps until `keep_last` remain (0 keeps all), but never the newest valid one. Returns
/// the removed directories. Collective.
std::vector<std::string> prune_steps(comm::Communicator& comm, const std::string& run_dir, int keep_last);

}  // namespace nmoe::io
