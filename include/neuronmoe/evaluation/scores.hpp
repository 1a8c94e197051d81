#pragma once
// What a task of `neuronmoe evaluate` reports: every task puts its numbers into this form, which eval.json
// holds as it is. Adding a task therefore changes no file of results: docs/formats.md has the recipe.
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace nmoe::evaluation {

/// Names and numbers of one task in one language, in the order of the file; null: not known.
using Scores = std::vector<std::pair<std::string, std::variant<double, std::int64_t, std::nullptr_t>>>;

/// One task in all languages it ran in.
struct TaskResult {
  std::string name;
  std::map<std::string, Scores> languages;
};

}  // namespace nmoe::evaluation
