/* not_now.c - linked beside a test: from the first moment one call in eight on its ports' sockets says "not now". */
#include "inject.h"

#include "check.h"
#include "os.h"

#include <stdlib.h>

__attribute__((constructor)) static void begin(void)
{
    const char *given = getenv("INJECT_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 10) : (uint64_t)os_monotonic_ns();
    printf("# INJECT_SEED=%llu\n", (unsigned long long)seed);
    inject_not_now(8, seed);
}

__attribute__((destructor)) static void end(void)
{
    printf("# %u calls have failed\n", (unsigned)inject_count());
}
