# hot.cmake - the files that every message passes through are optimised together when the program is linked, across the layers. That
# saves some 8 % of the instructions of an echo and adds two seconds to the link; with all files it would be no less, and a quarter of a
# minute. Only in optimised builds by gcc for Linux. The tests link the same objects one by one: --wrap needs calls that are still calls.

set(PORTICO_HOT OFF)
if(CMAKE_C_COMPILER_ID STREQUAL GNU AND NOT WIN32 AND NOT PORTICO_SANITIZE AND CMAKE_BUILD_TYPE MATCHES "^(Release|RelWithDebInfo)$")
  set(PORTICO_HOT ON)
  foreach(file
      core/conn.c core/conn_input.c core/conn_output.c core/io.c core/io_epoll.c core/io_epoll_stream.c core/io_uring.c core/io_uring_recv.c core/io_uring_send.c
      core/mem.c core/sendq.c core/worker.c
      lua/host_alloc.c lua/host_conn.c lua/host_dispatch.c lua/host_task.c)
    set_property(SOURCE ${PROJECT_SOURCE_DIR}/${file} APPEND PROPERTY COMPILE_OPTIONS -flto -ffat-lto-objects)
  endforeach()
  foreach(file lapi ldo lgc lmem lstring ltable lvm)
    set_property(SOURCE ${lua_SOURCE_DIR}/src/${file}.c APPEND PROPERTY COMPILE_OPTIONS -flto -ffat-lto-objects)
  endforeach()
endif()

# Each instruction of Lua's machine ends with a jump of its own to the next, which processors predict by where it stands. gcc would
# join them all to five.
if(CMAKE_C_COMPILER_ID STREQUAL GNU)
  set_property(SOURCE ${lua_SOURCE_DIR}/src/lvm.c APPEND PROPERTY COMPILE_OPTIONS -fno-crossjumping)
endif()
