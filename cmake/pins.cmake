# pins.cmake - which sources are built, and the hashes they must have. ./dev reads this file too: one set() a line.

set(LUA_URL https://www.lua.org/ftp/lua-5.4.9.tar.gz)
set(LUA_SHA256 2335b6c582a52654f94612bf10d2f4672805d05329aa6568b1d8cd9e5c6fb8e6)
# Debian's archive of the sources is the author's, byte for byte.
set(LUA_DEBIAN_FILE lua5.4_5.4.9.orig.tar.gz)
set(LUA_DEBIAN_SHA256 2335b6c582a52654f94612bf10d2f4672805d05329aa6568b1d8cd9e5c6fb8e6)

set(MIMALLOC_URL https://github.com/microsoft/mimalloc/archive/refs/tags/v2.0.9.tar.gz)
set(MIMALLOC_SHA256 4a29edae32a914a706715e2ac8e7e4109e25353212edeed0888f4e3e15db5850)
# Debian's archive lacks bin/, doc/, docs/ and ide/ and is otherwise the same.
set(MIMALLOC_DEBIAN_FILE mimalloc_2.0.9+ds.orig.tar.xz)
set(MIMALLOC_DEBIAN_SHA256 cbc9d207ff105ad1f0cb739c378076143a6452b8d0624309cea0abfb040e972b)

# JSON for scripts, where the system has no package of it. The hash is that of Debian's "orig" archive, as its .dsc has it.
set(DKJSON_URL http://dkolf.de/dkjson-lua/dkjson-2.6.tar.gz)
set(DKJSON_SHA256 bd07ee4eb398aed6cf36f92423845399a5b46c15090990cc90e56d07c46f9773)
set(DKJSON_DEBIAN_FILE lua-dkjson_2.6.orig.tar.gz)
set(DKJSON_DEBIAN_SHA256 bd07ee4eb398aed6cf36f92423845399a5b46c15090990cc90e56d07c46f9773)

# For ./dev bench windows only; never part of the program.
set(LIBUV_URL https://dist.libuv.org/dist/v1.44.2/libuv-v1.44.2.tar.gz)
set(LIBUV_SHA256 ccfcdc968c55673c6526d8270a9c8655a806ea92468afcbcabc2b16040f03cb4)
set(LIBUV_DEBIAN_FILE libuv1_1.44.2.orig.tar.gz)
set(LIBUV_DEBIAN_SHA256 d79b4b06ef04be85fb890bf39d55942cc64c2e15fd14eaa32dae5dce94485484)
