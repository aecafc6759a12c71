/* host_budget.c - ends handlers that run for too long, at no cost to the others.
 *
 * A slice costs two stores of a sequence number: odd while it runs. One thread of the process, the watchdog, looks at
 * the numbers now and then, ten times a budget, and sleeps while nothing runs. A slice that it sees for longer than the budget, and that has used so much processor time,
 * is overdue: the watchdog interrupts the worker and arms a count hook, which ends the coroutine that runs at its next
 * instruction. And at each one after that, for as long as the slice lasts: a loop of pcalls ends too.
 *
 * The hook is armed on one coroutine. Those further out get it when control comes back to them (host_budget_carry()); a
 * coroutine that was entered in between is found by the watchdog at its next look. One that keeps a hook from an
 * earlier slice takes it off itself.
 *
 * Where it can, the hook does not raise but yields: no pcall of the script's catches that, and hooks stay switched on.
 * The coroutine is then closed from outside. An error that leaves a coroutine from inside a hook leaves its hooks off
 * for good (allowhook in ldo.c), and a deep recursion whose calls all catch their errors takes time that grows with
 * the square of its depth to unwind (luaD_shrinkstack). Where a C function is in between, such as table.sort, the hook
 * raises, and the lua_pcallk() at the base of a handler's coroutine switches hooks on again.
 *
 * No hook runs inside a C function, where string.find with a bad pattern can take minutes. So long loops of Lua's libraries, and
 * of the host's own functions, ask at each step whether something is due: while any worker is overdue, end_call() is, and it
 * raises in that worker (lua_steps.h).
 *
 * None runs in a finaliser either, which is why --sandbox std refuses __gc; and some calls have no steps. There the watchdog can
 * only say so.
 *
 * A slice that has caught a lack of memory once, and runs into it again, is ended in the same way: a loop of pcalls around
 * something that needs too much memory would use up its whole budget, collection after collection.
 */
#include "host_internal.h"

#include "log.h"
#include "lua_pauses.h"
#include "lua_steps.h"
#include "os.h"

#include <inttypes.h>
#include <stdio.h>

enum {
    TICK_NS_MIN = 2000000, /* also between two interrupts of a slice that is overdue */
    TICK_NS_MAX = 20000000,
    TICKS_PER_BUDGET = 10,
    QUIET_TICKS = 10,         /* without a slice: the watchdog sleeps … */
    SLEEP_NS_MAX = 250000000, /* … until it is roused, and no longer, see host_budget_rouse() */
    STUCK_BUDGETS = 10        /* so many budgets late, and at least STUCK_NS_MIN: logged */
};
#define STUCK_NS_MIN INT64_C(1000000000)

/* The key in the registry of the message and traceback of a slice's first error. */
static const char overrun_key;

/* ---- On the worker's thread ---- */

/* Pushes "chat.lua:7: callback budget of 0.1 s exceeded". raises */
static void push_message(lua_State *L, const host *h)
{
    double budget = (double)atomic_load_explicit(&h->watch.budget_ns, memory_order_relaxed) / 1e9;
    char text[96], cap[32];
    if (h->memory_ended == host_slice(h)) {
        snprintf(text, sizeof(text), "not enough memory (cap %s), for the second time",
                 host_cap_text(h, cap, sizeof(cap)));
    } else {
        snprintf(text, sizeof(text), "%s budget of %g s exceeded", h->loading ? "load" : "callback", budget);
    }
    /* No frame of the hook's own is on the stack: level 0 is the function that was interrupted, which may be one in C. */
    lua_Debug frame;
    int level = 0;
    for (; lua_getstack(L, level, &frame) && lua_getinfo(L, "l", &frame) && frame.currentline < 0; level++) {
    }
    luaL_where(L, level);
    lua_pushstring(L, text);
    lua_concat(L, 2);
}

/* Keeps message and traceback of the first place: what is ended after it is further out. raises */
static void note_overrun(lua_State *L, host *h)
{
    enum { SLOTS = 2 * LUA_MINSTACK }; /* a traceback's; LUA_MINSTACK are there in a hook, and do for the rest */
    if (h->overrun_slice == host_slice(h)) return;
    h->overrun_slice = host_slice(h);
    h->overruns++;
    lua_pushnil(L); /* if there is no memory for this one, the one before is not taken for it */
    lua_rawsetp(L, LUA_REGISTRYINDEX, &overrun_key);
    host_reserve(h, true);
    lua_createtable(L, 2, 0);
    push_message(L, h);
    lua_rawseti(L, -2, 1);
    if (lua_checkstack(L, SLOTS)) host_push_traceback(L, L, 0);
    else lua_pushliteral(L, "stack traceback:\n\t...\t(the stack is full)");
    lua_rawseti(L, -2, 2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &overrun_key);
    host_reserve(h, false);
}

/* Pushes what the first error of this slice said: thousands of pending __close may each end with it. raises */
static void push_noted_message(lua_State *L, const host *h)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &overrun_key) == LUA_TTABLE) lua_rawgeti(L, -1, 1);
    else push_message(L, h); /* there was no memory to note it */
    lua_remove(L, -2);
}

/* A count hook. raises */
static void end_slice(lua_State *L, lua_Debug *where)
{
    host *h = host_of(L);
    (void)where;
    if (!host_is_overdue(h)) {
        lua_sethook(L, NULL, 0, 0);
        return;
    }
    note_overrun(L, h);
    if (lua_isyieldable(L)) {
        h->hook_yielded = true;
        lua_yield(L, 0); /* takes effect when the hook has returned */
        return;
    }
    push_noted_message(L, h);
    lua_error(L);
}

void host_memory_caught(host *h, lua_State *L)
{
    if (h->memory_caught != host_slice(h)) {
        h->memory_caught = host_slice(h);
        return;
    }
    h->memory_ended = host_slice(h);
    atomic_store_explicit(&h->watch.overdue, host_slice(h), memory_order_relaxed);
    host_budget_carry(h, L);
}

/* The seat of the worker whose thread this is. */
static _Thread_local const host_seat *own_seat;

void host_budget_enter(const host_seat *seat)
{
    own_seat = seat;
}

static host *find_overdue(const host_seat *seat)
{
    host *first[] = {seat->current, seat->candidate, seat->fallback};
    for (size_t i = 0; i < array_count(first); i++) {
        if (first[i] != NULL && host_is_running(first[i]) && host_is_overdue(first[i])) return first[i];
    }
    host *h = seat->lingering;
    while (h != NULL && !(host_is_running(h) && host_is_overdue(h))) h = h->next;
    return h;
}

/* What lua_steps_due is while any slice is overdue: ends the call that runs on this thread, if it is of such a slice. raises */
static void end_call(void)
{
    enum { SLOTS = 8 };
    host *h = own_seat == NULL ? NULL : find_overdue(own_seat);
    if (h == NULL) return;
    lua_State *L = atomic_load_explicit(&h->running, memory_order_relaxed);
    if (!lua_checkstack(L, SLOTS)) return; /* later, when there is memory */
    note_overrun(L, h);
    push_noted_message(L, h);
    lua_error(L);
}

/* A lua_pauses_watch. The longest step of a slice is not counted as the handler's. Only that one: who does nothing but make garbage,
 * or collect it, shall be ended, too. In a small heap a step is short, and reading the clock twice would be an eighth of a loop that
 * only allocates. */
static void on_collection(void *context, bool begins)
{
    enum { SMALL_BYTES = 512 << 10 };
    host *h = context;
    if (h == NULL || !host_is_running(h)) return;
    host_watch *watch = &h->watch;
    int64_t from_ns = atomic_load_explicit(&watch->collect_from_ns, memory_order_relaxed);
    if (begins ? h->heap_bytes < SMALL_BYTES : from_ns == 0) return;
    int64_t now_ns = os_thread_cpu_ns(h->worker->thread);
    if (begins) {
        if (watch->collect_slice != host_slice(h)) {
            atomic_store_explicit(&watch->collect_longest_ns, 0, memory_order_relaxed);
        }
        watch->collect_slice = host_slice(h);
        atomic_store_explicit(&watch->collect_from_ns, now_ns, memory_order_release);
        return;
    }
    int64_t took_ns = now_ns - from_ns;
    int64_t longest_ns = atomic_load_explicit(&watch->collect_longest_ns, memory_order_relaxed);
    if (took_ns > longest_ns) {
        atomic_fetch_add_explicit(&watch->away_ns, took_ns - longest_ns, memory_order_relaxed);
        atomic_store_explicit(&watch->collect_longest_ns, took_ns, memory_order_relaxed);
    }
    /* Last, and look() reads it first: it may see the step both as going on and as given, but not as neither. */
    atomic_store_explicit(&watch->collect_from_ns, 0, memory_order_release);
}

/* Runs while the worker is stopped at some instruction. lua_sethook() may be called like this: lua.c does, from a
 * signal handler. It walks all calls of the coroutine (settraps() in ldebug.c), which may take longer than the time between two
 * interrupts; a worker that is interrupted like that again and again would come to nothing else. */
static void arm(void *argument)
{
    enum { REST = 8 }; /* so many times as long as it took, the worker then has for itself */
    host *h = argument;
    host_armed *last = &h->watch.armed;
    lua_State *running = atomic_load_explicit(&h->running, memory_order_acquire);
    int64_t begin_ns = os_monotonic_ns();
    if (!host_is_overdue(h)) return;
    if (last->slice == host_slice(h) && last->L == running && begin_ns < last->again_ns) return;
    lua_sethook(running, end_slice, LUA_MASKCOUNT, 1);
    int64_t end_ns = os_monotonic_ns();
    *last = (host_armed){.slice = host_slice(h), .L = running, .again_ns = end_ns + REST * (end_ns - begin_ns)};
}

void host_budget_carry(host *h, lua_State *L)
{
    if (host_is_overdue(h)) lua_sethook(L, end_slice, LUA_MASKCOUNT, 1);
}

void host_budget_clear(host *h, lua_State *L)
{
    atomic_store_explicit(&h->watch.overdue, 0, memory_order_relaxed);
    lua_sethook(L, NULL, 0, 0);
}

bool host_push_overrun(lua_State *L, unsigned long long slice)
{
    if (host_of(L)->overrun_slice != slice) return false;
    /* It stays there: Lua calls the message handler also for errors that load() catches inside. */
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &overrun_key) != LUA_TTABLE) { /* there was no memory to note it */
        lua_pop(L, 1);
        return false;
    }
    lua_rawgeti(L, -1, 1);
    lua_rawgeti(L, -2, 2);
    lua_remove(L, -3);
    return true;
}

/* ---- The watchdog ---- */

static struct watchdog {
    atomic_flag lock; /* guards opening and closing; those are rare */
    unsigned users;
    os_thread *thread;
    os_mutex *mutex; /* guards what follows */
    os_cond *wake;
    host *hosts;
    int64_t tick_ns;
    unsigned quiet; /* ticks, without a slice */
    bool stop;
} watchdog = {.lock = ATOMIC_FLAG_INIT};

/* "chat.lua: on_message of conn 7". Returns text. */
static char *name_slice(const host *h, char *text, size_t size)
{
    const host_watch *watch = &h->watch;
    host_kind kind = (host_kind)atomic_load_explicit(&watch->kind, memory_order_relaxed);
    unsigned long long id = atomic_load_explicit(&watch->conn_id, memory_order_relaxed);
    char conn_text[48] = "";
    if (id != 0) snprintf(conn_text, sizeof(conn_text), " of conn %llu", id);
    snprintf(text, size, "%s: %s%s", h->config->script, host_kind_name(kind), conn_text);
    return text;
}

/* used_ns: processor time. The watchdog cannot tell who waits from who would run if he could. */
static void say_stuck(const host *h, int64_t late_ns, int64_t used_ns, bool collecting)
{
    static const char collects[] = "it collects garbage: its heap is too big for one worker";
    static const char waits[] =
        "it waits in a C function for the system (io.read, …), others use the processors, or it is in a C function or "
        "a finaliser that no budget can end";

    char name[HOST_SLICE_TEXT];
    log_write(LOG_ERROR,
              "%s has not come back for %.1f s, of which it ran for %.1f s: %s; worker %" PRIu32
              " serves nobody meanwhile",
              name_slice(h, name, sizeof(name)), (double)late_ns / 1e9, (double)used_ns / 1e9,
              collecting ? collects : waits, h->worker->id);
}

/* Ends the slice that runs, if it is overdue, which is set then. Returns in how many ns to look again, at the latest at the
 * next tick. */
static int64_t look(host *h, int64_t now_ns, struct watchdog *dog, bool *overdue)
{
    host_watch *watch = &h->watch;
    unsigned long long sequence = atomic_load_explicit(&watch->sequence, memory_order_acquire);
    if (sequence != watch->seen || sequence % 2 != 0) dog->quiet = 0;
    if (atomic_load_explicit(&watch->away, memory_order_relaxed)) return dog->tick_ns;
    if (sequence != watch->seen || sequence % 2 == 0) {
        watch->seen = sequence;
        watch->since_ns = now_ns;
        watch->told = false;
        watch->away_seen_ns = atomic_load_explicit(&watch->away_ns, memory_order_relaxed);
        if (sequence % 2 != 0) watch->cpu_ns = os_thread_cpu_ns(h->worker->thread);
        return dog->tick_ns;
    }
    int64_t budget_ns = atomic_load_explicit(&watch->budget_ns, memory_order_relaxed);
    int64_t late_ns = now_ns - watch->since_ns;
    if (budget_ns == 0) return dog->tick_ns;
    if (late_ns < budget_ns) return budget_ns - late_ns;
    /* What counts is processor time: on a crowded machine a handler that behaves may not get to run for long. */
    int64_t from_ns = atomic_load_explicit(&watch->collect_from_ns, memory_order_acquire);
    int64_t cpu_ns = os_thread_cpu_ns(h->worker->thread);
    int64_t away_ns = atomic_load_explicit(&watch->away_ns, memory_order_relaxed) - watch->away_seen_ns;
    int64_t used_ns = cpu_ns == 0 ? late_ns : cpu_ns - watch->cpu_ns - away_ns;
    int64_t left_ns = budget_ns - used_ns;
    if (from_ns != 0) { /* as on_collection() would, if the step ended now */
        int64_t more_ns = cpu_ns - from_ns - atomic_load_explicit(&watch->collect_longest_ns, memory_order_relaxed);
        if (more_ns > 0) left_ns += more_ns;
    }
    if (left_ns <= 0) {
        *overdue = true;
        atomic_store_explicit(&watch->overdue, sequence, memory_order_relaxed);
        os_thread_interrupt(h->worker->thread, arm, h);
        /* A coroutine that is entered now gets its hook soon; what cannot be ended is not interrupted all the time. */
        left_ns = late_ns / 2 < budget_ns ? TICK_NS_MIN : dog->tick_ns;
    }
    if (!watch->told && late_ns >= STUCK_NS_MIN && late_ns / STUCK_BUDGETS >= budget_ns) {
        watch->told = true;
        say_stuck(h, late_ns, used_ns, from_ns != 0);
    }
    return left_ns;
}

/* Looks at all hosts. Returns in how many ns to look again. */
static int64_t look_around(struct watchdog *dog)
{
    int64_t now_ns = os_monotonic_ns(), next_ns = dog->tick_ns;
    bool overdue = false;
    dog->quiet++;
    for (host *h = dog->hosts; h != NULL; h = h->watch.next) {
        int64_t left_ns = look(h, now_ns, dog, &overdue);
        if (left_ns < next_ns) next_ns = left_ns;
    }
    atomic_store_explicit(&lua_steps_due, overdue ? end_call : NULL, memory_order_relaxed);
    return next_ns > TICK_NS_MIN ? next_ns : TICK_NS_MIN;
}

atomic_bool host_watchdog_sleeps;

static void watch_hosts(void *argument)
{
    struct watchdog *dog = argument;
    os_mutex_lock(dog->mutex);
    while (!dog->stop) {
        int64_t next_ns = look_around(dog);
        bool sleeps = dog->quiet >= QUIET_TICKS;
        atomic_store(&host_watchdog_sleeps, sleeps);
        os_cond_wait(dog->wake, dog->mutex, sleeps ? SLEEP_NS_MAX : next_ns);
    }
    atomic_store(&host_watchdog_sleeps, false);
    atomic_store_explicit(&lua_steps_due, NULL, memory_order_relaxed);
    os_mutex_unlock(dog->mutex);
}

/* A slice that begins at the very moment in which the watchdog goes to sleep may miss that: its own store and its look at the flag
 * have no barrier between them. Then SLEEP_NS_MAX is how much later it is seen. */
void host_budget_rouse(void)
{
    struct watchdog *dog = &watchdog;
    os_mutex_lock(dog->mutex);
    dog->quiet = 0;
    atomic_store(&host_watchdog_sleeps, false);
    os_cond_signal(dog->wake);
    os_mutex_unlock(dog->mutex);
}

static int64_t tick_for(const host_config *config)
{
    int64_t budget = config->callback_budget_ns;
    if (budget == 0 || (config->load_budget_ns != 0 && config->load_budget_ns < budget))
        budget = config->load_budget_ns;
    int64_t tick = budget / TICKS_PER_BUDGET;
    return tick < TICK_NS_MIN ? TICK_NS_MIN : tick > TICK_NS_MAX ? TICK_NS_MAX : tick;
}

static void stop_watchdog(struct watchdog *dog)
{
    if (dog->thread != NULL) {
        os_mutex_lock(dog->mutex);
        dog->stop = true;
        os_cond_signal(dog->wake);
        os_mutex_unlock(dog->mutex);
        os_thread_join(dog->thread);
    }
    if (dog->wake != NULL) os_cond_close(dog->wake);
    if (dog->mutex != NULL) os_mutex_close(dog->mutex);
    dog->thread = NULL;
    dog->wake = NULL;
    dog->mutex = NULL;
    dog->stop = false;
    dog->quiet = 0;
}

static bool start_watchdog(struct watchdog *dog)
{
    dog->mutex = os_mutex_open();
    dog->wake = os_cond_open();
    dog->tick_ns = TICK_NS_MAX;
    if (dog->mutex != NULL && dog->wake != NULL) dog->thread = os_thread_start("watchdog", watch_hosts, dog);
    if (dog->thread != NULL) return true;
    stop_watchdog(dog);
    return false;
}

static void lock_watchdog(struct watchdog *dog)
{
    while (atomic_flag_test_and_set_explicit(&dog->lock, memory_order_acquire)) {
    }
}

static void unlock_watchdog(struct watchdog *dog)
{
    atomic_flag_clear_explicit(&dog->lock, memory_order_release);
}

bool host_budget_open(host *h)
{
    struct watchdog *dog = &watchdog;
    if (h->config->callback_budget_ns == 0 && h->config->load_budget_ns == 0) return true;
    lock_watchdog(dog);
    bool ok = dog->users > 0 || start_watchdog(dog);
    if (ok) {
        dog->users++;
        os_mutex_lock(dog->mutex);
        int64_t tick_ns = tick_for(h->config);
        if (tick_ns < dog->tick_ns) dog->tick_ns = tick_ns;
        atomic_store_explicit(&lua_pauses_watch, on_collection, memory_order_relaxed);
        h->watch.next = dog->hosts;
        h->watch.registered = true;
        dog->hosts = h;
        dog->quiet = 0;
        os_cond_signal(dog->wake);
        os_mutex_unlock(dog->mutex);
    }
    unlock_watchdog(dog);
    return ok;
}

void host_budget_close(host *h)
{
    struct watchdog *dog = &watchdog;
    if (!h->watch.registered) return;
    lock_watchdog(dog);
    os_mutex_lock(dog->mutex);
    host **link = &dog->hosts;
    while (*link != h) link = &(*link)->watch.next;
    *link = h->watch.next;
    h->watch.registered = false;
    os_mutex_unlock(dog->mutex);
    if (--dog->users == 0) stop_watchdog(dog);
    unlock_watchdog(dog);
}

char *host_running_text(const worker *w, char *text, size_t size)
{
    struct watchdog *dog = &watchdog;
    text[0] = '\0';
    lock_watchdog(dog);
    if (dog->users > 0) {
        os_mutex_lock(dog->mutex);
        for (const host *h = dog->hosts; h != NULL; h = h->watch.next) {
            if (h->worker == w && host_is_running(h)) name_slice(h, text, size);
        }
        os_mutex_unlock(dog->mutex);
    }
    unlock_watchdog(dog);
    return text;
}
