// What everything in an HDF5 file has: an id that closes itself, a name, attributes. Part of store/hdf5.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace grinqh::hdf5 {

// One reference to an id of the library.
class Handle {
 public:
  Handle() = default;
  explicit Handle(int64_t id) : id_(id) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  ~Handle();
  int64_t id() const { return id_; }

 private:
  int64_t id_ = -1;
};

using Attribute = std::variant<std::string, int64_t, double, bool>;

struct FileState;  // the open file, its path and whether it is being written

// What groups and datasets share: a name in the file and attributes.
class Object {
 public:
  const std::string& name() const { return name_; }  // absolute: "/series/token_kl"

  // Text is written in UTF-8 of variable length, bool as the enumeration that h5py uses. A name is set once.
  void set(const std::string& attribute, const Attribute& value);
  bool has(const std::string& attribute) const;
  // Text of fixed length is read too, and every width of integer and float.
  Attribute get(const std::string& attribute) const;
  std::string text(const std::string& attribute) const { return get_as<std::string>(attribute, "text"); }
  int64_t integer(const std::string& attribute) const { return get_as<int64_t>(attribute, "an integer"); }
  double real(const std::string& attribute) const { return get_as<double>(attribute, "a real number"); }
  bool boolean(const std::string& attribute) const { return get_as<bool>(attribute, "a boolean"); }
  std::vector<std::string> attributes() const;  // names, sorted

 protected:
  Object(std::shared_ptr<FileState> file, Handle id, std::string name)
      : file_(std::move(file)), id_(std::move(id)), name_(std::move(name)) {}

  std::shared_ptr<FileState> file_;  // before id_: the file closes after the object
  Handle id_;
  std::string name_;

 private:
  template <class T>
  T get_as(const std::string& attribute, const char* expected) const {
    Attribute value = get(attribute);
    if (T* wanted = std::get_if<T>(&value)) return std::move(*wanted);
    raise_kind(attribute, expected);
  }
  [[noreturn]] void raise_kind(const std::string& attribute, const char* expected) const;
};

}  // namespace grinqh::hdf5
