/* io_backends_posix.c - the backends compiled in on Linux, best first. */
#include "io_backend.h"

const io_backend *const io_backends_all[] = {&io_backend_uring, &io_backend_epoll, NULL};
