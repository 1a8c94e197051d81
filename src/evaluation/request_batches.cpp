// Windows, shared contexts and batches of log-likelihood requests.
#include "request_batches.hpp"

#include <algorithm>
#include <string_view>
#include <unordered_map>

namespace nmoe::evaluation {
namespace {

using Ids = std::span<const std::int32_t>;

Ids part(const Request& request, std::size_t begin, std::size_t end) {
  return Ids(request.ids).subspan(begin, end - begin);
}

/// The windows of a rolling request: ids[0] is the prefix, ids[t] for t >= 1 is scored once.
void add_windows(std::vector<RequestPiece>& pieces, const Request& request, std::size_t number,
                 std::size_t max_length) {
  const std::size_t total = request.ids.size();
  for (std::size_t begin = 1; begin < total;) {
    const std::size_t end = std::min(total, begin + max_length);
    // A short last window sees as much before it as fits.
    const std::size_t from = begin == 1 ? 0 : end - 1 - max_length;
    pieces.push_back({number, part(request, from, begin), part(request, begin, end), false});
    begin = end;
  }
}

std::string_view bytes_of(Ids ids) {
  return {reinterpret_cast<const char*>(ids.data()), ids.size_bytes()};
}

std::vector<ContextGroup> group_by_context(std::span<const RequestPiece> pieces) {
  std::vector<ContextGroup> groups;
  std::unordered_map<std::string_view, std::size_t> group_of;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const RequestPiece& piece = pieces[i];
    std::size_t group = groups.size();
    if (piece.shares) group = group_of.try_emplace(bytes_of(piece.context), group).first->second;
    if (group == groups.size()) groups.push_back({piece.context, {}});
    groups[group].pieces.push_back(i);
  }
  return groups;
}

}  // namespace

std::vector<RequestPiece> request_pieces(std::span<const Request> requests, std::int64_t max_length) {
  const auto most = static_cast<std::size_t>(max_length);
  std::vector<RequestPiece> pieces;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    const Request& request = requests[r];
    if (request.rolling) {
      add_windows(pieces, request, r, most);
      continue;
    }
    const std::size_t total = request.ids.size(), begin = total > most + 1 ? total - (most + 1) : 0;
    NMOE_CHECK(begin < request.num_context && request.num_context < total, internal,
               "request {}: {} ids, {} of them context, do not fit into {}", r, total, request.num_context,
               max_length);
    pieces.push_back(
        {r, part(request, begin, request.num_context), part(request, request.num_context, total), true});
  }
  return pieces;
}

std::vector<RequestBatch> request_batches(std::span<const RequestPiece> pieces, std::int64_t batch_tokens) {
  std::vector<RequestBatch> batches;
  const auto size_of = [](Ids ids) { return static_cast<std::int64_t>(ids.size()); };
  const auto open = [&](const ContextGroup& group) {
    batches.back().groups.push_back({group.context, {}});
    batches.back().num_tokens += size_of(group.context);
  };
  for (const ContextGroup& group : group_by_context(pieces)) {
    std::int64_t whole = size_of(group.context);
    for (const std::size_t i : group.pieces) whole += size_of(pieces[i].continuation);
    if (batches.empty() || batches.back().num_tokens + whole > batch_tokens) batches.emplace_back();
    open(group);
    // Behind a long context there is room for many continuations, or it would be run for each of them.
    const std::int64_t most = std::max(batch_tokens, size_of(group.context) + batch_tokens / 2);
    for (const std::size_t i : group.pieces) {
      const std::int64_t more = size_of(pieces[i].continuation);
      if (!batches.back().groups.back().pieces.empty() && batches.back().num_tokens + more > most) {
        batches.emplace_back();
        open(group);
      }
      batches.back().groups.back().pieces.push_back(i);
      batches.back().num_tokens += more;
    }
  }
  return batches;
}

BuiltBatch build_batch(const RequestBatch& batch, std::span<const RequestPiece> pieces) {
  BuiltBatch built;
  const auto read_of = [&](std::size_t i) {  // the last token is predicted, never read
    return pieces[i].continuation.first(pieces[i].continuation.size() - 1);
  };
  std::vector<std::int64_t> last_of_context;
  for (const ContextGroup& group : batch.groups) {
    last_of_context.push_back(built.builder.num_tokens() + static_cast<std::int64_t>(group.context.size()) -
                              1);
    std::vector<std::int32_t> ids(group.context.begin(), group.context.end());
    if (group.pieces.size() == 1) {
      const Ids read = read_of(group.pieces.front());
      ids.insert(ids.end(), read.begin(), read.end());
    }
    built.builder.add(ids, {}, {});
  }
  for (std::size_t g = 0; g < batch.groups.size(); ++g) {
    const ContextGroup& group = batch.groups[g];
    for (const std::size_t i : group.pieces) {
      const bool behind = group.pieces.size() > 1;
      const std::int64_t first = behind ? built.builder.num_tokens() : last_of_context[g] + 1;
      if (behind && pieces[i].continuation.size() > 1)
        built.builder.add_continuation(static_cast<std::int64_t>(g), read_of(i));
      for (std::size_t t = 0; t < pieces[i].continuation.size(); ++t)
        built.labels.push_back({static_cast<std::int32_t>(t == 0 ? last_of_context[g]
                                                                 : first + static_cast<std::int64_t>(t) - 1),
                                pieces[i].continuation[t]});
    }
  }
  return built;
}

}  // namespace nmoe::evaluation
