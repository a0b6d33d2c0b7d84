add_library(grinqh_settings INTERFACE)
target_include_directories(grinqh_settings INTERFACE
  ${CMAKE_SOURCE_DIR}/framework ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/generated)
target_link_libraries(grinqh_settings INTERFACE ${GRINQH_LIBRARIES})
target_compile_options(grinqh_settings INTERFACE -Wall -Wextra -Wshadow=local -Wnon-virtual-dtor -Wno-restrict -fno-math-errno)
if(GRINQH_WARNINGS_AS_ERRORS)
  target_compile_options(grinqh_settings INTERFACE -Werror)
endif()
if(GRINQH_SANITIZE)
  target_compile_options(grinqh_settings INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_link_options(grinqh_settings INTERFACE -fsanitize=address,undefined)
endif()

# One folder of sources -> one OBJECT library; its *_test.cpp files are collected for the plugin tests.
# Files cuda*.cpp belong to the CUDA module (cmake/GrinqhCuda.cmake).
function(grinqh_add_folder folder)
  file(GLOB sources CONFIGURE_DEPENDS ${folder}/*.cpp)
  file(GLOB folder_tests CONFIGURE_DEPENDS ${folder}/*_test.cpp)
  file(GLOB cuda_sources CONFIGURE_DEPENDS ${folder}/cuda*.cpp)
  if(folder MATCHES "/framework/cuda$")
    set(cuda_sources ${sources})
  endif()
  list(REMOVE_ITEM sources ${folder_tests} ${cuda_sources} ${folder}/main.cpp)
  set_property(GLOBAL APPEND PROPERTY GRINQH_PLUGIN_TESTS ${folder_tests})
  if(EXISTS ${folder}/main.cpp)
    set_property(GLOBAL PROPERTY GRINQH_MAIN ${folder}/main.cpp)
  endif()
  if(NOT sources)
    return()
  endif()
  file(RELATIVE_PATH name ${CMAKE_SOURCE_DIR} ${folder})
  string(REPLACE "/" "_" name ${name})
  add_library(${name} OBJECT ${sources})
  target_link_libraries(${name} PUBLIC grinqh_settings)
  add_dependencies(${name} grinqh_revision)
  set_property(GLOBAL APPEND PROPERTY GRINQH_OBJECTS $<TARGET_OBJECTS:${name}>)
endfunction()

# Links everything that registers itself, plus main() for the program.
function(grinqh_link_all target)
  get_property(objects GLOBAL PROPERTY GRINQH_OBJECTS)
  get_property(main GLOBAL PROPERTY GRINQH_MAIN)
  target_sources(${target} PRIVATE ${objects})
  if(target STREQUAL "grinqh_program")
    target_sources(${target} PRIVATE ${main})
  endif()
  target_link_libraries(${target} PRIVATE grinqh_settings)
endfunction()

# The tree's state, for the provenance of results: rewritten before each build, only when it changed.
set(revision_header ${CMAKE_BINARY_DIR}/generated/revision.h)
add_custom_target(grinqh_revision ALL BYPRODUCTS ${revision_header}
  COMMAND ${CMAKE_COMMAND} -DSOURCE=${CMAKE_SOURCE_DIR} -DOUTPUT=${revision_header}
          -DVERSION=${PROJECT_VERSION} -P ${CMAKE_SOURCE_DIR}/cmake/Revision.cmake)
