#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/split_regex.h"

#include <pcre2.h>
#include <unicode/utf8.h>

#include <array>

#include "core/error.h"

namespace grinqh {

namespace {

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// Room to match in. One a thread: it is costly to make and holds nothing from match to match.
struct Workspace {
  static constexpr size_t kStackStart = size_t{32} << 10, kStackMax = size_t{256} << 20;

  // Only the ends of the whole match are read, whatever groups the pattern has.
  pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(kStackStart, kStackMax, nullptr);

  Workspace() {
    if (match == nullptr || context == nullptr) throw std::bad_alloc();
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
    // A run of a million spaces is a valid text; Oniguruma has no limits either.
    pcre2_set_match_limit(context, UINT32_MAX);
    pcre2_set_depth_limit(context, UINT32_MAX);
    pcre2_set_heap_limit(context, UINT32_MAX);
  }
  ~Workspace() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(match);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
};

}  // namespace

SplitRegex::SplitRegex(const std::string& pattern, const std::string& where) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  if (code == nullptr) bad_input("{}: the pattern does not compile: {}", where, pcre2_message(error));
  code_ = {code, pcre2_code_free};
  // Only speed depends on it: where the system forbids generated code, the interpreter does the same.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
}

void SplitRegex::split(std::string_view text, const Visit& visit) const {
  thread_local Workspace workspace;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t done = 0, from = 0;
  while (from < text.size()) {
    const int result = pcre2_match(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                                   workspace.match, workspace.context);
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0) fail("splitting text at byte {}: PCRE2: {}", from, pcre2_message(result));
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(workspace.match);
    const size_t start = ends[0], end = ends[1];
    if (done < start) visit(text.substr(done, start - done));
    if (start < end) visit(text.substr(start, end - start));
    done = from = end;
    // After an empty match, which still is a border, the search goes on one character later.
    if (start == end) U8_FWD_1(text.data(), from, text.size());
  }
  if (done < text.size()) visit(text.substr(done));
}

}  // namespace grinqh
