#include "store/result_file.h"

#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <limits>

#include "core/error.h"
#include "core/text.h"
#include "store/seal.h"
#include "support.h"

namespace grinqh {
namespace {

using grinqh::testing::TempDir;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

std::string refusal(const fs::path& path) {
  try {
    read_result(path);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "it was read";
}

// A new file each time: some file systems put a file that replaces its content on the disk at once.
void write_bytes(const fs::path& path, std::string_view bytes) {
  fs::remove(path);
  std::ofstream(path, std::ios::binary) << bytes;
}

void write_bytes(const fs::path& path, const std::vector<std::byte>& bytes) {
  write_bytes(path, std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

void fill(ResultWriter& writer) {
  writer.text("model", "llama-tiny");
  writer.integer("tokens", 4096);
  writer.scalar("perplexity", 7.25, "1");
  writer.series("token_kl", std::vector<double>{0.5, 0.25, 0.125}, "nat");
  writer.provenance("commit", "abc");
}

void write_small(const fs::path& path) {
  ResultWriter writer(path, "d1");
  fill(writer);
  writer.commit();
}

std::vector<std::string> files_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  return names;
}

TEST(ResultFile, RoundTrip) {
  const TempDir dir;
  const double tenth = 0.1, huge = std::numeric_limits<double>::max();
  const std::vector<double> windows = {1.5, std::numeric_limits<double>::infinity(), -0.0, tenth};
  {
    ResultWriter writer(dir / "new" / "cells" / "a.h5", "0123abcd");
    writer.text("model", "llama-tiny");
    writer.text("options", R"({"bits": 4, "levels": [0, 2, 4]})");
    writer.text("note", "Zeile 1\nλ");
    writer.integer("seed", -1);
    writer.integer("order", 3);
    writer.scalar("perplexity", huge, "1");
    writer.scalar("kl_median", tenth, "nat");
    writer.scalar("kl_mean", std::nan(""), "nat");
    writer.series("window_nll", windows, "nat");
    writer.series("token_kl", {}, "nat");
    writer.provenance("resolved_toml", std::string(100'000, 't'));
    writer.provenance("threads", "2");
    writer.commit();
  }
  const Result result = read_result(dir / "new" / "cells" / "a.h5");
  EXPECT_EQ(result.digest, "0123abcd");
  EXPECT_THAT(result.texts, ElementsAre(std::pair("model", "llama-tiny"), std::pair("note", "Zeile 1\nλ"),
                                        std::pair("options", R"({"bits": 4, "levels": [0, 2, 4]})")));
  EXPECT_THAT(result.integers, ElementsAre(std::pair("order", 3), std::pair("seed", -1)));
  ASSERT_EQ(result.scalars.size(), 3U);
  EXPECT_EQ(result.scalars.at("perplexity").value, huge);
  EXPECT_EQ(result.scalars.at("perplexity").unit, "1");
  EXPECT_EQ(result.scalars.at("kl_median").value, tenth);
  EXPECT_EQ(result.scalars.at("kl_median").unit, "nat");
  EXPECT_TRUE(std::isnan(result.scalars.at("kl_mean").value));
  EXPECT_EQ(result.provenance.at("resolved_toml").size(), 100'000U);
  EXPECT_EQ(result.provenance.at("threads"), "2");
  EXPECT_THAT(result.series, ElementsAre("token_kl", "window_nll"));
  const Series series = read_series(dir / "new" / "cells" / "a.h5", "window_nll");
  EXPECT_EQ(series.values, windows);
  EXPECT_EQ(series.unit, "nat");
  EXPECT_THAT(files_in(dir / "new" / "cells"), ElementsAre("a.h5"));
  try {
    read_series(dir / "new" / "cells" / "a.h5", "window_nl");
    FAIL();
  } catch (const BadInput& error) {
    EXPECT_THAT(error.what(), HasSubstr("did you mean 'window_nll'?"));
  }
}

TEST(ResultFile, EvaluatorsWriteThroughTheSink) {
  const TempDir dir;
  ResultWriter writer(dir / "a.h5", "d");
  MetricSink& sink = writer;
  sink.scalar("perplexity", 3.0, "1");
  sink.series("token_kl", std::vector<double>{1.0}, "nat");
  writer.commit();
  EXPECT_EQ(read_result(dir / "a.h5").scalars.at("perplexity").value, 3.0);
}

TEST(ResultFile, AbandonedWriterLeavesNothingAndKeepsTheOldFile) {
  const TempDir dir;
  { ResultWriter(dir / "a.h5", "d").text("model", "m"); }
  EXPECT_THAT(files_in(dir.path()), IsEmpty());
  write_small(dir / "a.h5");
  { ResultWriter(dir / "a.h5", "d2").text("model", "other"); }
  EXPECT_EQ(read_result(dir / "a.h5").texts.at("model"), "llama-tiny");
  EXPECT_THAT(files_in(dir.path()), ElementsAre("a.h5"));
}

TEST(ResultFile, KilledProcessLeavesNoFileUnderTheFinalName) {
  const TempDir dir;
  const pid_t child = fork();
  if (child == 0) {
    ResultWriter writer(dir / "a.h5", "d");
    fill(writer);
    std::raise(SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_THAT(files_in(dir.path()), ElementsAre("a.h5.part"));
  write_small(dir / "a.h5");  // over what the killed process left
  EXPECT_EQ(read_result(dir / "a.h5").digest, "d1");
  EXPECT_THAT(files_in(dir.path()), ElementsAre("a.h5"));
}

TEST(ResultFile, FullDiskIsAnErrorAndLeavesNothing) {
  const TempDir dir;
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_small(dir / "a.h5");
    } catch (const BadInput&) {
      _exit(2);
    } catch (const Error& error) {
      const std::string_view message = error.what();
      _exit(message.find("a.h5.part: cannot write: File too large") != std::string_view::npos ? 1 : 3);
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_THAT(files_in(dir.path()), IsEmpty());
}

TEST(ResultFile, PlaceThatCannotBeWrittenIsBadInput) {
  const TempDir dir;
  write_bytes(dir / "file", "");
  const auto message = [](const fs::path& path) -> std::string {
    try {
      ResultWriter writer(path, "d");
    } catch (const BadInput& error) {
      return error.what();
    }
    return "it was opened";
  };
  EXPECT_THAT(message(dir / "file" / "a.h5"), AllOf(HasSubstr("/file"), HasSubstr("Not a directory")));
  EXPECT_THAT(message("/proc/grinqh/a.h5"), AllOf(HasSubstr("/proc/grinqh"), HasSubstr("No such file")));
  fs::create_directory(dir / "b.h5");
  EXPECT_THAT(message(dir / "b.h5"), HasSubstr("is a directory"));
  const std::string long_name(300, 'n');
  EXPECT_THAT(message(dir / long_name), AllOf(HasSubstr("nnn.part"), HasSubstr("File name too long")));
}

TEST(ResultFile, MisuseIsToldAtOnce) {
  const TempDir dir;
  ResultWriter writer(dir / "a.h5", "d");
  writer.text("model", "m");
  EXPECT_THROW(writer.text("model", "n"), Error);
  EXPECT_THROW(writer.scalar("model", 1.0, "1"), std::logic_error);
  EXPECT_THROW(writer.integer("perplexity", 1), std::logic_error);
  EXPECT_THROW(writer.series("a/b", {}, "1"), Error);
  EXPECT_THROW(writer.text("", "x"), Error);
  writer.text("extra", "x");
  EXPECT_THROW(writer.integer("extra", 1), Error);
}

TEST(ResultFile, EveryFlippedByteIsNoticed) {
  const TempDir dir;
  write_small(dir / "a.h5");
  const std::string good = read_file(dir / "a.h5", "result");
  ASSERT_GT(good.size(), 1000U);
  for (size_t i = 0; i < good.size(); i += i < 600 ? 1 : 37) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    write_bytes(dir / "bad.h5", bad);
    EXPECT_THAT(refusal(dir / "bad.h5"), HasSubstr("bad.h5: ")) << "byte " << i;
  }
}

TEST(ResultFile, TruncatedAtAnyLengthOrLengthenedIsRefused) {
  const TempDir dir;
  write_small(dir / "a.h5");
  const std::string good = read_file(dir / "a.h5", "result");
  for (size_t length = 0; length < good.size(); length += length < 600 ? 13 : 101) {
    write_bytes(dir / "cut.h5", std::string_view(good).substr(0, length));
    EXPECT_THAT(refusal(dir / "cut.h5"), HasSubstr("cut.h5: ")) << length << " bytes";
  }
  write_bytes(dir / "cut.h5", good.substr(0, good.size() - 1));
  EXPECT_THAT(refusal(dir / "cut.h5"), HasSubstr("damaged or changed"));
  write_bytes(dir / "long.h5", good + "x");
  EXPECT_THAT(refusal(dir / "long.h5"), HasSubstr("damaged or changed"));
}

TEST(ResultFile, FilesOfOthersAreRefused) {
  const TempDir dir;
  write_bytes(dir / "text.h5", "model,perplexity\n");
  EXPECT_THAT(refusal(dir / "text.h5"), HasSubstr("text.h5: not a result of grinqh (not an HDF5 file)"));
  write_bytes(dir / "empty.h5", "");
  EXPECT_THAT(refusal(dir / "empty.h5"), HasSubstr("empty.h5: not a result"));
  hdf5::File::create(dir / "other.h5").root().create_group("g");
  EXPECT_THAT(refusal(dir / "other.h5"), HasSubstr("other.h5: an HDF5 file, but not a result"));
  EXPECT_THAT(refusal(dir / "none.h5"), AllOf(HasSubstr("none.h5"), HasSubstr("No such file")));
  EXPECT_THAT(refusal(dir.path()), HasSubstr("is a directory"));
}

TEST(ResultFile, OtherSchemaOrMissingGroupIsRefused) {
  const TempDir dir;
  {
    hdf5::File file = hdf5::File::create_image("later");
    file.root().set("schema", int64_t{2});
    write_bytes(dir / "later.h5", seal(file.image()));
  }
  EXPECT_THAT(refusal(dir / "later.h5"), HasSubstr("later.h5: schema 2, this program reads 1"));
  {
    hdf5::File file = hdf5::File::create_image("bare");
    file.root().set("schema", int64_t{1});
    file.root().set("digest", "d");
    write_bytes(dir / "bare.h5", seal(file.image()));
  }
  EXPECT_THAT(refusal(dir / "bare.h5"), HasSubstr("bare.h5: no group '/row'"));
  write_bytes(dir / "garbage.h5", seal(std::vector<std::byte>(2000, std::byte{7})));
  EXPECT_THAT(refusal(dir / "garbage.h5"), HasSubstr("garbage.h5: cannot read it as an HDF5 file"));
}

}  // namespace
}  // namespace grinqh
