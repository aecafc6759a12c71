# targets.cmake - how Portico's own code is compiled: language, warnings, definitions, sanitizers. Third-party code
# gets the sanitizers only.

set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(portico_flags INTERFACE)
# -iquote and not -I: MinGW has an <io.h> of its own, which its other headers include.
target_compile_options(portico_flags INTERFACE
  "SHELL:-iquote ${PROJECT_SOURCE_DIR}/core" "SHELL:-iquote ${PROJECT_SOURCE_DIR}/lua"
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wstrict-prototypes -Wmissing-prototypes
  -Wundef -Wvla -Wformat=2 $<$<BOOL:${PORTICO_WERROR}>:-Werror>)
# What only an assertion looks at is unused where assertions are off; the builds with assertions keep these warnings.
target_compile_options(portico_flags INTERFACE
  "$<$<CONFIG:Release,RelWithDebInfo,MinSizeRel>:-Wno-unused-parameter;-Wno-unused-variable;-Wno-unused-but-set-variable;-Wno-unused-function>")
# What libFuzzer is led by; not for third-party code.
if(PORTICO_FUZZ)
  target_compile_options(portico_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(WIN32)
  # 0x0A00 is Windows 10. With __USE_MINGW_ANSI_STDIO printf is that of the C standard, not that of the old runtime.
  target_compile_definitions(portico_flags INTERFACE
    _WIN32_WINNT=0x0A00 WIN32_LEAN_AND_MEAN UNICODE _UNICODE __USE_MINGW_ANSI_STDIO=1)
  add_link_options(-static)
else()
  target_compile_definitions(portico_flags INTERFACE _GNU_SOURCE)
endif()

if(PORTICO_SANITIZE AND WIN32)
  # MinGW has no run-time part that would report: what is undefined is an illegal instruction.
  add_compile_options(-fsanitize=${PORTICO_SANITIZE} -fsanitize-undefined-trap-on-error -fno-omit-frame-pointer)
elseif(PORTICO_SANITIZE)
  add_compile_options(-fsanitize=${PORTICO_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${PORTICO_SANITIZE})
endif()

# portico_library(NAME SOURCE...): a static library. Files are named from the top of the tree.
function(portico_library name)
  set(sources "")
  foreach(source ${ARGN})
    cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY ${PROJECT_SOURCE_DIR})
    list(APPEND sources ${source})
  endforeach()
  add_library(${name} STATIC ${sources})
  target_link_libraries(${name} PRIVATE portico_flags)
endfunction()

# portico_executable(NAME SOURCE...)
function(portico_executable name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE portico_flags)
  if(PORTICO_HOT)
    target_link_options(${name} PRIVATE $<IF:$<BOOL:$<TARGET_PROPERTY:PORTICO_TOGETHER>>,-flto=auto,-fno-lto>)
  endif()
endfunction()

# portico_embed(OUTPUT FILE...): turns files into the C table that lua/embedded.h declares. A file is known by its
# path below scripts/ or lua/; one from elsewhere is given as NAME=FILE.
function(portico_embed output)
  set(files "")
  set(depends "")
  foreach(file ${ARGN})
    if(file MATCHES "^(.+)=(.+)$")
      list(APPEND files "${file}")
      list(APPEND depends "${CMAKE_MATCH_2}")
    else()
      string(REGEX REPLACE "^(scripts|lua)/" "" name ${file})
      list(APPEND files "${name}=${PROJECT_SOURCE_DIR}/${file}")
      list(APPEND depends "${PROJECT_SOURCE_DIR}/${file}")
    endif()
  endforeach()
  list(JOIN files "|" joined)
  add_custom_command(
    OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/${output}
    COMMAND ${CMAKE_COMMAND} "-DFILES=${joined}" -DOUTPUT=${CMAKE_CURRENT_BINARY_DIR}/${output}
            -P ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
    DEPENDS ${depends} ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
    COMMENT "Embedding Lua sources"
    VERBATIM)
endfunction()
