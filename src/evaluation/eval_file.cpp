// Writes eval.json and the lines beside it.
#include "neuronmoe/evaluation/eval_file.hpp"

#include <nlohmann/json.hpp>

#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/file_format.hpp"

namespace nmoe::evaluation {
namespace {

constexpr io::FileFormat eval_format{"neuronmoe-eval", 1};

}  // namespace

std::string document_lines(const std::string& set, const HeldOutText& text,
                           std::span<const LogLikelihood> answers) {
  using nlohmann::ordered_json;
  std::string lines;
  for (std::size_t d = 0; d < answers.size(); ++d) {
    ordered_json line{{"task", "perplexity"}, {"set", set}, {"document", text.numbers[d]}};
    line["tokens"] = answers[d].tokens;
    line["bytes"] = text.sizes ? ordered_json(text.sizes->bytes[d]) : ordered_json();
    line["words"] = text.sizes ? ordered_json(text.sizes->words[d]) : ordered_json();
    line["loglikelihood"] = answers[d].sum;
    lines += line.dump() + "\n";
  }
  return lines;
}

std::string item_lines(const std::string& set, std::span<const ItemResult> items) {
  std::string lines;
  for (std::size_t i = 0; i < items.size(); ++i)
    lines += nlohmann::ordered_json{{"task", "continuation"},
                                    {"set", set},
                                    {"item", i},
                                    {"gold", items[i].gold},
                                    {"chosen", items[i].chosen},
                                    {"scores", items[i].scores}}
                 .dump() +
             "\n";
  return lines;
}

std::string path_beside(const std::string& eval_path, const std::string& ending) {
  constexpr std::string_view json = ".json";
  std::string stem = eval_path;
  if (stem.ends_with(json)) stem.resize(stem.size() - json.size());
  return stem + ending;
}

std::string items_path(const std::string& eval_path) {
  return path_beside(eval_path, ".items.jsonl");
}

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

void write_eval_files(const std::string& path, const EvalResults& results, const std::string& lines) {
  io::write_file_atomically(items_path(path), lines);
  if (results.interventions)
    write_intervention_files(path, *results.interventions,
                             {results.model, results.checkpoint, results.version, results.config});
  io::write_file_atomically(path, eval_json(results));
}

}  // namespace nmoe::evaluation
