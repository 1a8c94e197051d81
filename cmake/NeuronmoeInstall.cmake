# cmake --install: the program in bin/, everything that is used beside it in share/neuronmoe, laid out like the checkout, so that
# the scripts find each other and the links of the documents hold. tests/integration/install.py runs from such a prefix.
include(GNUInstallDirs)
if(NOT TARGET neuronmoe)
  return()
endif()
install(TARGETS neuronmoe RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
set(share ${CMAKE_INSTALL_DATADIR}/neuronmoe)
# Without sources there is nothing to build or test.
install(DIRECTORY launch DESTINATION ${share} USE_SOURCE_PERMISSIONS
  PATTERN build.sh EXCLUDE PATTERN test.sh EXCLUDE PATTERN __pycache__ EXCLUDE)
install(DIRECTORY slurm configs docs DESTINATION ${share} USE_SOURCE_PERMISSIONS)
install(DIRECTORY tools DESTINATION ${share} USE_SOURCE_PERMISSIONS FILES_MATCHING PATTERN *.py
  PATTERN bench EXCLUDE PATTERN __pycache__ EXCLUDE)
file(GLOB pages CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/*.md)
install(FILES LICENSE CITATION.cff ${pages} DESTINATION ${share})
install(FILES packaging/alps.toml DESTINATION ${share}/packaging)
# The scripts look for the program where a checkout has it.
file(RELATIVE_PATH program ${CMAKE_INSTALL_FULL_DATADIR}/neuronmoe/build/release ${CMAKE_INSTALL_FULL_BINDIR}/neuronmoe)
install(CODE "
  set(root \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${share}\")
  file(MAKE_DIRECTORY \"\${root}/build/release\")
  file(CREATE_LINK \"${program}\" \"\${root}/build/release/neuronmoe\" SYMBOLIC)
  set(NMOE_PREFIX \"\${CMAKE_INSTALL_PREFIX}\")
  set(NMOE_BINDIR \"${CMAKE_INSTALL_BINDIR}\")
  set(NMOE_SHARE \"${share}\")
  configure_file(\"${PROJECT_SOURCE_DIR}/packaging/modulefile.in\" \"\${root}/modulefiles/neuronmoe/${PROJECT_VERSION}\" @ONLY)")
