// grinqh tokenize: token ids of a text as JSON.
#include <iostream>
#include <iterator>

#include <fmt/format.h>

#include "cli/command.h"
#include "core/json.h"
#include "core/text.h"
#include "model/tokenizer.h"

namespace grinqh {
namespace {

namespace po = boost::program_options;

int tokenize(const std::vector<std::string>& words) {
  Arguments arguments("tokenize --model DIR [--special] [--text T | --file F]");
  arguments.options()("model", po::value<std::string>(), "a folder with tokenizer.json")(
      "special", "add what the post-processor adds (BOS)")("text", po::value<std::string>(),
                                                           "the text itself")(
      "file", po::value<std::string>(), "a UTF-8 text; without --text and --file: standard input");
  if (!arguments.parse(words)) return 0;
  if (arguments.has("text") && arguments.has("file"))
    arguments.refuse("--text and --file exclude each other");
  const Tokenizer tokenizer(std::filesystem::path(arguments.get<std::string>("model")) / "tokenizer.json");
  const std::string text = arguments.has("text") ? arguments.get<std::string>("text")
                           : arguments.has("file")
                               ? read_file(arguments.get<std::string>("file"), "text")
                               : std::string(std::istreambuf_iterator<char>(std::cin), {});
  fmt::print("{}\n", Json(tokenizer.encode(text, arguments.has("special"))).dump());
  return 0;
}

const RegisterCommand command{"tokenize", "token ids of a text as JSON", tokenize};

}  // namespace
}  // namespace grinqh
