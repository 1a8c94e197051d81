# Cross build for 64-bit Arm (GH200) with Debian's g++-aarch64-linux-gnu. The arm64 packages of the dependencies are
# unpacked by tools/cross_aarch64.sh; their install scripts never ran, so links through /etc/alternatives are missing
# and MPI and HDF5 are named here instead of searched for.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES NMOE_AARCH64_SYSROOT)
set(NMOE_AARCH64_SYSROOT ${CMAKE_CURRENT_LIST_DIR}/../build/aarch64-sysroot CACHE PATH "Unpacked arm64 packages")
get_filename_component(sysroot ${NMOE_AARCH64_SYSROOT} ABSOLUTE)
set(CMAKE_SYSROOT ${sysroot})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)

set(libdir ${sysroot}/usr/lib/aarch64-linux-gnu)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${sysroot})
set(ENV{PKG_CONFIG_LIBDIR} ${libdir}/pkgconfig:${sysroot}/usr/share/pkgconfig)

set(MPI_C_COMPILER "" CACHE STRING "")
set(MPI_C_HEADER_DIR ${libdir}/openmpi/include CACHE PATH "")
set(MPI_C_LIB_NAMES mpi CACHE STRING "")
set(MPI_mpi_LIBRARY ${libdir}/openmpi/lib/libmpi.so CACHE FILEPATH "")
set(HDF5_C_COMPILER_EXECUTABLE "" CACHE FILEPATH "")
set(HDF5_C_INCLUDE_DIR ${sysroot}/usr/include/hdf5/openmpi CACHE PATH "")
set(HDF5_hdf5_LIBRARY_RELEASE ${libdir}/hdf5/openmpi/libhdf5.so CACHE FILEPATH "")
set(HDF5_hdf5_LIBRARY_DEBUG ${libdir}/hdf5/openmpi/libhdf5.so CACHE FILEPATH "")

# Libraries of libraries (hwloc, blas...), also those that only an alternatives link would show.
set(link_flags "")
foreach(dir ${libdir} ${libdir}/openmpi/lib ${libdir}/hdf5/openmpi ${libdir}/blas ${libdir}/lapack)
  list(APPEND link_flags -Wl,-rpath-link,${dir})
endforeach()
list(JOIN link_flags " " CMAKE_EXE_LINKER_FLAGS_INIT)  # set, not appended: this file is read several times

find_program(NMOE_QEMU qemu-aarch64-static)
if(NMOE_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${NMOE_QEMU} -L ${sysroot})
endif()
