// Agreement on errors: who failed is gathered, and every rank throws the same.
#include "neuronmoe/comm/agree.hpp"

#include <filesystem>
#include <new>
#include <optional>
#include <system_error>

#include "neuronmoe/comm/finish_within.hpp"

namespace nmoe::comm {

namespace {

std::optional<Error> run(const std::function<void()>& work) {
  try {
    work();
  } catch (...) {
    return current_error();
  }
  return std::nullopt;
}

/// "rank 1, 3: message" per distinct message, lowest rank first; "all ranks: message" if they agree.
std::string list_failures(const std::vector<std::string>& messages, const std::vector<bool>& failed) {
  bool all = true;
  for (std::size_t r = 0; r < messages.size(); ++r) all = all && failed[r] && messages[r] == messages[0];
  if (all) return "all ranks: " + messages[0];
  std::string text;
  for (std::size_t r = 0; r < messages.size(); ++r) {
    bool said = false;
    for (std::size_t s = 0; s < r; ++s) said = said || (failed[s] && messages[s] == messages[r]);
    if (!failed[r] || said) continue;
    std::string ranks = fmt::format("{}rank {}", text.empty() ? "" : "\n", r);
    for (std::size_t s = r + 1; s < messages.size(); ++s) {
      if (failed[s] && messages[s] == messages[r]) ranks += fmt::format(", {}", s);
    }
    text += ranks + ": " + messages[r];
  }
  return text;
}

/// What all ranks throw, given what each of them met itself; nothing if no rank failed. Collective.
std::optional<Error> agreed_error(Communicator& comm, const std::optional<Error>& mine) {
  if (comm.size() == 1) return mine;
  if (all_reduce_max(comm, std::int64_t{mine.has_value()}) == 0) return std::nullopt;
  // "<name of the code> <message>" from each failing rank, nothing from the others.
  const std::string report = mine ? fmt::format("{} {}", name_of(mine->code()), mine->what()) : std::string();
  std::vector<std::string> messages = all_gather_strings(comm, report);
  std::vector<bool> failed(messages.size());
  std::optional<ErrorCode> code;  // of the lowest rank that failed
  for (std::size_t r = 0; r < messages.size(); ++r) {
    failed[r] = !messages[r].empty();
    if (!failed[r]) continue;
    const std::size_t blank = messages[r].find(' ');
    if (!code) code = find_enum<ErrorCode>(messages[r].substr(0, blank));
    messages[r].erase(0, blank + 1);
  }
  return Error(code.value_or(ErrorCode::internal), list_failures(messages, failed));
}

}  // namespace

Error current_error() {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const std::filesystem::filesystem_error& error) {
    const bool wrong_path = error.code() == std::errc::too_many_symbolic_link_levels ||
                            error.code() == std::errc::no_such_file_or_directory ||
                            error.code() == std::errc::not_a_directory ||
                            error.code() == std::errc::filename_too_long;
    return Error(wrong_path ? ErrorCode::bad_data : ErrorCode::io,
                 fmt::format("{}: {}", error.path1().string(), error.code().message()));
  } catch (const std::bad_alloc&) {
    return Error(ErrorCode::internal, "out of memory");
  } catch (const std::exception& error) {
    return Error(ErrorCode::internal, error.what());
  } catch (...) {
    return Error(ErrorCode::internal, "an exception of unknown type");
  }
}

void agree(Communicator& comm, const std::function<void()>& work) {
  if (const std::optional<Error> error = agreed_error(comm, run(work))) throw *error;
}

void agree_on_library_calls(Communicator& comm, const std::function<void()>& work, double patience_s) {
  const std::optional<Error> mine = run(work);
  if (!mine || comm.size() == 1) {
    if (const std::optional<Error> error = agreed_error(comm, mine)) throw *error;
    return;
  }
  const auto agreed =
      finish_within(patience_s, [&comm, error = *mine] { return *agreed_error(comm, error); });
  if (!agreed) throw LoneError(mine->code(), mine->what());
  throw *agreed;
}

}  // namespace nmoe::comm
