/* host_channel.c - portico.channel: values from task to task of one worker, in order.
 *
 * Values that have been accepted are in a table, from head on. A task that waits to send has its value in the same
 * table, under its own address, until there is room: the channel's capacity, and one more for everybody who waits to
 * receive. So with a capacity of 0 a value changes hands only when both are there.
 *
 * Whoever runs takes the first value. A receiver that has been woken has not got its value yet; it is counted, so that
 * nobody else takes what is left for it, and when it is ended before it could take it the next one is woken.
 */
#include "host_internal.h"

enum { CAPACITY_MAX = 1 << 30 };

typedef struct channel {
    const void *tag;   /* &channel_tag */
    lua_Integer head;  /* of the first value */
    lua_Integer count; /* of values that have been accepted */
    lua_Integer capacity;
    host_queue senders;
    host_queue receivers;
    bool closed;
    bool stale; /* values of senders that were ended may be left in the table */
} channel;

/* What only a channel begins with; and the registry's key of its metatable. */
static const char channel_tag;

static channel *check(lua_State *L)
{
    channel *ch = lua_touserdata(L, 1);
    if (ch == NULL || lua_rawlen(L, 1) != sizeof(*ch) || ch->tag != &channel_tag) luaL_typeerror(L, 1, "channel");
    return ch;
}

static int push_closed(lua_State *L)
{
    return host_push_failure(L, "closed", "closed");
}

static int push_timeout(lua_State *L)
{
    return host_push_failure(L, "timeout", "timeout");
}

static int push_true(lua_State *L)
{
    lua_pushboolean(L, true);
    return 1;
}

/* ---- Values ---- */

/* Pushes the table of values. When nobody waits to send, and there is none, it is a new one: what senders that were
 * ended have left goes with the old one, and so does its size. raises */
static void push_values(lua_State *L, channel *ch)
{
    if (ch->stale && ch->count == 0 && ch->senders.count == 0) {
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, 1, 1);
        ch->stale = false;
        ch->head = 1;
        return;
    }
    lua_getiuservalue(L, 1, 1);
}

/* Accepts the value on top. stack: …, values, value. raises, and then nothing has happened */
static void accept(lua_State *L, channel *ch)
{
    lua_rawseti(L, -2, ch->head + ch->count);
    ch->count++;
}

/* Senders' values for which there is room, given so many who will receive. stack: …, values. raises */
static void accept_waiting(lua_State *L, channel *ch, lua_Integer demand)
{
    while (ch->senders.first != NULL && ch->count < ch->capacity + demand) {
        const void *key = ch->senders.first;
        lua_rawgetp(L, -1, key);
        accept(L, ch);
        lua_pushnil(L);
        lua_rawsetp(L, -2, key);
        host_queue_wake(&ch->senders);
    }
}

static lua_Integer demand_of(const channel *ch)
{
    return (lua_Integer)ch->receivers.count + ch->receivers.woken;
}

/* Takes the first value; then there may be room for one of those that wait. Returns 1. raises */
static int take(lua_State *L, channel *ch)
{
    push_values(L, ch);
    accept_waiting(L, ch, demand_of(ch) + 1);
    lua_rawgeti(L, -1, ch->head);
    lua_pushnil(L);
    lua_rawseti(L, -3, ch->head);
    ch->head++;
    ch->count--;
    if (ch->count == 0 && ch->senders.count == 0) ch->head = 1; /* keeps the table's list part small */
    return 1;
}

/* ---- Waiting ---- */

static void receiver_left(host_queue *q, host_task *t)
{
    const channel *ch = container_of(q, channel, receivers);
    (void)t;
    if (ch->count > (lua_Integer)q->woken) host_queue_wake(q);
}

/* Nothing of Lua's can be called here. */
static void sender_left(host_queue *q, host_task *t)
{
    channel *ch = container_of(q, channel, senders);
    (void)t;
    ch->stale = true;
}

static int sent(lua_State *L, int status, lua_KContext context)
{
    channel *ch = (channel *)context;
    host_task *t = host_of(L)->task;
    (void)status;
    if (t->woken && !ch->closed) return push_true(L);
    lua_getiuservalue(L, 1, 1);
    bool is_left = lua_rawgetp(L, -1, t) != LUA_TNIL; /* closed, but accepted before: it has been sent */
    lua_pushnil(L);
    lua_rawsetp(L, -3, t);
    if (!is_left) return push_true(L);
    return ch->closed ? push_closed(L) : push_timeout(L);
}

static int method_send(lua_State *L)
{
    channel *ch = check(L);
    luaL_argcheck(L, !lua_isnoneornil(L, 2), 2, "a value that is not nil expected");
    int64_t timeout_ns = host_check_timeout(L, 3);
    lua_settop(L, 2);
    if (ch->closed) return push_closed(L);
    push_values(L, ch);
    lua_insert(L, 2); /* stack: channel, values, value */
    if (ch->senders.count == 0 && ch->count < ch->capacity + demand_of(ch)) {
        accept(L, ch);
        host_queue_wake(&ch->receivers);
        return push_true(L);
    }
    if (timeout_ns == 0) return push_timeout(L);
    host_check_wait(L, "channel:send");
    lua_rawsetp(L, 2, host_of(L)->task);
    lua_settop(L, 1);
    return host_wait_in(L, &ch->senders, timeout_ns, (lua_KContext)ch, sent);
}

static int received(lua_State *L, int status, lua_KContext context)
{
    channel *ch = (channel *)context;
    (void)status;
    if (ch->count > 0 && host_of(L)->task->woken) return take(L, ch);
    return ch->closed ? push_closed(L) : push_timeout(L);
}

static int receive(lua_State *L, channel *ch, int64_t timeout_ns)
{
    lua_settop(L, 1);
    if (ch->count + (lua_Integer)ch->senders.count > (lua_Integer)ch->receivers.woken) return take(L, ch);
    if (ch->closed) return push_closed(L);
    if (timeout_ns == 0) return push_timeout(L);
    host_check_wait(L, "channel:recv");
    return host_wait_in(L, &ch->receivers, timeout_ns, (lua_KContext)ch, received);
}

static int method_recv(lua_State *L)
{
    channel *ch = check(L);
    return receive(L, ch, host_check_timeout(L, 2));
}

/* for value in channel do … end */
static int iterate(lua_State *L)
{
    return receive(L, check(L), INT64_MAX);
}

static int method_close(lua_State *L)
{
    channel *ch = check(L);
    ch->closed = true;
    while (host_queue_wake(&ch->senders)) {
    }
    while (host_queue_wake(&ch->receivers)) {
    }
    return push_true(L);
}

static int method_len(lua_State *L)
{
    lua_pushinteger(L, check(L)->count);
    return 1;
}

static int to_string(lua_State *L)
{
    const channel *ch = check(L);
    lua_pushfstring(L, "channel (%I of %I%s)", (LUAI_UACINT)ch->count, (LUAI_UACINT)ch->capacity,
                    ch->closed ? ", closed" : "");
    return 1;
}

int host_api_channel(lua_State *L)
{
    lua_Integer capacity = luaL_optinteger(L, 1, 0);
    luaL_argcheck(L, capacity >= 0 && capacity <= CAPACITY_MAX, 1, "a number of values from 0 to 1073741824 expected");
    channel *ch = lua_newuserdatauv(L, sizeof(*ch), 1);
    *ch = (channel){.tag = &channel_tag, .head = 1, .capacity = capacity};
    ch->senders.left = sender_left;
    ch->receivers.left = receiver_left;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &channel_tag);
    lua_setmetatable(L, -2);
    lua_newtable(L);
    lua_setiuservalue(L, -2, 1);
    return 1;
}

void host_channel_library(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"send", method_send}, {"recv", method_recv}, {"close", method_close}, {"len", method_len}, {NULL, NULL}};
    static const luaL_Reg metamethods[] = {
        {"__len", method_len}, {"__call", iterate}, {"__close", method_close}, {"__tostring", to_string}, {NULL, NULL}};
    host_metatable(L, "channel", &channel_tag, methods, metamethods);
}
