/* world.c - the seed's streams, the clock and the plan. */
#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS_MAX = 1000000, ARENA_BYTES = 1 << 16, RATE_UNIT = 1000000 };

sim_world world;
sim_verdict *sim_verdict_shared;

typedef struct planned {
    int64_t at_ns;
    uint64_t tie;   /* random */
    uint64_t order; /* in which it was planned: the last word */
    sim_happening *run;
    void *context;
} planned;

typedef struct arena_block {
    struct arena_block *next;
    _Alignas(max_align_t) unsigned char bytes[];
} arena_block;

static struct {
    uint64_t streams[SIM_STREAMS];
    planned *heap;
    size_t count;
    size_t room;
    uint64_t order;
    arena_block *arena;
    size_t arena_left;
    void **grown; /* blocks of sim_grow() */
    size_t grown_count;
    size_t grown_room;
} own;

/* ---- Draws ---- */

static uint64_t next_of(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15)); /* splitmix64 */
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static struct {
    const uint8_t *bytes;
    size_t count;
} decided;

void sim_decide(const uint8_t *bytes, size_t count)
{
    decided.bytes = bytes;
    decided.count = count;
}

uint64_t sim_random(sim_stream stream)
{
    uint64_t drawn = next_of(&own.streams[stream]);
    if (decided.count == 0) return drawn;
    decided.count--;
    uint8_t decision = *decided.bytes++;
    return decision < SIM_UNDECIDED ? drawn : decision - (uint64_t)SIM_UNDECIDED;
}

uint64_t sim_below(sim_stream stream, uint64_t bound)
{
    return sim_random(stream) % bound;
}

int64_t sim_between(sim_stream stream, int64_t low, int64_t high)
{
    if (high <= low) return low;
    /* An order of magnitude first, then a number within it. */
    int orders = 0;
    for (int64_t reach = low; reach < high / 2; reach *= 2) orders++;
    int64_t from = low << sim_below(stream, (uint64_t)orders + 1);
    int64_t to = from > high / 2 ? high : from * 2;
    return from + (int64_t)sim_below(stream, (uint64_t)(to - from) + 1);
}

bool sim_percent(sim_stream stream, uint32_t percent)
{
    return sim_below(stream, 100) < percent;
}

bool sim_fault_drawn(sim_fault fault)
{
    uint32_t rate = world.rates[fault];
    if (rate == 0) return false;
    if (sim_below(SIM_FAULTS, RATE_UNIT) >= rate) return false;
    sim_note("fault", fault, 0, 0);
    return true;
}

void sim_calm(void)
{
    memset(world.rates, 0, sizeof(world.rates));
    world.calm = true;
    sim_note("calm", 0, 0, 0);
}

/* ---- Opening and closing ---- */

/* The highest rates that are drawn, in a million: what ends connections is rarer than what only delays. */
static const uint32_t rate_max[SIM_FAULTS_COUNT] = {
    [SIM_SUBMIT_LIMIT] = 5000,
    [SIM_ATTACH_LIMIT] = 50000,
    [SIM_SOCKET_LIMIT] = 30000,
    [SIM_ACCEPT_GONE] = 100000,
    [SIM_PARTIAL_RECEIVE] = 700000,
    [SIM_PARTIAL_SEND] = 700000,
    [SIM_SPURIOUS] = 300000,
    [SIM_RESET] = 5000,
    [SIM_RACE] = 900000,
    [SIM_STARVE] = 200000,
    [SIM_CLOG] = 10000,
    [SIM_SLOW] = 20000,
    [SIM_NAME_LOST] = 300000,
    [SIM_NO_MEMORY] = 3000,
};

void sim_open(uint64_t seed, sim_profile profile, bool tracing)
{
    memset(&own, 0, sizeof(own));
    world = (sim_world){.seed = seed, .profile = profile, .tracing = tracing, .hash = UINT64_C(0xcbf29ce484222325)};
    uint64_t state = seed * SIM_PROFILES + (uint64_t)profile;
    for (int i = 0; i < SIM_STREAMS; i++) own.streams[i] = next_of(&state);
    world.now_ns = sim_between(SIM_SETUP, 1, INT64_C(1) << 50);
    for (int i = 0; i < SIM_FAULTS_COUNT; i++) {
        bool is_off = sim_below(SIM_SETUP, 3) == 0;
        int64_t rate = sim_between(SIM_SETUP, rate_max[i] / 100, rate_max[i]);
        world.rates[i] = is_off ? 0 : (uint32_t)rate;
    }
    world.reset_drops = profile == SIM_IOCP;
    world.latency_ns = sim_between(SIM_SETUP, 10000, 50 * SIM_MS);
    world.window = (size_t)sim_between(SIM_SETUP, 64, 128 << 10);
    world.descriptors = sim_percent(SIM_SETUP, 25) ? 8 + (uint32_t)sim_below(SIM_SETUP, 40) : 512;
    world.recv_buffers = (uint32_t)sim_between(SIM_SETUP, 1, 64);
}

void sim_close(void)
{
    while (own.arena != NULL) {
        arena_block *block = own.arena;
        own.arena = block->next;
        free(block);
    }
    for (size_t i = 0; i < own.grown_count; i++) free(own.grown[i]);
    free(own.grown);
    free(own.heap);
    memset(&own, 0, sizeof(own));
}

static _Noreturn void out_of_memory(void)
{
    fputs("sim: the machine is out of memory\n", stderr);
    abort();
}

void *sim_alloc(size_t bytes)
{
    bytes = (bytes + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    if (own.arena == NULL || bytes > own.arena_left) {
        size_t size = bytes > ARENA_BYTES ? bytes : ARENA_BYTES;
        arena_block *block = calloc(1, sizeof(*block) + size);
        if (block == NULL) out_of_memory();
        block->next = own.arena;
        own.arena = block;
        own.arena_left = size;
    }
    own.arena_left -= bytes;
    return own.arena->bytes + own.arena_left;
}

void *sim_grow(void *block, size_t bytes)
{
    size_t at = 0;
    while (at < own.grown_count && own.grown[at] != block) at++;
    if (block == NULL || at == own.grown_count) {
        if (own.grown_count == own.grown_room) {
            own.grown_room = own.grown_room == 0 ? 64 : own.grown_room * 2;
            own.grown = realloc(own.grown, own.grown_room * sizeof(*own.grown));
            if (own.grown == NULL) out_of_memory();
        }
        at = own.grown_count++;
        block = NULL;
    }
    own.grown[at] = realloc(block, bytes);
    if (own.grown[at] == NULL) out_of_memory();
    return own.grown[at];
}

/* ---- The plan ---- */

static bool is_before(const planned *a, const planned *b)
{
    if (a->at_ns != b->at_ns) return a->at_ns < b->at_ns;
    return a->tie != b->tie ? a->tie < b->tie : a->order < b->order;
}

void sim_plan(int64_t at_ns, sim_happening *run, void *context)
{
    if (own.count == own.room) {
        own.room = own.room == 0 ? 256 : own.room * 2;
        own.heap = realloc(own.heap, own.room * sizeof(*own.heap));
        if (own.heap == NULL) out_of_memory();
    }
    planned new = {
        .at_ns = at_ns > world.now_ns ? at_ns : world.now_ns,
        .tie = sim_random(SIM_SCHEDULING),
        .order = own.order++,
        .run = run,
        .context = context,
    };
    size_t at = own.count++;
    while (at > 0 && is_before(&new, &own.heap[(at - 1) / 2])) {
        own.heap[at] = own.heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    own.heap[at] = new;
}

static planned take_first(void)
{
    planned first = own.heap[0];
    planned last = own.heap[--own.count];
    size_t at = 0;
    for (size_t child = 1; child < own.count; child = 2 * at + 1) {
        if (child + 1 < own.count && is_before(&own.heap[child + 1], &own.heap[child])) child++;
        if (!is_before(&own.heap[child], &last)) break;
        own.heap[at] = own.heap[child];
        at = child;
    }
    own.heap[at] = last;
    return first;
}

int64_t sim_planned(void)
{
    return own.count == 0 ? SIM_FOREVER : own.heap[0].at_ns;
}

void sim_advance(int64_t to_ns)
{
    while (own.count > 0 && own.heap[0].at_ns <= to_ns) {
        planned first = take_first();
        if (first.at_ns > world.now_ns) world.now_ns = first.at_ns;
        first.run(first.context);
    }
    if (to_ns > world.now_ns) world.now_ns = to_ns;
}

/* ---- Records ---- */

static void hash_bytes(const void *bytes, size_t len)
{
    const unsigned char *next = bytes;
    for (size_t i = 0; i < len; i++) world.hash = (world.hash ^ next[i]) * UINT64_C(0x100000001b3); /* FNV-1a */
}

void sim_note(const char *what, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t numbers[] = {(uint64_t)world.now_ns, a, b, c};
    hash_bytes(what, strlen(what));
    for (size_t i = 0; i < array_count(numbers); i++) { /* one step each: this is where the time goes */
        world.hash = (world.hash ^ numbers[i]) * UINT64_C(0x9e3779b97f4a7c15);
        world.hash ^= world.hash >> 29;
    }
    if (!world.tracing) return;
    printf("%lld %s %llu %llu %llu\n", (long long)world.now_ns, what, (unsigned long long)a, (unsigned long long)b,
           (unsigned long long)c);
}

void sim_note_text(const char *text, size_t len)
{
    hash_bytes(text, len);
    if (world.tracing) printf("%lld log %.*s", (long long)world.now_ns, (int)len, text);
}

void sim_step(void)
{
    world.steps++;
    if (sim_verdict_shared != NULL) sim_verdict_shared->steps++;
    sim_check("liveness", world.steps < STEPS_MAX, "no end after %d steps", STEPS_MAX);
}

void sim_fail(const char *oracle, const char *format, ...)
{
    char text[SIM_VERDICT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    if (world.tracing) printf("%lld FAIL %s: %s\n", (long long)world.now_ns, oracle, text);
    fflush(stdout);
    if (sim_verdict_shared != NULL) {
        (void)snprintf(sim_verdict_shared->oracle, sizeof(sim_verdict_shared->oracle), "%s", oracle);
        (void)snprintf(sim_verdict_shared->text, sizeof(sim_verdict_shared->text), "%s", text);
    }
    _Exit(1);
}
