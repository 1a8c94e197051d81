# Writes OUTPUT, a header with the version of the program and the git revision it was built from, when that changed:
#   cmake -DVERSION=0.1.0 -DSOURCE=... -DOUTPUT=... -P WriteRevision.cmake
# Run by every build, so that a binary names the commit it was made of. Without git (a tarball) the version stands alone.
cmake_minimum_required(VERSION 3.21)
set(text "${VERSION}")
find_program(GIT git)
if(GIT)
  execute_process(COMMAND ${GIT} describe --always --dirty --abbrev=9 --exclude=* WORKING_DIRECTORY ${SOURCE}
    OUTPUT_VARIABLE revision OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE code)
  if(code EQUAL 0)
    string(APPEND text "+${revision}")
  endif()
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#pragma once\n#define NMOE_VERSION \"@text@\"\n" @ONLY)  # writes only what is new
