#pragma once
// What a command writes beside lines of its own, in OUTPUT.json: who made them and from what.
#include <nlohmann/json.hpp>
#include <string_view>

#include "model_setup.hpp"
#include "neuronmoe/io/file_format.hpp"

namespace nmoe::app {

/// Returns format, program, model, checkpoint and the options of `section`; the caller adds what is its own.
nlohmann::ordered_json output_origin(const io::FileFormat& format, const AppConfig& config,
                                     const LoadedModel& loaded, std::string_view section);
/// Writes OUTPUT.json and then the lines, each atomically: whoever sees these finds the other. Rank 0 calls
/// it, inside comm::agree. @throws Error(io|no_space)
void write_with_origin(const std::string& output, const std::string& lines,
                       const nlohmann::ordered_json& origin);

}  // namespace nmoe::app
