# The manual page and the completions of bash and zsh, which the program itself prints, and where they go on install.
# A program for another machine runs through CMAKE_CROSSCOMPILING_EMULATOR; without one there is nothing to install.
include(GNUInstallDirs)
if(TARGET neuronmoe AND (NOT CMAKE_CROSSCOMPILING OR CMAKE_CROSSCOMPILING_EMULATOR))
  set(folder ${PROJECT_BINARY_DIR}/generated)
  # Leaks are none of its business, and a sanitized program under a debugger would end with 1 for them.
  set(ask ${CMAKE_COMMAND} -E env ASAN_OPTIONS=detect_leaks=0 ${CMAKE_CROSSCOMPILING_EMULATOR} $<TARGET_FILE:neuronmoe>)
  set(texts ${folder}/neuronmoe.1 ${folder}/neuronmoe.bash ${folder}/_neuronmoe)
  add_custom_command(OUTPUT ${texts}
    COMMAND ${ask} man > ${folder}/neuronmoe.1
    COMMAND ${ask} completions bash > ${folder}/neuronmoe.bash
    COMMAND ${ask} completions zsh > ${folder}/_neuronmoe
    DEPENDS neuronmoe COMMENT "Writing the manual page and completions" VERBATIM)
  add_custom_target(neuronmoe_manual ALL DEPENDS ${texts})
  install(FILES ${folder}/neuronmoe.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
  install(FILES ${folder}/neuronmoe.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME neuronmoe)
  install(FILES ${folder}/_neuronmoe DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
else()
  message(STATUS "Manual page and completions: not made (the program cannot run here)")
endif()
