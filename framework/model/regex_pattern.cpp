#include "model/regex_pattern.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

#include "core/error.h"
#include "model/new_characters.h"

namespace grinqh {

namespace {

// Unicode's White_Space. PCRE2's own \s has U+180E too, which is none since Unicode 6.3.
constexpr std::string_view kSpaces =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

constexpr std::array<std::string_view, 14> kCategories = {"L", "Lu", "Ll", "Lt", "Lm", "Lo", "M",
                                                          "N", "Nd", "Nl", "No", "P",  "S",  "Sm"};

// The members of a general category, for use within brackets.
std::string category_members(std::string_view category) {
  std::string members = fmt::format("\\p{{{}}}", category);
  for (const CharacterRange& range : characters_since_unicode_15()) {
    if (!range.category.starts_with(category)) continue;
    members += fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", static_cast<uint32_t>(range.first),
                           static_cast<uint32_t>(range.last));
  }
  return members;
}

class Translator {
 public:
  explicit Translator(const JsonPart& part) : part_(part), in_(part.text()) {}

  std::string run() {
    while (at_ < in_.size()) step();
    if (!groups_.empty()) refuse("an open group");
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    part_.refuse(fmt::format("patterns without {} (character {} of the pattern)", what, at_));
  }

  bool starts(std::string_view text) const { return std::string_view(in_).substr(at_).starts_with(text); }
  bool ignoring_case() const { return !groups_.empty() && groups_.back(); }
  void copy(size_t count) {
    out_.append(in_, at_, count);
    at_ += count;
  }

  void step() {
    switch (in_[at_]) {
      case '(':
        return open_group();
      case ')':
        if (groups_.empty()) refuse("a closing parenthesis that nothing opened");
        groups_.pop_back();
        return copy(1);
      case '[':
        return bracket();
      case '\\':
        return escape();
      case '{':
        return repeat();
      case '.':
      case '^':
      case '$':
        refuse("'.', '^' and '$'");
      case '|':
      case '?':
      case '*':
      case '+':
        return copy(1);
      default:
        return literal();
    }
  }

  void open_group() {
    bool ignore_case = ignoring_case();
    size_t length = 1;
    if (starts("(?i:")) {
      ignore_case = true;
      length = 4;
    } else if (starts("(?:") || starts("(?=") || starts("(?!")) {
      length = 3;
    } else if (starts("(?")) {
      refuse("groups other than (...), (?:...), (?i:...), (?=...) and (?!...)");
    }
    groups_.push_back(ignore_case);
    copy(length);
  }

  // Under (?i:...) Oniguruma also matches one character against two letters (U+00DF against "ss").
  void literal() {
    if (ignoring_case()) {
      if (static_cast<unsigned char>(in_[at_]) >= 0x80) refuse("letters beyond ASCII in (?i:...)");
      std::string pair = in_.substr(at_, 2);
      for (char& c : pair) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      for (const std::string_view fold : {"ff", "fi", "fl", "ss", "st"})
        if (pair == fold) refuse("ff, fi, fl, ss and st in (?i:...)");
    }
    copy(1);
  }

  // {n}, {n,} and {n,m}; Oniguruma reads a '+' or '?' after it otherwise.
  void repeat() {
    size_t end = at_ + 1;
    int digits = 0, commas = 0;
    for (; end < in_.size() && in_[end] != '}'; ++end) {
      if (std::isdigit(static_cast<unsigned char>(in_[end])))
        ++digits;
      else if (in_[end] == ',' && digits > 0 && commas == 0)
        ++commas;
      else
        refuse("'{' other than in {n}, {n,} and {n,m}");
    }
    if (end == in_.size() || digits == 0) refuse("'{' other than in {n}, {n,} and {n,m}");
    if (end + 1 < in_.size() && (in_[end + 1] == '+' || in_[end + 1] == '?'))
      refuse("possessive or lazy {n,m}");
    copy(end + 1 - at_);
  }

  // The name in the \p{name} at `at_`, which is passed.
  std::string property() {
    const size_t end = in_.find('}', at_);
    if (end == std::string::npos || at_ + 2 >= in_.size() || in_[at_ + 2] != '{')
      refuse("\\p without {name}");
    const std::string name = in_.substr(at_ + 3, end - at_ - 3);
    if (std::find(kCategories.begin(), kCategories.end(), name) == kCategories.end())
      refuse(fmt::format("\\p{{{}}}; supported names: {}", name, fmt::join(kCategories, ", ")));
    at_ = end + 1;
    return name;
  }

  // What is the same in brackets and outside; false if the escape is none of these.
  bool plain_escape() {
    if (at_ + 1 == in_.size()) refuse("a backslash at its end");
    const auto c = static_cast<unsigned char>(in_[at_ + 1]);
    if (c >= 0x80 || (std::isalnum(c) && c != 'r' && c != 'n' && c != 't' && c != 'f')) return false;
    copy(2);
    return true;
  }

  void escape() {
    if (plain_escape()) return;
    const char c = in_[at_ + 1];
    if (c != 's' && c != 'S' && c != 'p' && c != 'P') refuse(fmt::format("\\{}", c));
    if (ignoring_case()) refuse("character classes in (?i:...)");
    const bool negated = c == 'S' || c == 'P';
    std::string members(kSpaces);
    if (c == 'p' || c == 'P')
      members = category_members(property());
    else
      at_ += 2;
    out_ += fmt::format("[{}{}]", negated ? "^" : "", members);
  }

  void bracket() {
    if (ignoring_case()) refuse("character classes in (?i:...)");
    copy(starts("[^") ? 2 : 1);
    if (starts("]")) refuse("']' at the start of a class");
    while (!starts("]")) {
      if (at_ == in_.size()) refuse("an open class");
      if (starts("[") || starts("&&")) refuse("classes within classes");
      if (in_[at_] != '\\') {
        copy(1);
      } else if (!plain_escape()) {
        bracket_escape();
      }
    }
    copy(1);
  }

  void bracket_escape() {
    const char c = in_[at_ + 1];
    if (c == 'p') {
      out_ += category_members(property());
    } else if (c == 's') {
      out_ += kSpaces;
      at_ += 2;
    } else {
      refuse(fmt::format("\\{} in a class", c));
    }
  }

  const JsonPart& part_;
  const std::string in_;
  std::string out_;
  size_t at_ = 0;             // in in_
  std::vector<bool> groups_;  // the open groups: whether case is ignored in them
};

}  // namespace

std::string pcre2_pattern(const JsonPart& part) { return Translator(part).run(); }

}  // namespace grinqh
