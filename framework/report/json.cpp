// A JSON list of objects: the contract's columns in every one (null where absent), then the row's extra ones.
#include "report/report.h"
#include "store/columns.h"

namespace grinqh {

namespace {

// Numbers that are not finite become null when they are written: JSON has none.
Json to_json(const Value& value) {
  return std::visit(
      [](const auto& held) -> Json {
        if constexpr (std::is_same_v<std::decay_t<decltype(held)>, std::monostate>)
          return nullptr;
        else
          return held;
      },
      value);
}

class JsonFormat : public ReportFormat {
 public:
  explicit JsonFormat(const Options&) {}
  std::string format(const Table& table) const override {
    Json list = Json::array();
    for (const Row& row : table.rows) {
      Json object = Json::object();
      for (const Column& column : kRowColumns)
        object[std::string(column.name)] =
            column.name == "options" ? row.options() : to_json(row.at(column.name));
      for (const auto& [name, value] : row.values())
        if (find_column(name) == nullptr) object[name] = to_json(value);
      list.push_back(std::move(object));
    }
    // Text that is not UTF-8 (a path may be any bytes) is mended rather than refused.
    return list.dump(2, ' ', false, Json::error_handler_t::replace) + '\n';
  }
};

const Register<ReportFormat, JsonFormat> plugin{"json", "a list of objects with all columns, for programs"};

}  // namespace

}  // namespace grinqh
