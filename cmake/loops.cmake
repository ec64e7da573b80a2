# Event loops of others, for the examples and benchmarks: `loops::asio` and `loops::uv`, each where
# it is installed.
find_path(ASIO_INCLUDE_DIR asio.hpp)
if(ASIO_INCLUDE_DIR AND NOT TARGET loops::asio)
  add_library(loops::asio INTERFACE IMPORTED)
  target_include_directories(loops::asio INTERFACE ${ASIO_INCLUDE_DIR})
  target_compile_definitions(loops::asio INTERFACE ASIO_STANDALONE)
endif()

find_path(UV_INCLUDE_DIR uv.h)
find_library(UV_LIBRARY uv)
if(UV_INCLUDE_DIR AND UV_LIBRARY AND NOT TARGET loops::uv)
  add_library(loops::uv INTERFACE IMPORTED)
  target_include_directories(loops::uv INTERFACE ${UV_INCLUDE_DIR})
  target_link_libraries(loops::uv INTERFACE ${UV_LIBRARY})
endif()
