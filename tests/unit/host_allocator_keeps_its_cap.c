/* Goal: Lua never gets more than its cap, can always shrink, and what it gave back it can have again. Method:
 * host_allocate() is called as Lua would call it. */
#include "check.h"

#include "host_internal.h"

#include <lua.h>

enum { CAP = 100000 };

static host_config config = {.lua_memory = CAP};
static host h;

static void begin(void)
{
    h = (host){.config = &config};
    h.heap = mem_heap_open();
    check(h.heap != NULL);
    host_reserve(&h, false);
}

static void end(void)
{
    check_eq(h.heap_bytes, 0);
    mem_heap_close(h.heap);
}

static void growth_ends_at_the_cap(void)
{
    begin();
    void *a = host_allocate(&h, NULL, 0, CAP - 1000);
    check(a != NULL);
    check(host_allocate(&h, NULL, 0, 1001) == NULL);
    check(host_allocate(&h, a, CAP - 1000, CAP + 1) == NULL);
    void *b = host_allocate(&h, NULL, 0, 1000);
    check(b != NULL);
    check_eq(h.heap_bytes, CAP);
    check(host_allocate(&h, b, 1000, 1001) == NULL);
    host_allocate(&h, a, CAP - 1000, 0);
    host_allocate(&h, b, 1000, 0);
    check_eq(h.heap_peak, CAP);
    end();
}

static void the_type_of_a_new_object_is_not_a_size(void)
{
    begin();
    void *a = host_allocate(&h, NULL, LUA_TTHREAD, 200);
    check_eq(h.heap_bytes, 200);
    host_allocate(&h, a, 200, 0);
    host_allocate(&h, NULL, LUA_TTABLE, 0);
    end();
}

static void shrinking_always_succeeds(void)
{
    begin();
    void *a = host_allocate(&h, NULL, 0, CAP);
    config.lua_memory = 10; /* far above the cap now */
    host_reserve(&h, false);
    check(host_allocate(&h, NULL, 0, 1) == NULL);
    a = host_allocate(&h, a, CAP, CAP / 2);
    check(a != NULL);
    a = host_allocate(&h, a, CAP / 2, 1);
    check(a != NULL);
    check_eq(h.heap_bytes, 1);
    host_allocate(&h, a, 1, 0);
    config.lua_memory = CAP;
    end();
}

static void the_reserve_comes_and_goes(void)
{
    begin();
    void *a = host_allocate(&h, NULL, 0, CAP);
    check(host_allocate(&h, NULL, 0, 100) == NULL);
    host_reserve(&h, true);
    void *b = host_allocate(&h, NULL, 0, 100);
    check(b != NULL);
    host_reserve(&h, false);
    check(host_allocate(&h, NULL, 0, 1) == NULL);
    host_allocate(&h, a, CAP, 0);
    host_allocate(&h, b, 100, 0);
    end();
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(growth_ends_at_the_cap);
    check_run(the_type_of_a_new_object_is_not_a_size);
    check_run(shrinking_always_succeeds);
    check_run(the_reserve_comes_and_goes);
    return check_end();
}
