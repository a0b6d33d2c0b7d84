#include "store/hdf5.h"

#include <gmock/gmock.h>
#include <hdf5.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <numeric>

#include "core/error.h"
#include "store/part_file.h"
#include "support.h"

namespace grinqh::hdf5 {
namespace {

using ::grinqh::testing::TempDir;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <class E, class F>
std::string message_of(F action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

template <class T>
std::vector<T> counted(size_t count) {
  std::vector<T> values(count);
  std::iota(values.begin(), values.end(), T{1});
  return values;
}

template <class T>
class Hdf5Elements : public ::testing::Test {};
using ElementTypes = ::testing::Types<double, float, int64_t, int32_t, uint8_t>;
TYPED_TEST_SUITE(Hdf5Elements, ElementTypes);

TYPED_TEST(Hdf5Elements, ValuesOfReservedDatasetsAreWrittenLater) {
  const TempDir dir;
  const auto values = counted<TypeParam>(120);
  PartFile part(dir / "a.h5");
  File file = File::create(part.part());
  const auto reserve = [&](const std::string& name, const std::vector<int64_t>& shape) {
    return file.root().create_dataset(name, element_type<TypeParam>(), shape, Storage::reserved);
  };
  const int64_t first = reserve("first", {8, 15}).offset(), second = reserve("second", {120}).offset();
  reserve("empty", {0});
  file.close();
  part.write_at(second, std::as_bytes(std::span(values)));
  part.write_at(first, std::as_bytes(std::span(values)));
  part.commit();
  const Group root = File::open(dir / "a.h5").root();
  EXPECT_EQ(root.dataset("first").template read<TypeParam>(), values);
  EXPECT_EQ(root.dataset("second").template read<TypeParam>(), values);
  EXPECT_TRUE(root.dataset("empty").template read<TypeParam>().empty());
}

TYPED_TEST(Hdf5Elements, RoundTripInBothStorages) {
  const TempDir dir;
  const auto values = counted<TypeParam>(120);
  {
    File file = File::create(dir / "a.h5");
    file.root().template write<TypeParam>("plain", values, {120});
    file.root().template write<TypeParam>("deep/packed", values, {8, 15}, Storage::deflated);
    file.close();
  }
  const File file = File::open(dir / "a.h5");
  const Dataset plain = file.root().dataset("plain"), packed = file.root().group("deep").dataset("packed");
  EXPECT_THAT(plain.shape(), ElementsAre(120));
  EXPECT_THAT(packed.shape(), ElementsAre(8, 15));
  EXPECT_EQ(packed.name(), "/deep/packed");
  EXPECT_EQ(plain.read<TypeParam>(), values);
  EXPECT_EQ(packed.read<TypeParam>(), values);
}

TEST(Hdf5, RowsAreWrittenAndReadInAnyOrder) {
  const TempDir dir;
  const auto values = counted<float>(7 * 3);
  const auto rows = [&](int64_t begin, int64_t end) {
    return std::span(values).subspan(static_cast<size_t>(begin * 3), static_cast<size_t>((end - begin) * 3));
  };
  {
    File file = File::create(dir / "a.h5");
    Dataset dataset = file.root().create_dataset("logits", ElementType::f32, {7, 3});
    dataset.write_rows<float>(4, 7, rows(4, 7));
    dataset.write_rows<float>(0, 4, rows(0, 4));
    dataset.write_rows<float>(2, 2, {});
  }
  const Dataset dataset = File::open(dir / "a.h5").root().dataset("logits");
  EXPECT_EQ(dataset.read<float>(), values);
  std::vector<float> part(2 * 3);
  dataset.read_rows<float>(3, 5, part);
  EXPECT_TRUE(std::ranges::equal(part, rows(3, 5)));
  EXPECT_THROW(dataset.read_rows<float>(6, 8, part), std::logic_error);
  EXPECT_THROW(dataset.read_rows<float>(0, 1, part), std::logic_error);
}

TEST(Hdf5, EmptyAndLongSeries) {
  const TempDir dir;
  const auto values = counted<double>(200'001);  // several chunks, the last one partial
  {
    File file = File::create(dir / "a.h5");
    file.root().write<double>("empty", {}, {0}, Storage::deflated);
    file.root().write<double>("long", values, {200'001}, Storage::deflated);
  }
  const File file = File::open(dir / "a.h5");
  EXPECT_TRUE(file.root().dataset("empty").read<double>().empty());
  EXPECT_EQ(file.root().dataset("long").read<double>(), values);
  EXPECT_LT(std::filesystem::file_size(dir / "a.h5"), 200'001 * sizeof(double) / 2);
}

TEST(Hdf5, AttributesOfEveryKind) {
  const TempDir dir;
  const std::string long_text(100'000, 'x');
  {
    File file = File::create(dir / "a.h5");
    Group group = file.root().create_group("g");
    group.set("utf8", "Größe ≤ 4");
    group.set("empty", "");
    group.set("long", long_text);  // beyond the 64 KiB of the old format
    group.set("count", int64_t{-1} << 60);
    group.set("ratio", 0.1);
    group.set("yes", true);
    group.set("no", false);
    EXPECT_THAT(message_of<Error>([&] { group.set("yes", false); }), HasSubstr("'yes' is set already"));
    EXPECT_THAT(message_of<Error>([&] { group.set("nul", std::string("a\0b", 3)); }),
                HasSubstr("null character"));
    file.root().create_dataset("d", ElementType::u8, {1}).set("unit", "bit");
  }
  const File file = File::open(dir / "a.h5");
  const Group group = file.root().group("g");
  EXPECT_EQ(group.text("utf8"), "Größe ≤ 4");
  EXPECT_EQ(group.text("empty"), "");
  EXPECT_EQ(group.text("long"), long_text);
  EXPECT_EQ(group.integer("count"), int64_t{-1} << 60);
  EXPECT_EQ(group.real("ratio"), 0.1);
  EXPECT_TRUE(group.boolean("yes"));
  EXPECT_FALSE(group.boolean("no"));
  EXPECT_THAT(group.attributes(), ElementsAre("count", "empty", "long", "no", "ratio", "utf8", "yes"));
  EXPECT_EQ(file.root().dataset("d").text("unit"), "bit");
  EXPECT_THAT(message_of<BadInput>([&] { group.text("count"); }),
              AllOf(HasSubstr("a.h5: /g"), HasSubstr("'count' is not text")));
  EXPECT_THAT(message_of<BadInput>([&] { group.text("none"); }), HasSubstr("a.h5: /g: no attribute 'none'"));
}

TEST(Hdf5, GroupsAreCreatedOnTheWayAndListedSorted) {
  const TempDir dir;
  File file = File::create(dir / "a.h5");
  Group root = file.root();
  root.create_group("b/x/y");
  root.create_group("a");
  root.create_dataset("c", ElementType::i32, {2, 2});
  EXPECT_THAT(root.children(), ElementsAre("a", "b", "c"));
  EXPECT_TRUE(root.exists("b/x/y"));
  EXPECT_FALSE(root.exists("b/z/y"));
  EXPECT_TRUE(root.group("b").exists("x"));
  EXPECT_THAT(message_of<Error>([&] { root.create_group("a"); }), HasSubstr("/a: cannot create the group"));
}

TEST(Hdf5, FileStaysOpenForWhatWasOpenedFromIt) {
  const TempDir dir;
  File::create(dir / "a.h5").root().write<int32_t>("d", counted<int32_t>(4), {4});
  const Dataset dataset = File::open(dir / "a.h5").root().dataset("d");
  EXPECT_THAT(dataset.read<int32_t>(), ElementsAre(1, 2, 3, 4));
  File file = File::create(dir / "b.h5");
  const Group group = file.root();
  EXPECT_THROW(file.close(), std::logic_error);
}

TEST(Hdf5, WrongElementTypeAndMissingObjectsAreBadInput) {
  const TempDir dir;
  File::create(dir / "a.h5").root().write<float>("d", counted<float>(4), {4});
  const Group root = File::open(dir / "a.h5").root();
  EXPECT_THAT(message_of<BadInput>([&] { root.dataset("d").read<double>(); }),
              AllOf(HasSubstr("a.h5: /d"), HasSubstr("float32, expected float64")));
  EXPECT_THAT(message_of<BadInput>([&] { root.dataset("g/e"); }), HasSubstr("no dataset '/g/e'"));
  EXPECT_THAT(message_of<BadInput>([&] { root.group("g"); }), HasSubstr("no group '/g'"));
  EXPECT_THAT(message_of<BadInput>([&] { root.group("d"); }), HasSubstr("/d: cannot open the group"));
}

TEST(Hdf5, FilesThatCannotBeReadAreBadInput) {
  const TempDir dir;
  EXPECT_THAT(message_of<BadInput>([&] { File::open(dir / "none.h5"); }),
              AllOf(HasSubstr("none.h5"), HasSubstr("No such file")));
  EXPECT_THAT(message_of<BadInput>([&] { File::open(dir.path()); }), HasSubstr("is a directory"));
  std::ofstream(dir / "text.h5") << "not HDF5 at all";
  EXPECT_THAT(message_of<BadInput>([&] { File::open(dir / "text.h5"); }), HasSubstr("not an HDF5 file"));
  File::create(dir / "cut.h5").root().write<double>("d", counted<double>(5000), {5000});
  std::filesystem::resize_file(dir / "cut.h5", 3000);
  EXPECT_THAT(message_of<BadInput>([&] { File::open(dir / "cut.h5"); }),
              AllOf(HasSubstr("cut.h5"), HasSubstr("truncated")));
  std::ofstream(dir / "file") << "";
  EXPECT_THAT(message_of<BadInput>([&] { File::create(dir / "file" / "a.h5"); }),
              AllOf(HasSubstr("a.h5"), HasSubstr("Not a directory")));
}

// A child that may write no file beyond 64 KiB: what a full disk does, without one.
TEST(Hdf5, FullDiskIsAnErrorAtTheLatestWhenTheFileCloses) {
  const TempDir dir;
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1 << 16, 1 << 16};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      File file = File::create(dir / "a.h5");
      file.root().write<double>("d", counted<double>(100'000), {100'000});
      file.close();
    } catch (const BadInput&) {
      _exit(2);
    } catch (const Error& error) {
      _exit(std::string(error.what()).find("a.h5") != std::string::npos ? 1 : 3);
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 1);
}

// What other programs write, here through the C API itself.
TEST(Hdf5, ForeignAttributesAndShapes) {
  const TempDir dir;
  const std::string path = (dir / "foreign.h5").string();
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t scalar = H5Screate(H5S_SCALAR);
  const auto put = [&](const char* name, hid_t type, hid_t space, const void* data) {
    const hid_t id = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(id, type, data);
    H5Aclose(id);
  };
  const auto fixed = [](H5T_str_t pad) {
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, 6);
    H5Tset_strpad(type, pad);
    return type;
  };
  put("terminated", fixed(H5T_STR_NULLTERM), scalar, "abc\0\0");
  put("padded", fixed(H5T_STR_NULLPAD), scalar, "abcdef");
  put("spaced", fixed(H5T_STR_SPACEPAD), scalar, "ab c  ");
  const int16_t small = -7;
  put("int16", H5T_NATIVE_INT16, scalar, &small);
  const float half = 0.5F;
  put("float32", H5T_NATIVE_FLOAT, scalar, &half);
  const hsize_t extent[3] = {2, 1, 1};
  const int16_t pair[2] = {1, 2};
  put("pair", H5T_NATIVE_INT16, H5Screate_simple(1, extent, nullptr), pair);
  H5Dclose(H5Dcreate2(file, "cube", H5T_NATIVE_FLOAT, H5Screate_simple(3, extent, nullptr), H5P_DEFAULT,
                      H5P_DEFAULT, H5P_DEFAULT));
  H5Dclose(H5Dcreate2(file, "shorts", H5T_NATIVE_INT16, H5Screate_simple(1, extent, nullptr), H5P_DEFAULT,
                      H5P_DEFAULT, H5P_DEFAULT));
  H5Fclose(file);

  const Group root = File::open(path).root();
  EXPECT_EQ(root.text("terminated"), "abc");
  EXPECT_EQ(root.text("padded"), "abcdef");
  EXPECT_EQ(root.text("spaced"), "ab c");
  EXPECT_EQ(root.integer("int16"), -7);
  EXPECT_EQ(root.real("float32"), 0.5);
  EXPECT_THAT(message_of<BadInput>([&] { root.get("pair"); }), HasSubstr("attribute 'pair' is not one text"));
  EXPECT_THAT(message_of<BadInput>([&] { root.dataset("cube"); }), HasSubstr("/cube: 3 dimensions"));
  EXPECT_THAT(message_of<BadInput>([&] { root.dataset("shorts"); }),
              HasSubstr("/shorts: elements of a type"));
}

TEST(Hdf5, ImageInMemoryIsTheFile) {
  File file = File::create_image("memory.h5");
  file.root().write<double>("d", counted<double>(10), {10}, Storage::deflated);
  const std::vector<std::byte> image = file.image();
  EXPECT_FALSE(std::filesystem::exists("memory.h5"));
  const TempDir dir;
  std::ofstream(dir / "a.h5", std::ios::binary)
      .write(reinterpret_cast<const char*>(image.data()), static_cast<std::streamsize>(image.size()));
  EXPECT_EQ(File::open(dir / "a.h5").root().dataset("d").read<double>(), counted<double>(10));
  EXPECT_EQ(File::open_image("x.h5", image).root().dataset("d").read<double>(), counted<double>(10));
}

TEST(Hdf5, ImagesOfOnePathAreApart) {
  const TempDir dir;
  const auto image_of = [](int64_t value) {
    File file = File::create_image("a.h5");
    file.root().set("value", value);
    return file.image();
  };
  File::create(dir / "a.h5");
  const File writing = File::create_image(dir / "a.h5");
  const File first = File::open_image(dir / "a.h5", image_of(1));
  const File second = File::open_image(dir / "a.h5", image_of(2));
  EXPECT_EQ(first.root().integer("value"), 1);
  EXPECT_EQ(second.root().integer("value"), 2);
  EXPECT_FALSE(writing.root().has("value"));
}

}  // namespace
}  // namespace grinqh::hdf5
