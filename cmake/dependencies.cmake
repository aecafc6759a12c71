# dependencies.cmake - Lua and mimalloc from pinned, hash-checked sources, built here and linked statically; liburing,
# the threads and dkjson, a file of Lua, from the system.
#
# A source archive is taken from PORTICO_SOURCES when it lies there (./dev puts it there, from the machine's package
# mirror), else from its author. FETCHCONTENT_SOURCE_DIR_LUA, _MIMALLOC and _DKJSON name unpacked
# sources to use instead.

include(FetchContent)
set(PORTICO_SOURCES ${PROJECT_SOURCE_DIR}/build/sources CACHE PATH "Where source archives may lie ready")

include(cmake/pins.cmake)

if(NOT WIN32)
  set(THREADS_PREFER_PTHREAD_FLAG ON)
  find_package(Threads REQUIRED)
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(LIBURING REQUIRED IMPORTED_TARGET liburing>=2.3)
endif()

# portico_fetch(NAME): unpacks the sources of a dependency and sets NAME_SOURCE_DIR. Their own build files are not
# used: SOURCE_SUBDIR names a directory that is not there.
function(portico_fetch name)
  string(TOUPPER ${name} upper)
  set(url ${${upper}_URL})
  set(sha256 ${${upper}_SHA256})
  cmake_path(GET url FILENAME file)
  if(EXISTS ${PORTICO_SOURCES}/${${upper}_DEBIAN_FILE})
    set(url ${PORTICO_SOURCES}/${${upper}_DEBIAN_FILE})
    set(sha256 ${${upper}_DEBIAN_SHA256})
  elseif(EXISTS ${PORTICO_SOURCES}/${file})
    set(url ${PORTICO_SOURCES}/${file})
  endif()
  FetchContent_Declare(${name}
    URL ${url}
    URL_HASH SHA256=${sha256}
    DOWNLOAD_EXTRACT_TIMESTAMP ON
    SOURCE_SUBDIR without-its-own-build)
  FetchContent_MakeAvailable(${name})
  set(${name}_SOURCE_DIR ${${name}_SOURCE_DIR} PARENT_SCOPE)
endfunction()

# ---- Lua ----
portico_fetch(lua)
set(lua_files
  lapi lauxlib lbaselib lcode lcorolib lctype ldblib ldebug ldo ldump lfunc lgc linit liolib llex lmathlib lmem loadlib
  lobject lopcodes loslib lparser lstate lstring lstrlib ltable ltablib ltm lundump lutf8lib lvm lzio)
list(TRANSFORM lua_files PREPEND ${lua_SOURCE_DIR}/src/)
list(TRANSFORM lua_files APPEND .c)
add_library(lua54 STATIC ${lua_files} ${PROJECT_SOURCE_DIR}/lua/lua_steps.c ${PROJECT_SOURCE_DIR}/lua/lua_pauses.c)
target_include_directories(lua54 SYSTEM PUBLIC ${lua_SOURCE_DIR}/src)
target_compile_options(lua54 PRIVATE -w PUBLIC "SHELL:-include ${PROJECT_SOURCE_DIR}/lua/lua_stack.h")
if(WIN32)
  target_compile_options(lua54 PRIVATE "SHELL:-include ${PROJECT_SOURCE_DIR}/cmake/lua_windows.h")
else()
  target_compile_definitions(lua54 PRIVATE LUA_USE_POSIX)
  target_link_libraries(lua54 PUBLIC m)
endif()
# Long calls of the libraries can be ended: lua/lua_steps.h.
function(portico_steps kind)
  list(TRANSFORM ARGN REPLACE "(.+)" "${lua_SOURCE_DIR}/src/\\1.c" OUTPUT_VARIABLE files)
  set_property(SOURCE ${files} APPEND PROPERTY COMPILE_OPTIONS -include ${PROJECT_SOURCE_DIR}/lua/lua_steps.h)
  set_property(SOURCE ${files} APPEND PROPERTY COMPILE_DEFINITIONS LUA_STEPS_${kind})
endfunction()
portico_steps(LOOPS lbaselib loslib lstrlib ltablib lutf8lib)
portico_steps(OBJECT lobject)
portico_steps(AUXLIB lauxlib)
portico_steps(VM lvm)
portico_steps(IO liolib)
# The collector's steps are told of: lua/lua_pauses.h.
set_property(SOURCE ${lua_SOURCE_DIR}/src/lgc.c APPEND PROPERTY COMPILE_OPTIONS -include ${PROJECT_SOURCE_DIR}/lua/lua_pauses.h)
set_property(SOURCE ${lua_SOURCE_DIR}/src/lgc.c APPEND PROPERTY COMPILE_DEFINITIONS LUA_PAUSES_COLLECTOR)
set_property(SOURCE ${lua_SOURCE_DIR}/src/lauxlib.c APPEND PROPERTY
  COMPILE_OPTIONS -include ${PROJECT_SOURCE_DIR}/lua/lua_collect.h)
set_property(SOURCE ${lua_SOURCE_DIR}/src/lauxlib.c APPEND PROPERTY COMPILE_DEFINITIONS LUA_STACK_AUXLIB)
# The definitions reach whoever includes lua.h, since some of the checks are in its macros.
if(PORTICO_LUA_CHECKS)
  target_compile_definitions(lua54 PUBLIC LUAI_ASSERT LUA_USE_APICHECK)
endif()

# ---- mimalloc ----
# All of it is one source file. The system's package is not used: Debian's is only a shared library that takes the
# place of malloc in the whole process, and Portico calls mimalloc by name.
if(PORTICO_MIMALLOC)
  portico_fetch(mimalloc)
  add_library(mimalloc STATIC ${mimalloc_SOURCE_DIR}/src/static.c)
  target_include_directories(mimalloc SYSTEM PUBLIC ${mimalloc_SOURCE_DIR}/include)
  target_compile_definitions(mimalloc PRIVATE MI_STATIC_LIB NDEBUG)
  target_compile_options(mimalloc PRIVATE -w -O2 -fvisibility=hidden -ftls-model=initial-exec)
  if(WIN32)
    target_link_libraries(mimalloc PUBLIC psapi shell32 user32 advapi32 bcrypt)
  else()
    target_link_libraries(mimalloc PUBLIC Threads::Threads)
  endif()
endif()

# ---- dkjson ----
# One file of Lua, embedded as portico/dkjson.lua: from Debian's package lua-dkjson, which is the same for all systems, else
# from its author.
find_file(DKJSON_FILE dkjson.lua PATHS /usr/share/lua/5.4 NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
if(NOT DKJSON_FILE)
  portico_fetch(dkjson)
  set(DKJSON_FILE ${dkjson_SOURCE_DIR}/dkjson.lua)
endif()
