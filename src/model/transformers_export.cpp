// What both forms of a mixture for transformers share.
#include "transformers_export.hpp"

#include "all_finite.hpp"

namespace nmoe::model {

nlohmann::ordered_json transformers_config(const ModelConfig& config) {
  nlohmann::ordered_json object = nlohmann::ordered_json::parse(model_config_json(config));
  nlohmann::ordered_json rope =
      object.value("rope_scaling", nlohmann::ordered_json{{"rope_type", "default"}});
  rope["rope_theta"] = config.rope_theta;
  object["rope_parameters"] = rope;
  if (config.bos_token_id < 0) object["bos_token_id"] = nullptr;
  if (config.eos_token_id < 0) object["eos_token_id"] = nullptr;
  object["pad_token_id"] = nullptr;
  return object;
}

const io::TensorSource& find_tensor(const TensorSources& tensors, const std::string& name,
                                    const std::string& where) {
  const auto found = tensors.find(name);
  NMOE_CHECK(found != tensors.end(), bad_data, "{}: tensor {} is missing", where, name);
  return found->second;
}

io::TensorSource require_finite(io::TensorSource source, const std::string& where) {
  const io::SafetensorsEntry entry = source.entry;
  const DType dtype = entry.dtype == "BF16" ? DType::bfloat16 : DType::float32;
  const auto read = [source, dtype, where](std::int64_t begin, std::span<char> out) {
    source.read(begin, out);
    const auto count = static_cast<std::int64_t>(out.size()) / static_cast<std::int64_t>(size_of(dtype));
    NMOE_CHECK(all_finite({out.data(), dtype, {count}}), bad_data,
               "{}: {} holds numbers that are not finite; take other weights", where, source.entry.name);
  };
  return {entry, read};
}

}  // namespace nmoe::model
