include(CMakePackageConfigHelpers)
# In a wheel, all is in the package's folder.
if(SKBUILD)
  set(CMAKE_INSTALL_INCLUDEDIR nixl_connect/include)
  set(CMAKE_INSTALL_LIBDIR nixl_connect/lib)
endif()
include(GNUInstallDirs)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/nixl_connect)

install(DIRECTORY cpp/include/nixl_connect DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
list(TRANSFORM installed_types PREPEND nixl_connect_ OUTPUT_VARIABLE installed_targets)
install(TARGETS ${installed_targets} EXPORT nixl_connect-targets
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT nixl_connect-targets NAMESPACE nixl_connect:: DESTINATION ${package_dir})

write_basic_package_version_file(nixl_connect-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES
  cmake/nixl_connect-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/nixl_connect-config-version.cmake
  DESTINATION ${package_dir})

if(SKBUILD)
  return()
endif()
# From where the file is found, so that the tree may be moved.
file(RELATIVE_PATH prefix_from_pkgconfig
  ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
list(TRANSFORM CMAKE_DL_LIBS PREPEND -l OUTPUT_VARIABLE dl)
configure_file(cmake/nixl_connect.pc.in nixl_connect.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/nixl_connect.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
