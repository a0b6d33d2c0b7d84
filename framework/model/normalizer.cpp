#include "model/normalizer.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uniset.h>

#include <algorithm>

#include "core/error.h"

namespace grinqh {

namespace {

void check_icu(UErrorCode code) {
  if (U_FAILURE(code)) fail("ICU: Unicode normalization is not available: {}", u_errorName(code));
}

// The library normalizes by the tables of Unicode 9: later characters are inert and stay where they are.
const icu::Normalizer2& nfc_of_unicode_9() {
  static const icu::FilteredNormalizer2 normalizer = [] {
    UErrorCode code = U_ZERO_ERROR;
    const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(code);
    check_icu(code);
    static const icu::UnicodeSet known = [] {
      UErrorCode set_code = U_ZERO_ERROR;
      icu::UnicodeSet set(icu::UnicodeString::fromUTF8("[:age=9.0:]"), set_code);
      check_icu(set_code);
      set.freeze();
      return set;
    }();
    return icu::FilteredNormalizer2(*nfc, known);
  }();
  return normalizer;
}

bool is_nfc(const JsonPart& part) {
  if (part.null()) return false;
  const JsonPart type = part["type"];
  const std::string name = type.text();
  if (name == "NFC") {
    part.only({"type"});
    return true;
  }
  if (name != "Sequence") type.refuse("\"NFC\", or \"Sequence\" of it");
  part.only({"type", "normalizers"});
  bool nfc = false;
  for (const JsonPart& item : part["normalizers"].items()) {
    if (item.null()) item.refuse("a normalizer");
    nfc |= is_nfc(item);
  }
  return nfc;
}

// Text below U+0300, the first combining character, is in form C. Its bytes are below 0xCC.
bool below_combining(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0xCC; });
}

}  // namespace

Normalizer::Normalizer(const JsonPart& part) : nfc_(is_nfc(part)) {}

std::string_view Normalizer::apply(std::string_view text, std::string& buffer) const {
  if (!nfc_ || below_combining(text)) return text;
  UErrorCode code = U_ZERO_ERROR;
  const icu::StringPiece piece(text.data(), static_cast<int32_t>(text.size()));
  if (nfc_of_unicode_9().isNormalizedUTF8(piece, code)) return text;
  buffer.clear();
  icu::StringByteSink<std::string> sink(&buffer, static_cast<int32_t>(text.size()));
  nfc_of_unicode_9().normalizeUTF8(0, piece, sink, nullptr, code);
  check_icu(code);
  return buffer;
}

}  // namespace grinqh
