/* mem_sim.c - memory that runs out: the linker leads the allocations of the program and of its Lua states through here. */
#include "mem_sim.h"

#include "sim.h"
#include "wraps.h"

static struct {
    sim_want want;
    uint64_t at;
    uint64_t count; /* allocations so far */
} memory;

void sim_memory_open(sim_want want, uint64_t at)
{
    memory.want = want;
    memory.at = at;
    memory.count = 0;
}

void sim_memory_relief(void)
{
    memory.want = SIM_WANT_NONE;
}

uint64_t sim_memory_count(void)
{
    return memory.count;
}

static bool runs_out(void)
{
    uint64_t n = ++memory.count;
    switch (memory.want) {
    case SIM_WANT_ONCE:
        return n == memory.at;
    case SIM_WANT_TWICE: /* Lua collects its garbage and tries again: lmem.c, tryagain() */
        return n == memory.at || n == memory.at + 1;
    case SIM_WANT_FROM_THEN_ON:
        return n >= memory.at;
    case SIM_WANT_RANDOM:
        return sim_fault_drawn(SIM_NO_MEMORY);
    case SIM_WANT_NONE:
        break;
    }
    return false;
}

void *__wrap_mem_alloc(size_t bytes)
{
    return runs_out() ? NULL : __real_mem_alloc(bytes);
}

void *__wrap_mem_zalloc(size_t bytes)
{
    return runs_out() ? NULL : __real_mem_zalloc(bytes);
}

void *__wrap_mem_realloc(void *block, size_t bytes)
{
    return runs_out() ? NULL : __real_mem_realloc(block, bytes);
}

char *__wrap_mem_strdup(const char *text)
{
    return runs_out() ? NULL : __real_mem_strdup(text);
}

mem_heap *__wrap_mem_heap_open(void)
{
    return runs_out() ? NULL : __real_mem_heap_open();
}

void *__wrap_mem_heap_realloc(mem_heap *heap, void *block, size_t old_bytes, size_t bytes)
{
    return runs_out() ? NULL : __real_mem_heap_realloc(heap, block, old_bytes, bytes);
}
