#pragma once
// Model families: what is particular about the config.json of each. To add one, add its entry to the table in
// families.cpp. Used by hf_config.cpp.
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "config_fields.hpp"
#include "neuronmoe/model/config.hpp"

namespace nmoe::model {

struct Family {
  std::string_view model_type;    ///< Hugging Face's name
  std::string_view architecture;  ///< its class with an lm-head, in "architectures"
  std::string_view base_class;    ///< its class without
  /// Fields without which transformers takes a number of its own, which is not ours.
  std::span<const char* const> required;
  /// Sets the features of the family; all other fields are read. @throws Error(bad_data) for what changes the
  /// numbers and is not supported.
  void (*read)(ModelConfig& config, const FieldReader& fields);
  /// Adds the fields that `read` or transformers' class of the family takes beside those of every family.
  void (*write)(json& object, const ModelConfig& config);
};

/// Returns the family that a config.json names. @throws Error(bad_data) for one that is not supported, with
/// the names of those that are.
const Family& read_family(const FieldReader& fields);
/// Returns the family of a configuration that was read or made here. @throws Error(internal) if there is none
const Family& family_of(const ModelConfig& config);

}  // namespace nmoe::model
