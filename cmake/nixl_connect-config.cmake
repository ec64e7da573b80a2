# Targets: nixl_connect::static, nixl_connect::shared, and nixl_connect::nixl_connect, which is the
# shared one where BUILD_SHARED_LIBS is on and the static one otherwise. Python's wheel has the
# static one alone.
include(CMakeFindDependencyMacro)
# Of the static library.
find_dependency(Threads)
find_dependency(ZLIB)

include(${CMAKE_CURRENT_LIST_DIR}/nixl_connect-targets.cmake)

if(NOT TARGET nixl_connect::nixl_connect)
  if(BUILD_SHARED_LIBS AND TARGET nixl_connect::shared)
    add_library(nixl_connect::nixl_connect ALIAS nixl_connect::shared)
  else()
    add_library(nixl_connect::nixl_connect ALIAS nixl_connect::static)
  endif()
endif()
