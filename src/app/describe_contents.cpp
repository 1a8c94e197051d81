// Summaries of files of ours, by the datasets that are in them.
#include "describe_contents.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <sstream>
#include <vector>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/one_line.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/json_file.hpp"

namespace nmoe::app {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view our_formats = "neuronmoe-";

std::string line(std::string_view what, std::string_view value) {
  return fmt::format("  {:<16} {}\n", on_one_line(what), on_one_line(value));
}

/// 12345 -> "12,345".
std::string grouped(std::uint64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t at = text.size(); at > 3;) text.insert(at -= 3, 1, ',');
  return text;
}

std::string counted(std::uint64_t number, std::string_view unit) {
  return fmt::format("{} {}{}", grouped(number), unit, number == 1 ? "" : "s");
}

template <typename T>
std::vector<T> read_rows(io::H5File& file, const std::string& name, std::size_t rows) {
  const std::int64_t shape[] = {static_cast<std::int64_t>(rows)};
  return file.read<T>(name, shape);
}

std::uint64_t rows_of(io::H5File& file, const std::string& name, std::size_t axis = 0) {
  const std::vector<std::int64_t> shape = file.info(name).shape;
  NMOE_CHECK(axis < shape.size(), bad_data, "{}: {} has {} axes", file.path(), name, shape.size());
  return static_cast<std::uint64_t>(shape[axis]);
}

/// Documents and tokens of each language of a token file.
std::string token_lines(io::H5File& file) {
  if (!file.exists("/doc/lang") || !file.exists("/languages")) return "";
  const std::vector<std::string> languages = file.read_strings("/languages");
  const std::uint64_t documents = rows_of(file, "/doc/lang");
  const auto lang = read_rows<std::uint16_t>(file, "/doc/lang", documents);
  const auto mark = read_rows<std::uint8_t>(file, "/doc/mark", documents);
  const auto offset = read_rows<std::uint64_t>(file, "/doc/offset", documents + 1);
  struct Sum {
    std::uint64_t documents = 0, old = 0, tokens = 0;
  };
  std::vector<Sum> sums(languages.size());
  for (std::size_t d = 0; d < documents; ++d) {
    NMOE_CHECK(lang[d] < sums.size() && offset[d + 1] >= offset[d], bad_data,
               "{}: document {} has language {} of {} and ends before it begins", file.path(), d, lang[d],
               sums.size());
    Sum& sum = sums[lang[d]];
    ++sum.documents;
    sum.old += mark[d] != 0;
    sum.tokens += offset[d + 1] - offset[d];
  }
  std::string text;
  for (std::size_t g = 0; g < sums.size(); ++g) {
    const Sum& sum = sums[g];
    const std::string_view known = sum.old == sum.documents ? "old" : sum.old == 0 ? "new" : "old and new";
    text += line(languages[g], fmt::format("{}, {} ({} language)", counted(sum.documents, "document"),
                                           counted(sum.tokens, "token"), known));
  }
  return text +
         line("in all",
              fmt::format("{}, {}; vocabulary of {}", counted(documents, "document"),
                          counted(offset.back(), "token"),
                          grouped(static_cast<std::uint64_t>(file.read_int_attribute("/", "vocab_size")))));
}

/// What a table of neurons says about each language.
std::string neuron_lines(io::H5File& file) {
  if (!file.exists("/ap")) return "";
  std::string text = line("neurons", file.exists("/module/name")
                                         ? fmt::format("{} in {}", grouped(rows_of(file, "/ap", 1)),
                                                       counted(rows_of(file, "/module/name"), "module"))
                                         : grouped(rows_of(file, "/ap", 1)) + " rows");
  std::vector<std::string> names;
  if (file.exists("/language")) names = file.read_strings("/language");
  const std::uint64_t languages = rows_of(file, "/ap");
  std::vector<std::uint64_t> sentences, tokens;
  if (file.exists("/n_pos")) sentences = read_rows<std::uint64_t>(file, "/n_pos", languages);
  if (file.exists("/n_tokens")) tokens = read_rows<std::uint64_t>(file, "/n_tokens", languages);
  for (std::size_t g = 0; g < languages; ++g) {
    const std::string name = g < names.size() ? names[g] : fmt::format("label {}", g);
    std::string what = sentences.empty() ? "" : counted(sentences[g], "positive sample");
    if (!tokens.empty()) what += fmt::format(", {}", counted(tokens[g], "token"));
    const std::string chosen = "/selected/" + name;
    if (file.exists(chosen))
      what += fmt::format("; {} selected, AP of the last {:.4f}", grouped(rows_of(file, chosen)),
                          file.read_double_attribute(chosen, "threshold"));
    text += line(name, what);
  }
  return text;
}

/// Experts that were measured, and how many of their neurons are specialized for each language.
std::string expert_lines(io::H5File& file) {
  if (!file.exists("/expert/layer")) return "";
  const std::uint64_t experts = rows_of(file, "/expert/layer");
  const auto layers = read_rows<std::uint32_t>(file, "/expert/layer", experts);
  const std::uint32_t deepest = layers.empty() ? 0 : *std::max_element(layers.begin(), layers.end()) + 1;
  std::string text = line("experts", fmt::format("{} in {} layers, bases included", experts, deepest));
  if (file.exists("/step")) {
    const auto steps = read_rows<std::uint64_t>(file, "/step", rows_of(file, "/step"));
    if (!steps.empty())
      text +=
          line("measured at", fmt::format("{} steps, {} to {}", steps.size(), steps.front(), steps.back()));
  }
  if (!file.exists("/expert/high_ap") || !file.exists("/language")) return text;
  const std::vector<std::string> names = file.read_strings("/language");
  const std::int64_t shape[] = {static_cast<std::int64_t>(names.size()), static_cast<std::int64_t>(experts)};
  const auto high = file.read<std::uint64_t>("/expert/high_ap", shape);
  for (std::size_t g = 0; g < names.size(); ++g) {
    const auto begin = high.begin() + static_cast<std::ptrdiff_t>(g * experts);
    text += line(names[g],
                 fmt::format("{} with AP of {} or more",
                             counted(std::accumulate(begin, begin + static_cast<std::ptrdiff_t>(experts),
                                                     std::uint64_t{0}),
                                     "neuron"),
                             file.read_double_attribute("/", "ap_high")));
  }
  return text;
}

std::string response_lines(io::H5File& file) {
  if (!file.exists("/responses")) return "";
  std::string text = line("responses", fmt::format("{} to {}", counted(rows_of(file, "/responses"), "neuron"),
                                                   counted(rows_of(file, "/responses", 1), "sample")));
  if (file.exists("/module/name")) text += line("modules", grouped(rows_of(file, "/module/name")));
  if (file.exists("/label_name"))
    text += line("languages", fmt::format("{}", fmt::join(file.read_strings("/label_name"), ", ")));
  return text;
}

std::string intervention_lines(io::H5File& file) {
  if (!file.exists("/change")) return "";
  return line("replaced", fmt::format("{} sets of neurons, outputs become {}", rows_of(file, "/change"),
                                      file.read_string_attribute("/", "replace"))) +
         line("neurons of", fmt::format("{}", fmt::join(file.read_strings("/row/language"), ", "))) +
         line("texts", fmt::format("{}", fmt::join(file.read_strings("/column/language"), ", ")));
}

std::string list_of(const std::vector<std::int32_t>& counts) {
  return fmt::format("{} in {} layers: {}", std::accumulate(counts.begin(), counts.end(), std::int64_t{0}),
                     counts.size(), fmt::join(counts, ","));
}

/// Weights, experts, optimizer state and progress, as the files of a checkpoint have them.
std::string checkpoint_lines(io::H5File& file) {
  std::string text;
  if (file.exists("/num_experts")) {
    const auto counts = file.read<std::int32_t>("/num_experts");
    text += line("experts", list_of(counts));
    if (file.has_attribute("/", "top_k"))
      text += line("per token", fmt::format("{}", file.read_int_attribute("/", "top_k")));
  }
  if (file.has_attribute("/", "dtype"))
    text += line("element type", file.read_string_attribute("/", "dtype"));
  if (file.exists("/flat/master"))
    text += line("trained", counted(rows_of(file, "/flat/master"), "parameter") + ", with their AdamW state");
  if (file.exists("/progress")) {
    const auto number = [&](const char* name) {
      return static_cast<std::uint64_t>(file.read_int_attribute("/progress", name));
    };
    text += line("step", grouped(number("step")));
    text += line("seen", fmt::format("{}, {}", counted(number("samples_seen"), "sequence"),
                                     counted(number("tokens_seen"), "token")));
    if (number("skipped_steps") > 0) text += line("skipped steps", grouped(number("skipped_steps")));
  }
  return text;
}

/// Runs `work`; a file that is whole may still hold what a newer program writes otherwise.
template <typename Work>
std::string forgiving(Work&& work) {
  try {
    return work();
  } catch (const Error& error) {
    return line("contents", fmt::format("not as this program writes them ({})", error.what()));
  } catch (const nlohmann::json::exception& error) {
    return line("contents", fmt::format("not as this program writes them ({})", error.what()));
  }
}

/// "loss 4.61 at step 1, 3.2 at step 40" of rows of metrics.
std::string metrics_lines(const std::string& path) {
  std::istringstream in(io::read_file(path));
  nlohmann::json first, last;
  for (std::string row; std::getline(in, row);) {
    last = io::parse_json(row, path);
    if (first.is_null()) first = last;
  }
  if (!first.is_object() || !first.contains("step") || !first.contains("loss_lm")) return "";
  const auto told = [](const nlohmann::json& row) {
    return fmt::format(
        "{} at step {}",
        row["loss_lm"].is_null() ? "not finite" : fmt::format("{:.4f}", row["loss_lm"].get<double>()),
        row["step"].get<std::int64_t>());
  };
  return line("steps",
              fmt::format("{} to {}", first["step"].get<std::int64_t>(), last["step"].get<std::int64_t>())) +
         line("loss", told(first) + ", " + told(last)) +
         line("rate", fmt::format("{:.0f} tokens/s in the last step", last.value("tokens_per_s", 0.0)));
}

}  // namespace

std::string contents_of(io::H5File& file) {
  if (!file.has_attribute("/", "format")) return "";
  return forgiving([&]() -> std::string {
    if (!file.read_string_attribute("/", "format").starts_with(our_formats)) return "";
    return token_lines(file) + neuron_lines(file) + expert_lines(file) + response_lines(file) +
           intervention_lines(file) + checkpoint_lines(file);
  });
}

std::string contents_of_step(const std::string& directory) {
  std::string text;
  for (const char* name : {"state.h5", "model.h5", "optim.h5"}) {
    const std::string path = (fs::path(directory) / name).string();
    if (!fs::exists(path)) continue;
    text += forgiving([&] {
      io::H5File file = io::H5File::open(path, {}, io::SealCheck::done);  // the manifest has vouched for it
      return contents_of(file);
    });
  }
  return text;
}

std::string contents_of_rows(const std::string& path) {
  return forgiving([&] { return metrics_lines(path); });
}

std::string contents_of_run(const std::string& directory) {
  const std::string metrics = (fs::path(directory) / "metrics.jsonl").string();
  return fs::exists(metrics) ? contents_of_rows(metrics) : "";
}

std::string contents_of_json(const std::string& path) {
  return forgiving([&] {
    const nlohmann::json file = io::read_json(path);
    std::map<std::string, std::string> languages;
    const auto collect = [&](const char* task, const auto& told) {
      if (!file.is_object() || !file.contains(task) || !file[task].is_object()) return;
      for (const auto& [language, scores] : file[task].items()) {
        std::string& text = languages[language];
        text += (text.empty() ? "" : "; ") + told(scores);
      }
    };
    collect("perplexity", [](const nlohmann::json& scores) {
      return fmt::format("perplexity {:.2f} over {}", scores.at("ppl").get<double>(),
                         counted(scores.at("tokens").get<std::uint64_t>(), "token"));
    });
    collect("continuation", [](const nlohmann::json& scores) {
      return fmt::format("continuation {:.3f} +- {:.3f} of {} items", scores.at("acc").get<double>(),
                         scores.at("stderr").get<double>(), scores.at("n").get<std::uint64_t>());
    });
    std::string text;
    for (const auto& [language, scores] : languages) text += line(language, scores);
    return text;
  });
}

}  // namespace nmoe::app
