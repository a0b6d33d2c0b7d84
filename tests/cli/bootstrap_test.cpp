// The script ./grinqh in a tree and on a machine made up for the test: stand-ins for apt-get, cmake and the
// rest write down how they were called, so nothing is installed or built.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>

#include "core/text.h"
#include "support.h"

namespace grinqh {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

struct Outcome {
  int status;
  std::string out, err, calls;  // calls: one line for each stand-in that ran
};

class Bootstrap : public ::testing::Test {
 protected:
  Bootstrap() {
    fs::create_directories(tree() / "cmake");
    fs::create_directories(tree() / "framework");
    fs::create_directories(machine() / "bin");
    fs::copy_file(testing::source_dir() / "grinqh", tree() / "grinqh");
    write(tree() / "cmake/packages.txt", "# a comment\nhere-dev   is here\nmade-up-dev   is not\n");
    write(tree() / "framework/a.cpp", "");
    for (const char* tool : {"bash", "cat", "chmod", "comm", "dirname", "env", "find", "flock", "grep",
                             "mkdir", "mv", "nproc", "readlink", "sed", "sort"})
      link_tool(tool);
    stand_in("git", "echo 0123abcd");
    stand_in("id", "echo ${FAKE_UID:-0}");
    stand_in("dpkg-query",
             "echo installed here-dev; [[ ! -f $MACHINE/installed ]] || cat $MACHINE/installed");
    stand_in("apt-get",
             log("apt-get") + "[[ $* != *made-up-dev* ]] || echo installed made-up-dev >$MACHINE/installed");
    stand_in("sudo", log("sudo") + "\"$@\"");
    stand_in("cmake",
             log("cmake") +
                 "echo chatter; [[ ! -f $MACHINE/broken ]] || exit 7; mkdir -p build/release; "
                 "printf '#!/bin/bash\\necho program \"$@\" in $PWD; exit 5\\n' >build/release/grinqh; "
                 "chmod +x build/release/grinqh");
    stand_in("ctest", log("ctest") + "echo tests in $PWD; exit 6");
  }

  fs::path tree() const { return folder_ / "tree"; }
  fs::path machine() const { return folder_ / "machine"; }

  static std::string log(const std::string& name) { return "echo " + name + " \"$@\" >>$MACHINE/calls; "; }
  static void write(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }
  void stand_in(const std::string& name, const std::string& body) {
    write(machine() / "bin" / name, "#!/bin/bash\n" + body + "\n");
    fs::permissions(machine() / "bin" / name, fs::perms::owner_all);
  }
  void link_tool(const std::string& name) {
    for (const char* place : {"/usr/bin", "/bin"})
      if (fs::exists(fs::path(place) / name))
        return fs::create_symlink(fs::path(place) / name, machine() / "bin" / name);
    FAIL() << "no " << name << " on this machine";
  }

  // Runs `command` (its $GRINQH is the script) in the folder above the tree.
  Outcome run(const std::string& command) {
    fs::remove(machine() / "calls");
    write(machine() / "calls", "");
    const auto text = [&](const char* name) { return read_file((machine() / name).string(), "output"); };
    const std::string line = "unset GRINQH_PRESET; cd " + folder_.path().string() +
                             " && PATH=" + (machine() / "bin").string() + " MACHINE=" + machine().string() +
                             " GRINQH=" + (tree() / "grinqh").string() + " " + "bash -c '" + command + "' >" +
                             (machine() / "out").string() + " 2>" + (machine() / "err").string();
    const int status = std::system(line.c_str());
    return {WEXITSTATUS(status), text("out"), text("err"), text("calls")};
  }
  void touch(const fs::path& path) {
    fs::last_write_time(path, fs::file_time_type::clock::now() + std::chrono::seconds(1));
  }

  testing::TempDir folder_;
};

TEST_F(Bootstrap, InstallsBuildsAndBecomesTheProgram) {
  const Outcome first = run("$GRINQH eval \"a b\"");
  EXPECT_EQ(first.status, 5);
  EXPECT_EQ(first.out, "program eval a b in " + folder_.path().string() + "\n");
  EXPECT_THAT(first.calls,
              AllOf(HasSubstr(" update\n"), HasSubstr(" install -y --no-install-recommends made-up-dev\n"),
                    HasSubstr("cmake --preset release"),
                    HasSubstr("cmake --build --preset release --target grinqh_program")));
  EXPECT_THAT(first.calls, Not(HasSubstr("sudo")));
  EXPECT_THAT(first.err,
              AllOf(HasSubstr("installing Debian packages: made-up-dev\n"), HasSubstr("building")));
}

TEST_F(Bootstrap, StartsAtOnceWhenNothingChanged) {
  run("$GRINQH");
  const Outcome second = run("$GRINQH list");
  EXPECT_EQ(second.calls, "");
  EXPECT_EQ(second.err, "");
  EXPECT_THAT(second.out, HasSubstr("program list in"));
}

TEST_F(Bootstrap, BuildsAgainAfterAnEditAnAddedOrARemovedFile) {
  run("$GRINQH");
  touch(tree() / "framework/a.cpp");
  EXPECT_THAT(run("$GRINQH").calls, HasSubstr("cmake --build"));
  fs::last_write_time(tree() / "framework/a.cpp", fs::file_time_type::clock::now() - std::chrono::hours(1));
  run("$GRINQH");
  EXPECT_EQ(run("$GRINQH").calls, "");
  fs::remove(tree() / "framework/a.cpp");
  touch(tree() / "framework");
  EXPECT_THAT(run("$GRINQH").calls, HasSubstr("cmake --build"));
}

TEST_F(Bootstrap, BuildsAgainForAnotherCommit) {
  run("$GRINQH");
  stand_in("git", "echo 4567abcd");
  EXPECT_THAT(run("$GRINQH").calls, HasSubstr("cmake --build"));
}

TEST_F(Bootstrap, IsFoundThroughALinkFromAnywhere) {
  fs::create_symlink(tree() / "grinqh", folder_ / "link");
  const Outcome outcome = run("./link report");
  EXPECT_EQ(outcome.out, "program report in " + folder_.path().string() + "\n");
}

TEST_F(Bootstrap, PrintsTheProgramsHelpWithoutArguments) {
  EXPECT_THAT(run("$GRINQH").out, HasSubstr("program --help in"));
}

TEST_F(Bootstrap, TestBuildsEverythingAndPassesArgumentsOn) {
  const Outcome outcome = run("$GRINQH test -R \"some tests\"");
  EXPECT_EQ(outcome.status, 6);
  EXPECT_EQ(outcome.out, "tests in " + tree().string() + "\n");
  EXPECT_THAT(outcome.calls,
              AllOf(HasSubstr("--target all"),
                    HasSubstr("ctest --preset release --output-on-failure -j2 -R some tests\n")));
}

TEST_F(Bootstrap, HonoursThePreset) {
  EXPECT_THAT(run("GRINQH_PRESET=dev $GRINQH").calls, HasSubstr("cmake --preset dev"));
}

TEST_F(Bootstrap, AsksSudoWhenNotRoot) {
  EXPECT_THAT(run("FAKE_UID=1000 $GRINQH").calls,
              HasSubstr("sudo env DEBIAN_FRONTEND=noninteractive apt-get"));
}

TEST_F(Bootstrap, NamesWhatIsMissingWhereItCannotInstall) {
  for (const char* tool : {"sudo", "apt-get"}) {
    fs::remove(machine() / "bin" / tool);
    const Outcome outcome = run("FAKE_UID=1000 $GRINQH");
    EXPECT_EQ(outcome.status, 1);
    EXPECT_EQ(outcome.err, "grinqh: no " + std::string(tool) +
                               " here to install what is missing, please install: made-up-dev\n");
    EXPECT_EQ(outcome.calls, "");
  }
}

TEST_F(Bootstrap, NamesWhatCouldNotBeInstalled) {
  stand_in("apt-get", "[[ $* != *install* ]] || exit 100");
  const Outcome failed = run("$GRINQH");
  EXPECT_EQ(failed.status, 1);
  EXPECT_THAT(failed.err, HasSubstr("apt-get could not install made-up-dev\n"));

  stand_in("apt-get", "true");
  const Outcome without_effect = run("$GRINQH");
  EXPECT_EQ(without_effect.status, 1);
  EXPECT_THAT(without_effect.err, HasSubstr("still missing after apt-get install: made-up-dev\n"));
}

TEST_F(Bootstrap, FailsWithTheBuildAndTriesAgainNextTime) {
  run("$GRINQH");
  touch(tree() / "framework/a.cpp");
  write(machine() / "broken", "");
  for (int attempt = 0; attempt < 2; ++attempt) {
    const Outcome outcome = run("$GRINQH list");
    EXPECT_EQ(outcome.status, 1);
    EXPECT_EQ(outcome.out, "");
    EXPECT_THAT(outcome.err, HasSubstr("grinqh: could not configure the build, see above\n"));
  }
}

}  // namespace
}  // namespace grinqh
