// Writes eval.json.
#include "neuronmoe/evaluation/eval_file.hpp"

#include <nlohmann/json.hpp>

#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/file_format.hpp"

namespace nmoe::evaluation {
namespace {

constexpr io::FileFormat eval_format{"neuronmoe-eval", 1};

}  // namespace

std::string eval_json(const EvalResults& results) {
  using nlohmann::ordered_json;
  ordered_json json;
  json["format"] = eval_format.name;
  json["format_version"] = eval_format.version;
  json["version"] = results.version;
  json["model"] = results.model;
  json["checkpoint"] = results.checkpoint.empty() ? ordered_json() : ordered_json(results.checkpoint);
  json["config"] = ordered_json::object();
  for (const auto& [key, value] : results.config) json["config"][key] = value;
  for (const TaskResult& task : results.tasks) {
    ordered_json& of_task = json[task.name] = ordered_json::object();
    for (const auto& [language, scores] : task.languages) {
      ordered_json& of_language = of_task[language];
      for (const auto& [name, score] : scores)
        of_language[name] = std::visit([](auto value) { return ordered_json(value); }, score);
    }
  }
  json["router"] = ordered_json::object();
  for (const auto& [language, layers] : results.router) {
    ordered_json list = ordered_json::array();
    for (const auto& mean : layers)
      list.push_back({{"layer", mean.layer}, {"base_weight", mean.base_weight}});
    json["router"][language] = std::move(list);
  }
  return json.dump(2) + "\n";
}

void write_eval_file(const std::string& path, const EvalResults& results) {
  io::write_file_atomically(path, eval_json(results));
}

}  // namespace nmoe::evaluation
