include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/nixl_connect)

install(DIRECTORY cpp/include/nixl_connect DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS nixl_connect_static nixl_connect_shared EXPORT nixl_connect-targets
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT nixl_connect-targets NAMESPACE nixl_connect:: DESTINATION ${package_dir})

write_basic_package_version_file(nixl_connect-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES
  cmake/nixl_connect-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/nixl_connect-config-version.cmake
  DESTINATION ${package_dir})

# From where the file is found, so that the tree may be moved.
file(RELATIVE_PATH prefix_from_pkgconfig
  ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
list(TRANSFORM CMAKE_DL_LIBS PREPEND -l OUTPUT_VARIABLE dl)
configure_file(cmake/nixl_connect.pc.in nixl_connect.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/nixl_connect.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
