# The CUDA backend: one module beside the program, loaded when a device asks for it, so that the program itself
# needs no CUDA library. Its sources are framework/cuda and the files cuda*.cpp and cuda*.cu of the layouts.
option(GRINQH_CUDA "Build the CUDA backend where nvcc is found" ON)
set(GRINQH_CUDA_ARCHITECTURES "80-real;89-real;90a-real;90-virtual" CACHE STRING
    "GPUs that code is made for, and PTX for later ones; 90a has the warpgroup products of attention")

set(GRINQH_HAS_CUDA OFF)
if(GRINQH_CUDA)
  find_program(GRINQH_NVCC nvcc HINTS ENV CUDA_PATH PATHS /usr/local/cuda/bin)
  if(GRINQH_NVCC)
    set(CMAKE_CUDA_COMPILER ${GRINQH_NVCC})
    set(CMAKE_CUDA_ARCHITECTURES ${GRINQH_CUDA_ARCHITECTURES})
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has C++20
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
    endif()
    find_package(CUDAToolkit REQUIRED)
    set(GRINQH_CUDA_LIBRARIES CUDA::cudart_static CUDA::cublas CUDA::cublasLt CUDA::cusolver)
    set(GRINQH_HAS_CUDA ON)
  else()
    message(STATUS "no nvcc: building for the CPU alone")
  endif()
endif()

# Device code sees raw pointers and shapes only, so it gets the include paths but not the libraries.
function(grinqh_add_cuda_module)
  if(NOT GRINQH_HAS_CUDA)
    return()
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/framework/cuda/*.cpp ${CMAKE_SOURCE_DIR}/framework/cuda/*.cu
       ${CMAKE_SOURCE_DIR}/kernels/*/cuda*.cpp ${CMAKE_SOURCE_DIR}/kernels/*/cuda*.cu)
  list(FILTER sources EXCLUDE REGEX "_test\\.cpp$")
  add_library(grinqh_cuda_objects OBJECT ${sources})
  set_target_properties(grinqh_cuda_objects PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_include_directories(grinqh_cuda_objects PRIVATE ${CMAKE_SOURCE_DIR}/framework ${CMAKE_SOURCE_DIR}
    $<TARGET_PROPERTY:grinqh_settings,INTERFACE_INCLUDE_DIRECTORIES>)
  target_link_libraries(grinqh_cuda_objects PUBLIC ${GRINQH_CUDA_LIBRARIES})
  target_compile_options(grinqh_cuda_objects PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:$<TARGET_PROPERTY:grinqh_settings,INTERFACE_COMPILE_OPTIONS>>
    $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr -lineinfo -Xcompiler=-Wall,-Wextra>)
  if(GRINQH_WARNINGS_AS_ERRORS)
    target_compile_options(grinqh_cuda_objects PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
  endif()
  add_dependencies(grinqh_cuda_objects grinqh_revision)
  add_library(grinqh_cuda MODULE $<TARGET_OBJECTS:grinqh_cuda_objects>)
  set_target_properties(grinqh_cuda PROPERTIES LINKER_LANGUAGE CXX)
  target_link_libraries(grinqh_cuda PRIVATE ${GRINQH_CUDA_LIBRARIES})
  add_dependencies(grinqh_program grinqh_cuda)
endfunction()
