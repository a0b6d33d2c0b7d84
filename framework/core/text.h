// Small helpers for messages and tables.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace grinqh {

// The candidate nearest to `name` by edit distance, or "" if none is near enough to be what was meant.
std::string nearest_name(std::string_view name, std::span<const std::string> candidates);

// "unknown <what> 'rtm'; known: gptq, rtn (did you mean 'rtn'?)"
std::string unknown_name(std::string_view what, std::string_view name,
                         std::span<const std::string> candidates);

std::string join(std::span<const std::string> parts, std::string_view separator);

// Shell-style match of a whole name: '*' stands for any run of characters, '?' for one.
bool glob_match(std::string_view pattern, std::string_view name);

// Lower-case letters, digits and single hyphens: for file names made from titles.
std::string slug(std::string_view text);

// Whole file as bytes; BadInput if it cannot be read. `what` names its role in the message.
std::string read_file(const std::string& path, std::string_view what);

}  // namespace grinqh
