#pragma once
// Short texts that a tokenizer which loads is tried on.
#include <array>
#include <string_view>

namespace nmoe::fuzz {

inline constexpr std::array<std::string_view, 4> texts = {
    "", "the cat's 1234  hats\r\n\n<|endoftext|> \t", "η γάτα άνθρωποι\u0301 \u1100\u1161 中文 \U0001F999",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};

}  // namespace nmoe::fuzz
