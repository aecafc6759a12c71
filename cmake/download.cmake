# download.cmake - gets one file and keeps it only if its hash is right; for ./dev, which has no other downloader.
#   cmake -DURL=https://… -DFILE=path -DSHA256=… -P download.cmake

file(DOWNLOAD ${URL} ${FILE}.part INACTIVITY_TIMEOUT 30 STATUS status)
list(GET status 0 code)
if(NOT code EQUAL 0)
  list(GET status 1 text)
  file(REMOVE ${FILE}.part)
  message(FATAL_ERROR "Cannot get ${URL}: ${text}")
endif()
file(SHA256 ${FILE}.part hash)
if(NOT hash STREQUAL SHA256)
  file(REMOVE ${FILE}.part)
  message(FATAL_ERROR "${URL} is not what it should be: its SHA-256 is ${hash} and not ${SHA256}")
endif()
file(RENAME ${FILE}.part ${FILE})
