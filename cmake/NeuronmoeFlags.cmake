# Compiler flags that every target of ours shares. No -ffast-math anywhere: sums keep their written order.
add_library(nmoe_flags INTERFACE)
target_include_directories(nmoe_flags INTERFACE ${PROJECT_SOURCE_DIR}/include)
target_compile_options(nmoe_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual>
  $<$<COMPILE_LANGUAGE:CXX>:-fno-math-errno>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra -Xptxas=-warn-spills>
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict>  # GCC 12 bug 105651: false alarm on "literal" + std::string
  # A build for any CPU passes vectors of 16 floats; none crosses a translation unit, so no ABI depends on them.
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-psabi>)
if(NMOE_WERROR)
  target_compile_options(nmoe_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>
    $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings -Xcompiler=-Werror>)
endif()
# nvcc's front end cannot evaluate fmt's format strings while compiling; they are checked when they are used.
target_compile_definitions(nmoe_flags INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:FMT_CONSTEVAL=>
  $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)
target_compile_definitions(nmoe_flags INTERFACE OMPI_SKIP_MPICXX=1 MPICH_SKIP_MPICXX=1)
if(NMOE_NATIVE)
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-march=native NMOE_HAS_MARCH_NATIVE)
  if(NMOE_HAS_MARCH_NATIVE)
    target_compile_options(nmoe_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=native>)
  endif()
endif()
if(" ${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_RELEASE} " MATCHES " (-ffast-math|-Ofast|-funsafe-math-optimizations) ")
  message(FATAL_ERROR "${CMAKE_MATCH_1} changes the order of sums and with it every result; leave it out of CMAKE_CXX_FLAGS")
endif()
if(NMOE_SANITIZE)
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()
if(NMOE_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "NMOE_FUZZ needs clang (libFuzzer); use: cmake --preset fuzz")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
