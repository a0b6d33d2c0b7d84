#include "core/registry.h"

#include "model_files.h"

namespace grinqh {
namespace {

struct Shape {
  static constexpr std::string_view kind = "shape";
  virtual ~Shape() = default;
  virtual int corners() const = 0;
};

class Polygon final : public Shape {
 public:
  struct Options {
    int corners = 3;
    template <class V>
    void fields(V& v) {
      v("corners", corners, Range{3, 99}, "number of corners");
    }
  };
  explicit Polygon(Options options) : options_(options) {}
  int corners() const override { return options_.corners; }

 private:
  Options options_;
};

class Circle final : public Shape {
 public:
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  explicit Circle(Options) {}
  int corners() const override { return 0; }
};

const Register<Shape, Polygon> polygon{"polygon", "straight sides"};
const Register<Shape, Circle> circle{"circle", "no sides"};

TEST(Registry, MakesByName) {
  const auto& registry = Registry<Shape>::get();
  EXPECT_EQ(registry.make("polygon")->corners(), 3);
  EXPECT_EQ(registry.make("polygon", {{"corners", {5, "here"}}})->corners(), 5);
  EXPECT_EQ(registry.make("circle")->corners(), 0);
}

TEST(Registry, TellsWhatItHolds) {
  const auto& registry = Registry<Shape>::get();
  EXPECT_EQ(registry.names(), (std::vector<std::string>{"circle", "polygon"}));
  EXPECT_TRUE(registry.contains("circle"));
  EXPECT_FALSE(registry.contains("square"));
  const auto& entry = registry.at("polygon");
  EXPECT_EQ(entry.summary, "straight sides");
  ASSERT_EQ(entry.options.size(), 1u);
  EXPECT_EQ(entry.options[0].name, "corners");
  EXPECT_EQ(entry.resolve({}).dump(), R"({"corners":3})");
}

TEST(Registry, RefusesUnknownNamesAndOptions) {
  const auto& registry = Registry<Shape>::get();
  EXPECT_REFUSED(registry.at("poligon", "file.toml:7"),
                 "file.toml:7: unknown shape 'poligon'; known: circle, polygon (did you mean 'polygon'?)");
  EXPECT_REFUSED(registry.make("polygon", {{"corner", {4, "file.toml:9"}}}), "file.toml:9", "shape 'polygon'",
                 "'corner'", "did you mean 'corners'?");
  EXPECT_REFUSED(registry.at("circle").resolve({{"corners", {4, "file.toml:9"}}}), "file.toml:9",
                 "shape 'circle'", "'corners'");
}

// A registry of its own, so that the conflict does not show elsewhere.
struct Colour {
  static constexpr std::string_view kind = "colour";
  virtual ~Colour() = default;
};
class Red final : public Colour {
 public:
  using Options = Circle::Options;
  explicit Red(Options) {}
};

TEST(Registry, RemembersNamesThatWereTakenTwice) {
  const Register<Colour, Red> first{"red", "the first"}, second{"red", "the second"};
  EXPECT_EQ(Registry<Colour>::get().conflicts(), std::vector<std::string>{"red"});
  EXPECT_EQ(Registry<Colour>::get().at("red").summary, "the first");
}

}  // namespace
}  // namespace grinqh
