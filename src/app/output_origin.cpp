// The origin of lines that a command writes.
#include "output_origin.hpp"

#include "neuronmoe/app/schema.hpp"
#include "neuronmoe/app/version.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::app {

nlohmann::ordered_json output_origin(const io::FileFormat& format, const AppConfig& config,
                                     const LoadedModel& loaded, std::string_view section) {
  nlohmann::ordered_json json;
  json["format"] = format.name;
  json["format_version"] = format.version;
  json["version"] = version();
  json["model"] = config.run.model;
  json["checkpoint"] =
      loaded.checkpoint.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(loaded.checkpoint);
  json["config"] = nlohmann::ordered_json::object();
  for (const auto& [key, value] : recorded_options(config, section)) json["config"][key] = value;
  return json;
}

void write_with_origin(const std::string& output, const std::string& lines,
                       const nlohmann::ordered_json& origin) {
  io::write_file_atomically(output + ".json", origin.dump(2) + "\n");
  io::write_file_atomically(output, lines);
}

}  // namespace nmoe::app
