/* io_backends_win.c - the backends compiled in on Windows. */
#include "io_backend.h"

const io_backend *const io_backends_all[] = {&io_backend_iocp, NULL};
