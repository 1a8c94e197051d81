# The oldest versions that this program was built and tested with; docs/install.md shows them, tests/tools/test_install.py
# compares. Older ones are not refused, as C++20 or MPI-3.1 may well be complete there, but the configure step says so.
# NMOE_OLDEST_CUDA and NMOE_OLDEST_NCCL are demanded: older ones lack what is called.
set(NMOE_OLDEST_GNU 12.2)
set(NMOE_OLDEST_Clang 14.0)
set(NMOE_OLDEST_OPEN_MPI 4.1.4)
set(NMOE_OLDEST_MPICH 4.0.2)
set(NMOE_OLDEST_HDF5 1.10.8)
set(NMOE_OLDEST_BOOST 1.74.0)
set(NMOE_OLDEST_CUDA 12.4)  # tools/compile_cuda12.sh compiles with it
set(NMOE_OLDEST_NCCL 2.14)  # ncclCommInitRankConfig, ncclCommFinalize

# nmoe_say_if_older(WHAT VERSION OLDEST): one line of the configure step, if VERSION is known.
function(nmoe_say_if_older what version oldest)
  if(version AND version VERSION_LESS oldest)
    message(STATUS "${what} ${version} is older than any that neuronmoe was tried with (${oldest})")
  endif()
endfunction()

if(DEFINED NMOE_OLDEST_${CMAKE_CXX_COMPILER_ID})
  nmoe_say_if_older("${CMAKE_CXX_COMPILER_ID}" "${CMAKE_CXX_COMPILER_VERSION}" "${NMOE_OLDEST_${CMAKE_CXX_COMPILER_ID}}")
endif()
