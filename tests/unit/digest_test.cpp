#include "core/digest.h"

#include <gtest/gtest.h>

namespace grinqh {
namespace {

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(Digest, IsXxh128) {
  // Published values of XXH3_128bits, seed 0.
  EXPECT_EQ(digest_of(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(digest_of("a"), "a96faf705af16834e6c632b61e964e1f");
}

TEST(Digest, DoesNotDependOnHowBytesArrive) {
  const std::string text(5000, 'x');
  Digest digest;
  for (size_t i = 0; i < text.size(); i += 7) digest.add(bytes(std::string_view(text).substr(i, 7)));
  EXPECT_EQ(digest.hex(), digest_of(text));
  EXPECT_EQ(digest.hex(), digest_of(text)) << "reading it must not change it";
}

TEST(Digest, FieldsDoNotRunIntoEachOther) {
  const auto of = [](std::string_view a, std::string_view b) {
    return Digest().add_field(a).add_field(b).hex();
  };
  EXPECT_NE(of("ab", "c"), of("a", "bc"));
  EXPECT_NE(of("", "a"), of("a", ""));
  EXPECT_EQ(of("ab", "c"), of("ab", "c"));
}

TEST(Digest, Moves) {
  Digest first;
  first.add(bytes("a"));
  Digest second = std::move(first);
  EXPECT_EQ(second.hex(), digest_of("a"));
  Digest third;
  third = std::move(second);
  EXPECT_EQ(third.hex(), digest_of("a"));
}

}  // namespace
}  // namespace grinqh
