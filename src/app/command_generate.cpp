// neuronmoe generate: continuations of prompts by the dense model or a checkpoint.
#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "commands.hpp"
#include "intervention_setup.hpp"
#include "model_setup.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/data/chat_template.hpp"
#include "neuronmoe/data/jsonl.hpp"
#include "neuronmoe/evaluation/generation.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/json_file.hpp"
#include "neuronmoe/io/same_file.hpp"
#include "neuronmoe/model/key_value_cache.hpp"
#include "output_origin.hpp"
#include "standard_output.hpp"

namespace nmoe::app {
namespace {

namespace fs = std::filesystem;

constexpr io::FileFormat texts_format{"neuronmoe-generate", 1};
constexpr std::string_view replacement =
    "\xEF\xBF\xBD";  // U+FFFD: bytes that are no character, yet or at all

std::vector<std::string> prompts_in_file(const std::string& path) {
  std::vector<std::string> prompts;
  const std::string text = io::read_file(path);
  const bool jsonl = data::text_format_of(path) == data::TextFormat::jsonl;
  constexpr std::array<std::string_view, 1> keys = {"prompt"};
  data::LineReader lines(text, 0, static_cast<std::int64_t>(text.size()));
  for (data::Line line; lines.next(line);) {
    const std::string where = path + ":" + std::to_string(line.number);
    if (!jsonl) {
      prompts.emplace_back(line.text);
      continue;
    }
    const nlohmann::json object = io::parse_json_line(line.text, where, keys);
    NMOE_CHECK(object.contains("prompt") && object["prompt"].is_string(), bad_data,
               "{}: no \"prompt\" that is a string", where);
    prompts.push_back(object["prompt"].get<std::string>());
  }
  return prompts;
}

/// Ids that end a text, as transformers' generate has them: those of generation_config.json, if there is one.
std::vector<std::int32_t> end_tokens(const std::string& model_dir, const model::ModelConfig& architecture,
                                     const data::Tokenizer& tokenizer) {
  const std::string path = (fs::path(model_dir) / "generation_config.json").string();
  const nlohmann::json config = fs::exists(path) ? io::read_json(path) : nlohmann::json::object();
  nlohmann::json listed =
      config.is_object() && config.contains("eos_token_id") ? config["eos_token_id"] : nullptr;
  if (!listed.is_array()) listed = nlohmann::json::array({listed});
  std::vector<std::int32_t> ids;
  for (const nlohmann::json& id : listed) {
    if (id.is_null()) continue;
    NMOE_CHECK(id.is_number_integer() && id >= 0 && id < architecture.vocab_size, bad_data,
               "{}: eos_token_id has {:.40}, expected ids below {}", path, id.dump(),
               architecture.vocab_size);
    ids.push_back(id.get<std::int32_t>());
  }
  if (!ids.empty()) return ids;
  if (architecture.eos_token_id >= 0) return {static_cast<std::int32_t>(architecture.eos_token_id)};
  return {tokenizer.eos_id()};
}

std::vector<evaluation::Prompt> encode(const std::vector<std::string>& texts,
                                       const data::Tokenizer& tokenizer,
                                       const std::optional<data::ChatTemplate>& chat,
                                       const model::ModelConfig& architecture, std::int64_t max_length) {
  std::vector<evaluation::Prompt> prompts;
  for (const std::string& text : texts) {
    evaluation::Prompt prompt{chat ? tokenizer.encode(chat->render(text)) : tokenizer.encode_sentence(text)};
    NMOE_CHECK(!prompt.ids.empty(), bad_data,
               "a prompt is empty and {} puts no BOS in front; write a word of it", tokenizer.name());
    NMOE_CHECK(static_cast<std::int64_t>(prompt.ids.size()) < max_length, bad_data,
               "a prompt has {} tokens, the model {} positions; shorten it", prompt.ids.size(), max_length);
    require_embedding(tokenizer, *std::max_element(prompt.ids.begin(), prompt.ids.end()), architecture);
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

/// What a terminal may be sent: no control characters but line ends and tabs.
std::string for_terminal(std::string_view text) {
  std::string shown;
  for (const char c : text) {
    const bool control = (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7F;
    shown += control ? std::string(replacement) : std::string(1, c);
  }
  return shown;
}

/// Prints a text while it grows; a character whose bytes are not all there waits for them.
class Typist {
 public:
  Typist(const data::Tokenizer& tokenizer, const std::string& prompt) : tokenizer_(tokenizer) {
    print(for_terminal(prompt));
  }
  void show(const evaluation::Generated& text, bool last) {
    // Only the newest tokens are decoded, behind those printed last: how a token is spelled may depend on the
    // one before it.
    const std::span<const std::int32_t> ids = text.ids;
    const std::string before = tokenizer_.decode(ids.subspan(begin_, printed_ - begin_));
    const std::string now = tokenizer_.decode(ids.subspan(begin_));
    if (now.size() <= before.size() || (!last && now.ends_with(replacement))) return;
    print(for_terminal(std::string_view(now).substr(before.size())));
    begin_ = printed_;
    printed_ = ids.size();
  }

 private:
  const data::Tokenizer& tokenizer_;
  std::size_t begin_ = 0, printed_ = 0;  // tokens
};

/// The one set of neurons that [intervention] names; none if it names no file.
InterventionSets intervention_of(comm::ExecutionContext& context, const AppConfig& config) {
  if (!wants_intervention(config)) return {};
  InterventionSets found = load_interventions(context, config, 0);
  NMOE_CHECK(found.sets.size() == 1, config,
             "a text is written with the neurons of one language of {} replaced, not of {}; name it: "
             "--intervention.languages {}",
             config.intervention.neurons, found.sets.size(), found.sets.front().language);
  return found;
}

void write_output(const AppConfig& config, const LoadedModel& loaded, const InterventionSets& replaced,
                  const std::vector<std::string>& prompts, const std::vector<evaluation::Generated>& texts,
                  const data::Tokenizer& tokenizer) {
  std::string lines;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    nlohmann::ordered_json line;
    line["prompt"] = prompts[i];
    line["text"] = tokenizer.decode(texts[i].ids);
    line["ids"] = texts[i].ids;
    line["ended"] = texts[i].ended;
    lines += line.dump() + "\n";
  }
  nlohmann::ordered_json origin = output_origin(texts_format, config, loaded, "generate");
  if (!replaced.sets.empty()) {
    for (const auto& [key, value] : intervention_options(config)) origin["config"][key] = value;
    origin["neurons_sha256"] = replaced.neurons_sha256;
  }
  origin["tokenizer_sha256"] = tokenizer.sha256();
  origin["lines_sha256"] = sha256_text(lines);
  write_with_origin(config.run.output, lines, origin);
}

}  // namespace

int run_generate(comm::ExecutionContext& context, const AppConfig& config) {
  const GenerateConfig& generate = config.generate;
  std::vector<std::string> texts = generate.prompts;
  if (!generate.prompt_file.empty()) {
    io::require_same_file(context.world, generate.prompt_file);
    comm::agree(context.world, [&] {
      for (std::string& prompt : prompts_in_file(generate.prompt_file)) texts.push_back(std::move(prompt));
    });
  }
  NMOE_CHECK(!texts.empty(), config, "there is nothing to continue; give --generate.prompt \"text\"{}",
             generate.prompt_file.empty() ? " or --generate.prompt_file"
                                          : ": " + generate.prompt_file + " is empty");
  const InterventionSets replaced = intervention_of(context, config);
  const LoadedModel loaded = load_model_or_checkpoint(context, config, config.train.dtype);
  model::Decoder& decoder = *loaded.decoder;
  const model::ModelConfig& architecture = decoder.config();
  const auto tokenizer = load_tokenizer_for(context, generate.tokenizer, config.run.model);
  std::vector<evaluation::Prompt> prompts;
  evaluation::GenerationLimits limits{generate.max_tokens, architecture.max_position_embeddings, {}};
  comm::agree(context.world, [&] {
    std::optional<data::ChatTemplate> chat;
    if (generate.chat) chat = data::ChatTemplate::load(fs::path(tokenizer->path()).parent_path().string());
    prompts = encode(texts, *tokenizer, chat, architecture, limits.max_length);
    limits.end_tokens = end_tokens(config.run.model, architecture, *tokenizer);
  });
  std::vector<model::Intervention> interventions;
  comm::agree(context.world, [&] { interventions = replaced.for_decoder(decoder); });
  if (!interventions.empty()) {
    decoder.set_intervention(&interventions.front());
    context.log.info("{} neurons of {} are replaced from layer {} on", replaced.sets.front().neurons.size(),
                     replaced.sets.front().language, interventions.front().first_layer());
  }
  std::int64_t longest = 0;
  for (const auto& prompt : prompts)
    longest = std::max(longest, static_cast<std::int64_t>(prompt.ids.size()));
  model::KeyValueCache cache(architecture, decoder.dtype(),
                             std::min(limits.max_length, longest + limits.max_tokens),
                             decoder.stream().device());
  // Ranks write side by side, a terminal shows one text after another.
  const bool typed = context.world.size() == 1 || prompts.size() == 1;
  const std::string behind_prompt = generate.chat ? "\n\n" : "";
  std::optional<Typist> typist;
  std::size_t typing = prompts.size();
  const auto found = evaluation::generate_texts(
      context, prompts, {generate.temperature, generate.top_p, generate.seed}, limits,
      [&](std::span<const std::int32_t> ids, bool restart) {
        if (restart) cache.clear();
        return decoder.next_logits(ids, cache);
      },
      [&](std::size_t number, const evaluation::Generated& so_far, bool last) {
        if (!typed || context.world.rank() != 0) return;
        if (typing != number) {
          if (typist) print("\n\n");
          typist.emplace(*tokenizer, texts[number] + behind_prompt);
          typing = number;
        }
        typist->show(so_far, last);
      });
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    for (std::size_t i = 0; !typed && i < found.size(); ++i) {
      Typist(*tokenizer, texts[i] + behind_prompt).show(found[i], true);
      print(i + 1 < found.size() ? "\n\n" : "");
    }
    print("\n");
    if (!config.run.output.empty()) write_output(config, loaded, replaced, texts, found, *tokenizer);
  });
  return 0;
}

}  // namespace nmoe::app
