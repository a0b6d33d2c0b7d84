# Debian packages only; each is one imported target in GRINQH_LIBRARIES.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(Boost REQUIRED COMPONENTS program_options)
find_package(ICU REQUIRED COMPONENTS uc)
find_package(PkgConfig REQUIRED)
pkg_check_modules(openblas REQUIRED IMPORTED_TARGET openblas)
pkg_check_modules(hdf5 REQUIRED IMPORTED_TARGET hdf5)
pkg_check_modules(tomlplusplus REQUIRED IMPORTED_TARGET tomlplusplus)
pkg_check_modules(hwy REQUIRED IMPORTED_TARGET libhwy)
pkg_check_modules(pcre2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)

set(GRINQH_LIBRARIES
  Threads::Threads fmt::fmt nlohmann_json::nlohmann_json Boost::program_options ICU::uc
  PkgConfig::openblas PkgConfig::hdf5 PkgConfig::tomlplusplus PkgConfig::hwy PkgConfig::pcre2 PkgConfig::xxhash
  ${CMAKE_DL_LIBS})
