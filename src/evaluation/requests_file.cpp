// Reads log-likelihood requests from JSON lines.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "neuronmoe/data/jsonl.hpp"
#include "neuronmoe/evaluation/log_likelihood.hpp"
#include "neuronmoe/io/json_file.hpp"
#include "neuronmoe/io/mapped_file.hpp"

namespace nmoe::evaluation {
namespace {

using nlohmann::json;

/// One line and the place that messages name.
class RequestReader {
 public:
  RequestReader(const json& line, std::string where, const RequestLimits& limits)
      : line_(line), where_(std::move(where)), limits_(limits) {}

  Request read() const {
    const bool rolling = line_.contains("rolling"), scored = line_.contains("context");
    NMOE_CHECK(rolling != scored, bad_data,
               "{}: wanted either {{\"context\": [ids], \"continuation\": [ids]}} or {{\"rolling\": [ids], "
               "\"prefix\": id}}",
               where_);
    return rolling ? read_rolling() : read_scored();
  }

 private:
  Request read_scored() const {
    Request request;
    add_list(request.ids, "context");
    request.num_context = request.ids.size();
    add_list(request.ids, "continuation");
    NMOE_CHECK(request.num_context > 0, bad_data,
               "{}: the context is empty; give it the token that texts begin with (BOS, or else EOS)",
               where_);
    NMOE_CHECK(request.num_scored() > 0, bad_data, "{}: the continuation is empty: nothing to score", where_);
    NMOE_CHECK(request.num_scored() <= limits_.max_length, bad_data,
               "{}: a continuation of {} tokens, but the model is given at most {} at once "
               "(loglikelihood.max_length, or the positions of the model); ask for a part of it, or for a "
               "rolling log-likelihood",
               where_, request.num_scored(), limits_.max_length);
    return request;
  }

  Request read_rolling() const {
    Request request;
    request.rolling = true;
    request.ids.push_back(token(field("prefix"), "prefix"));
    add_list(request.ids, "rolling");
    return request;
  }

  const json& field(const char* key) const {
    NMOE_CHECK(line_.contains(key), bad_data, "{}: there is no \"{}\"", where_, key);
    return line_[key];
  }

  void add_list(std::vector<std::int32_t>& ids, const char* key) const {
    const json& list = field(key);
    NMOE_CHECK(list.is_array(), bad_data, "{}: {} is {}; wanted a list of token ids", where_, key,
               list.type_name());
    for (std::size_t i = 0; i < list.size(); ++i) ids.push_back(token(list[i], key, i));
  }

  std::int32_t token(const json& value, const char* key, std::optional<std::size_t> at = {}) const {
    const bool fits = value.is_number_unsigned() &&
                      value.get<std::uint64_t>() < static_cast<std::uint64_t>(limits_.vocab_size);
    NMOE_CHECK(fits, bad_data, "{}: {}{} is {}; the model's token ids are 0 to {}", where_, key,
               at ? fmt::format("[{}]", *at) : "", value.is_number() ? value.dump() : value.type_name(),
               limits_.vocab_size - 1);
    return value.get<std::int32_t>();
  }

  const json& line_;
  std::string where_;
  const RequestLimits& limits_;
};

}  // namespace

std::vector<Request> load_requests(const std::string& path, const RequestLimits& limits,
                                   comm::Heartbeat& heartbeat) {
  constexpr std::string_view keys[] = {"context", "continuation", "rolling", "prefix"};
  const io::MappedFile file(path);
  data::require_line_ends(file.bytes(), path);
  data::LineReader reader(file.bytes(), 0, static_cast<std::int64_t>(file.bytes().size()));
  std::vector<Request> requests;
  for (data::Line line; reader.next(line);) {
    const std::string where = fmt::format("{}:{}", path, line.number);
    const json parsed = io::parse_json_line(line.text, where, keys);
    requests.push_back(RequestReader(parsed, where, limits).read());
    requests.back().line = line.number;
    heartbeat.beat();
  }
  NMOE_CHECK(!requests.empty(), bad_data, "{}: no request in it", path);
  return requests;
}

}  // namespace nmoe::evaluation
