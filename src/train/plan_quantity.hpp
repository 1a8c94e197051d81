#pragma once
// The numbers of a plan as data, between what computes them (plan_report.cpp) and what prints them
// (plan_format.cpp).
#include <string>
#include <vector>

#include "neuronmoe/train/plan_cost.hpp"

namespace nmoe::train {

/// What a number rests on.
enum class Basis { exact, modeled, goal, measured, given };
constexpr auto enum_names(Basis) {
  return std::to_array<EnumName<Basis>>({{Basis::exact, "exact"},
                                         {Basis::modeled, "modeled"},
                                         {Basis::goal, "goal"},
                                         {Basis::measured, "measured"},
                                         {Basis::given, "given"}});
}

struct Quantity {
  std::string section, name, unit;
  Basis basis = Basis::exact;
  Estimate estimate;
  bool has_range = false;
  std::string note = {};
};

/// The quantities of one number of nodes.
struct NodeRow {
  Scaling scaling;
  int nodes;
  bool fits;
  std::vector<Quantity> quantities;
};

struct PlanTables {
  std::string title;
  std::vector<std::string> notes;  ///< lines beside the table
  std::vector<Quantity> run;       ///< as configured
  std::vector<NodeRow> nodes;      ///< strong, then weak
  std::string rate;                ///< what times are computed at: a goal, or a measured rate
};

std::string to_table(const PlanTables& tables);
std::string to_csv(const PlanTables& tables);
std::string to_json(const PlanTables& tables);

}  // namespace nmoe::train
