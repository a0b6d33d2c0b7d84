// A regular expression that text is split by.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

struct pcre2_real_code_8;

namespace grinqh {

class SplitRegex {
 public:
  using Visit = std::function<void(std::string_view)>;

  // `pattern` in the syntax of PCRE2; BadInput naming `where` if it does not compile.
  SplitRegex(const std::string& pattern, const std::string& where);

  // Calls `visit` for the matches and for what lies between them, in order, without empty ones (behavior
  // "Isolated"). `text` is valid UTF-8. May be called from several threads, and from within `visit`.
  void split(std::string_view text, const Visit& visit) const;

 private:
  std::shared_ptr<const pcre2_real_code_8> code_;
};

}  // namespace grinqh
