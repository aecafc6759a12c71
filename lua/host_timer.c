/* host_timer.c - portico.after, portico.every and portico.sleep. */
#include "host_internal.h"

#include "log.h"

#include <inttypes.h>
#include <string.h>

/* User value 1 is the function, the others are its arguments. Anchored in the registry while it runs or its function
 * does. */
struct host_timer {
    const void *tag; /* &timer_tag */
    timer clock;
    host *host;
    host_timer *next; /* the host's list, while anchored */
    host_timer *prev;
    const char *name;    /* of user value 2, which then is no argument; NULL: none */
    int64_t left_ns;     /* while the host is not in force: what is left when it comes into it */
    int64_t interval_ns; /* 0: fires once */
    int ref;             /* LUA_NOREF: not anchored */
    int arguments;
    bool firing;   /* its function has been called and has not returned */
    bool canceled; /* … and is not to be called again */
};

/* What only a timer begins with. */
static const char timer_tag;

static host_timer *check(lua_State *L)
{
    host_timer *ht = lua_touserdata(L, 1);
    if (ht == NULL || lua_rawlen(L, 1) != sizeof(*ht) || ht->tag != &timer_tag) luaL_typeerror(L, 1, "timer");
    return ht;
}

static int push(lua_State *L, host_task *t)
{
    const host_timer *ht = t->subject;
    luaL_checkstack(L, ht->arguments + 2, "too many arguments of a timer");
    lua_rawgeti(L, LUA_REGISTRYINDEX, ht->ref);
    int place = lua_gettop(L);
    for (int value = 1; value <= 1 + ht->arguments; value++) lua_getiuservalue(L, place, value);
    return ht->arguments;
}

static void forget(host *h, host_timer *ht)
{
    if (ht->prev != NULL) ht->prev->next = ht->next;
    else h->timers = ht->next;
    if (ht->next != NULL) ht->next->prev = ht->prev;
    luaL_unref(h->L, LUA_REGISTRYINDEX, ht->ref);
    ht->ref = LUA_NOREF;
}

/* Starts it when its host is in force, else keeps in mind when it is due. False: out of memory. */
static bool begin_clock(host *h, host_timer *ht, int64_t due_ns)
{
    ht->left_ns = due_ns - io_port_now(h->worker->port);
    return !h->in_force || timer_start(&h->worker->timers, &ht->clock, due_ns);
}

void host_timers_start(host *h)
{
    host_timer *next;
    int64_t now_ns = io_port_now(h->worker->port);
    h->in_force = true;
    for (host_timer *ht = h->timers; ht != NULL; ht = next) {
        next = ht->next;
        if (ht->firing || timer_start(&h->worker->timers, &ht->clock, now_ns + ht->left_ns)) continue;
        log_write(LOG_ERROR, "a timer ends: out of memory");
        forget(h, ht);
    }
    host_line_start(h);
}

static int64_t at_least_0(int64_t ns)
{
    return ns > 0 ? ns : 0;
}

void host_timers_stop(host *h)
{
    int64_t now_ns = io_port_now(h->worker->port);
    h->in_force = false;
    for (host_timer *ht = h->timers; ht != NULL; ht = ht->next) {
        int64_t due_ns = ht->clock.deadline_ns + (ht->firing ? ht->interval_ns : 0);
        ht->left_ns = at_least_0(due_ns - now_ns);
        timer_stop(&h->worker->timers, &ht->clock);
    }
}

static host_timer *find_named(const host *h, const char *name)
{
    host_timer *ht = h->timers;
    while (ht != NULL && (ht->name == NULL || ht->canceled || strcmp(ht->name, name) != 0)) ht = ht->next;
    return ht;
}

void host_timers_take_over(host *h, const host *before)
{
    for (host_timer *ht = h->timers; ht != NULL; ht = ht->next) {
        const host_timer *old = ht->name != NULL ? find_named(before, ht->name) : NULL;
        if (old != NULL && old->left_ns < ht->interval_ns) ht->left_ns = old->left_ns;
    }
}

/* Its function has returned: start again, or forget it. */
static void turn_over(host *h, host_timer *ht)
{
    ht->firing = false;
    if (ht->interval_ns > 0 && !ht->canceled) {
        int64_t now_ns = io_port_now(h->worker->port);
        int64_t due_ns = ht->clock.deadline_ns + ht->interval_ns;
        if (due_ns <= now_ns)
            due_ns += (now_ns - due_ns) / ht->interval_ns * ht->interval_ns + ht->interval_ns; /* keep step */
        if (begin_clock(h, ht, due_ns)) return;
        log_write(LOG_ERROR, "a timer of portico.every ends: out of memory");
    }
    forget(h, ht);
}

static void over(host *h, host_task *t, host_errand_end how)
{
    (void)how;
    turn_over(h, t->subject);
}

static void fire(timer *clock, int64_t now_ns)
{
    static const host_errand errand = {.push = push, .over = over};
    host_timer *ht = container_of(clock, host_timer, clock);
    (void)now_ns;
    ht->firing = true;
    if (!host_call_errand(ht->host, ht->interval_ns > 0 ? HOST_EVERY : HOST_AFTER, &errand, ht))
        turn_over(ht->host, ht);
}

static int cancel(lua_State *L)
{
    host_timer *ht = check(L);
    bool was_due = ht->ref != LUA_NOREF && !ht->canceled && (!ht->firing || ht->interval_ns > 0);
    if (ht->firing) {
        ht->canceled = true;
    } else if (ht->ref != LUA_NOREF) {
        timer_stop(&ht->host->worker->timers, &ht->clock);
        forget(ht->host, ht);
    }
    lua_pushboolean(L, was_due);
    return 1;
}

/* The state is being closed with the timer running. */
static int collect(lua_State *L)
{
    host_timer *ht = check(L);
    timer_stop(&ht->host->worker->timers, &ht->clock);
    return 0;
}

static int to_string(lua_State *L)
{
    const host_timer *ht = check(L);
    lua_pushfstring(L, "timer (%s)", ht->ref == LUA_NOREF || ht->canceled ? "over" : "running");
    return 1;
}

/* Makes and starts a timer. The function is at 2; at 3 are so many arguments, or, of one that repeats, its name or nil. */
static int begin(lua_State *L, int64_t delay_ns, int64_t interval_ns, int arguments)
{
    host *h = host_of(L);
    static log_cause cause;
    if (host_is_ending(h) || host_is_retired(h)) return host_push_failure(L, host_why_over(h), "closed");
    if (h == h->seat->fallback)
        log_rarely(&cause, LOG_WARN, "a timer was started by a version that has been replaced",
                   "generation %" PRIu64
                   " starts a timer, though it has been replaced: it runs only if that version comes back",
                   h->generation->number);
    int values = interval_ns > 0 ? 1 : arguments;
    host_timer *ht = lua_newuserdatauv(L, sizeof(*ht), 1 + values);
    *ht = (host_timer){.tag = &timer_tag,
                       .clock = {.fire = fire},
                       .host = h,
                       .interval_ns = interval_ns,
                       .ref = LUA_NOREF,
                       .arguments = arguments};
    lua_rawgeti(L, LUA_REGISTRYINDEX, h->timer_meta_ref);
    lua_setmetatable(L, -2);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, -2, 1);
    for (int i = 0; i < values; i++) {
        lua_pushvalue(L, 3 + i);
        lua_setiuservalue(L, -2, 2 + i);
    }
    if (interval_ns > 0 && lua_isstring(L, 3)) ht->name = lua_tostring(L, 3);
    lua_pushvalue(L, -1);
    ht->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    ht->next = h->timers;
    if (ht->next != NULL) ht->next->prev = ht;
    h->timers = ht;
    if (begin_clock(h, ht, io_port_now(h->worker->port) + delay_ns)) return 1;
    forget(h, ht);
    return host_push_failure(L, "out of memory", "limit");
}

int host_api_after(lua_State *L)
{
    int64_t delay_ns = host_check_seconds(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    int arguments = lua_gettop(L) - 2;
    luaL_argcheck(L, arguments <= HOST_TIMER_ARGS_MAX, 3 + HOST_TIMER_ARGS_MAX, "too many arguments");
    return begin(L, delay_ns, 0, arguments);
}

/* The options of portico.every, at 3: {first = seconds until the first call, name = by which the next generation takes
 * it over}. Replaces them by the name, or nil. raises */
static int64_t read_options(lua_State *L, int64_t interval_ns)
{
    static const char *const names[] = {"first", "name", NULL};
    int64_t first_ns = interval_ns;
    luaL_checktype(L, 3, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, 3); lua_settop(L, 4)) {
        const char *name = host_option_name(L, 3, 4);
        if (strcmp(name, names[0]) == 0) {
            first_ns = host_option_seconds(L, 3, name, 5);
        } else if (strcmp(name, names[1]) == 0) {
            if (lua_type(L, 5) == LUA_TSTRING) continue;
            luaL_argerror(L, 3, lua_pushfstring(L, "name: string expected, got %s", luaL_typename(L, 5)));
        } else {
            host_option_unknown(L, 3, "", name, names);
        }
    }
    lua_getfield(L, 3, "name");
    lua_replace(L, 3);
    if (lua_isstring(L, 3) && find_named(host_of(L), lua_tostring(L, 3)) != NULL) {
        luaL_argerror(L, 3, lua_pushfstring(L, "name: a timer named '%s' runs already", lua_tostring(L, 3)));
    }
    return first_ns;
}

int host_api_every(lua_State *L)
{
    enum { INTERVAL_NS_MIN = 1000000 };
    int64_t interval_ns = host_check_seconds(L, 1);
    luaL_argcheck(L, interval_ns >= INTERVAL_NS_MIN, 1, "0.001 seconds or more expected");
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 3);
    int64_t delay_ns = lua_isnil(L, 3) ? interval_ns : read_options(L, interval_ns);
    return begin(L, delay_ns, interval_ns, 0);
}

/* ---- portico.sleep ---- */

static void wake(timer *clock, int64_t now_ns)
{
    (void)now_ns;
    host_task_wake(container_of(clock, host_task, wake));
}

static int slept(lua_State *L, int status, lua_KContext context)
{
    (void)L;
    (void)status;
    (void)context;
    return 0;
}

int host_api_sleep(lua_State *L)
{
    int64_t delay_ns = host_check_seconds(L, 1);
    host *h = host_of(L);
    host_check_wait(L, "portico.sleep");
    host_task *t = h->task;
    t->wake.fire = wake;
    if (!timer_start(&h->worker->timers, &t->wake, io_port_now(h->worker->port) + delay_ns)) {
        return luaL_error(L, "portico.sleep: out of memory");
    }
    t->waiting = HOST_SLEEPS;
    return lua_yieldk(L, 0, 0, slept);
}

void host_timer_library(lua_State *L)
{
    static const luaL_Reg methods[] = {{"cancel", cancel}, {NULL, NULL}};
    host *h = host_of(L);
    lua_createtable(L, 0, 6); /* stack: metatable */
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, cancel);
    lua_setfield(L, -2, "__close");
    lua_pushcfunction(L, collect);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, to_string);
    lua_setfield(L, -2, "__tostring");
    lua_pushliteral(L, "timer");
    lua_setfield(L, -2, "__name");
    lua_pushliteral(L, "timer");
    lua_setfield(L, -2, "__metatable");
    h->timer_meta_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}
