#pragma once
// The chat template of a Hugging Face model: how a user's message becomes the text of a prompt.
#include <string>
#include <string_view>

namespace nmoe::data {

/// A template in the part of Jinja that chat templates are written in: if, for, set, strings, comparison,
/// indexing, slices, `trim`, tests for defined and none. What is not in it is refused where it is executed,
/// not where it stands: branches for tools may hold anything.
class ChatTemplate {
 public:
  /// Reads chat_template.jinja of a model directory, or `chat_template` of its tokenizer_config.json (of
  /// several the one named "default"), and the spelling of bos_token and eos_token. @throws Error(bad_data)
  /// if the directory has none
  static ChatTemplate load(const std::string& directory);
  ChatTemplate(std::string text, std::string source, std::string bos_token, std::string eos_token);

  /// Returns the text that begins the assistant's answer to `message`, as apply_chat_template of transformers
  /// gives it for one message of the role "user" with add_generation_prompt. It holds the BOS where the
  /// template has one. @throws Error(bad_data) naming the file and the construct that is not supported
  std::string render(std::string_view message) const;

 private:
  std::string text_, source_, bos_token_, eos_token_;
};

}  // namespace nmoe::data
