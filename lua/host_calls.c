/* host_calls.c - portico.worker: functions that one worker serves, and another calls.
 *
 * A question is one mail, to one worker or to all. It carries the mails of the answers, made by who asks: so an answer
 * cannot fail for want of memory, and a question that is dropped on its way drops them.
 */
#include "host_internal.h"

#include "host_value.h"
#include "id_map.h"

#include <stdio.h>
#include <string.h>

/* A mail's data: the answer of one worker. */
typedef struct answer {
    uint64_t number;   /* of the call */
    uint32_t worker;   /* who answers */
    const char *code;  /* NULL: the function has returned; else a constant */
    char message[256]; /* code: when value is empty */
    host_value value;  /* a list: the results; or the message */
    lua_Integer count; /* of results */
} answer;

/* A mail's data. */
typedef struct question {
    host_value arguments; /* a list */
    lua_Integer count;
    uint32_t asker; /* the worker … */
    uint32_t first; /* … and who answers with answers[0] */
    uint32_t workers;
    uint32_t name_len;
    mail **answers; /* behind the name; NULL: taken */
    char name[];
} question;

/* A call that waits, a userdata on the stack of who waits. */
typedef struct call {
    uint64_t number; /* in the seat's table; 0: no more */
    host_seat *seat;
    host_queue done;
    uint32_t first; /* the worker of answers[0] */
    uint32_t workers;
    uint32_t pending;
    mail *answers[];
} call;

/* What a task does about a question. */
typedef struct service {
    mail *question;
    mail *answer; /* NULL: it is on its way */
    bool is_unknown;
} service;

/* The registry's keys of the metatable of calls, and of the table of what is served. */
static const char call_key, served_key;

/* ---- Calls that wait ---- */

static void end_call(call *c)
{
    if (c->number == 0) return;
    id_map_remove(c->seat->calls, c->number);
    c->number = 0;
    for (uint32_t i = 0; i < c->workers; i++) mail_release(c->answers[i]);
}

static void left(host_queue *q, host_task *t)
{
    (void)t;
    end_call(container_of(q, call, done));
}

/* Its task has ended in a way that nobody was told of: for want of memory. */
static int collect(lua_State *L)
{
    end_call(lua_touserdata(L, 1));
    return 0;
}

static void deliver_answer(worker *w, mail *m)
{
    const host_seat *seat = w->app_state;
    const answer *a = m->data;
    call *c = seat->calls != NULL ? id_map_get(seat->calls, a->number) : NULL;
    if (c == NULL) return; /* nobody waits for it any more */
    mail_retain(m);
    c->answers[a->worker - c->first] = m;
    if (--c->pending == 0) host_queue_wake(&c->done);
}

static void forget_answer(mail *m)
{
    host_value_free(&((answer *)m->data)->value);
}

/* ---- Answering ---- */

/* The mail is gone from *slot. */
static void post_answer(host *h, mail **slot, uint32_t asker)
{
    uint32_t full;
    mail *m = *slot;
    *slot = NULL;
    if (m != NULL) host_mail_try(h->seat, m, asker, &full);
}

/* Encodes the list on top of the stack, which it pops, as the answer's value. raises */
static void fill(lua_State *L, answer *a, const char *code, lua_Integer count)
{
    a->code = code;
    a->count = count;
    if (host_value_encode_in_budget(L, -1, "results", &a->value) && a->value.len <= MAIL_BYTES_MAX / 2) {
        lua_pop(L, 1);
        return;
    }
    a->code = "error";
    const char *why = a->value.bytes != NULL ? "the results are larger than 8 MiB" : lua_tostring(L, -1);
    snprintf(a->message, sizeof(a->message), "%s", why);
    host_value_free(&a->value);
    lua_pop(L, lua_type(L, -1) == LUA_TSTRING ? 2 : 1);
}

static int raise_unknown(lua_State *L)
{
    return luaL_error(L, "worker %d serves no '%s'", (int)host_of(L)->worker->id, lua_tostring(L, 1));
}

/* Pushes the values of a list of so many. raises */
static void push_list(lua_State *L, const host_value *value, lua_Integer count)
{
    luaL_checkstack(L, (int)count + 2, "too many values");
    host_value_decode(L, value);
    int list = lua_gettop(L);
    for (lua_Integer i = 1; i <= count; i++) lua_rawgeti(L, list, i);
    lua_remove(L, list);
}

static int push(lua_State *L, host_task *t)
{
    service *s = t->subject;
    const question *q = s->question->data;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &served_key);
    lua_pushlstring(L, q->name, q->name_len);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) != LUA_TFUNCTION) {
        s->is_unknown = true;
        lua_pop(L, 1);
        lua_pushcfunction(L, raise_unknown);
        lua_insert(L, -2);
        return 1;
    }
    lua_replace(L, -3);
    lua_pop(L, 1); /* stack: …, function */
    push_list(L, &q->arguments, q->count);
    return (int)q->count;
}

static void keep(lua_State *L, host_task *t, int first)
{
    const service *s = t->subject;
    int count = lua_gettop(L) - first + 1;
    luaL_checkstack(L, 4, "too many results");
    lua_createtable(L, count, 0);
    lua_insert(L, first);
    for (int i = count; i >= 1; i--) lua_rawseti(L, first, i);
    fill(L, s->answer->data, NULL, count);
}

static bool keep_error(lua_State *L, host_task *t)
{
    const service *s = t->subject;
    answer *a = s->answer->data;
    if (lua_type(L, -1) == LUA_TTABLE) lua_getfield(L, -1, "message");
    else host_push_error_text(L, -1);
    if (!host_value_encode(L, -1, "message", &a->value)) lua_pop(L, 1);
    a->code = s->is_unknown ? "not_found" : "error";
    lua_pop(L, 1);
    return true;
}

static void over(host *h, host_task *t, host_errand_end how)
{
    service *s = t->subject;
    const question *q = s->question->data;
    answer *a = s->answer->data;
    if (how == HOST_ERRAND_CANCELED) {
        host_value_free(&a->value);
        a->code = "canceled";
        snprintf(a->message, sizeof(a->message), "canceled");
    } else if (how == HOST_ERRAND_FAILED && a->code == NULL) {
        a->code = "error";
        snprintf(a->message, sizeof(a->message), "not enough memory");
    }
    post_answer(h, &s->answer, q->asker);
    mail_release(s->question);
    mem_free(s);
}

static void deliver_question(worker *w, mail *m)
{
    static const host_errand errand = {push, keep, keep_error, over};
    const question *q = m->data;
    host *h = host_mail_taker(w);
    mail **slot = &q->answers[w->id - q->first];
    if (h == NULL) return;
    answer *a = (*slot)->data;
    service *s = mem_alloc(sizeof(*s));
    if (s != NULL) {
        *s = (service){m, *slot, false};
        *slot = NULL;
        mail_retain(m);
        if (host_call_errand(h, HOST_SERVED, &errand, s)) return;
        *slot = s->answer;
        mem_free(s);
        mail_release(m);
    }
    a->code = "limit";
    snprintf(a->message, sizeof(a->message), "not enough memory");
    post_answer(h, slot, q->asker);
}

static void forget_question(mail *m)
{
    question *q = m->data;
    host_value_free(&q->arguments);
    for (uint32_t i = 0; i < q->workers; i++) mail_release(q->answers[i]);
}

int host_api_serve(lua_State *L)
{
    size_t len;
    host_mail_check_name(L, 1, &len);
    if (!lua_isnil(L, 2)) luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &served_key);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    lua_rawset(L, -3);
    lua_pushboolean(L, true);
    return 1;
}

/* ---- Asking ---- */

/* Makes a question with its answers. NULL: out of memory; the value is freed. */
static mail *make_question(call *c, uint32_t asker, const char *name, size_t name_len, host_value *value,
                           lua_Integer count)
{
    const size_t align = sizeof(mail *);
    size_t head = (offsetof(question, name) + name_len + align - 1) / align * align;
    mail *m = mail_open(c->workers, head + c->workers * sizeof(mail *), value->size, deliver_question, forget_question);
    if (m == NULL) {
        host_value_free(value);
        return NULL;
    }
    question *q = m->data;
    *q = (question){.arguments = *value, .count = count, .asker = asker, .first = c->first, .workers = c->workers};
    q->name_len = (uint32_t)name_len;
    memcpy(q->name, name, name_len);
    q->answers = (mail **)(void *)((char *)m->data + head);
    for (uint32_t i = 0; i < c->workers; i++) {
        mail *reply = q->answers[i] = mail_open(1, sizeof(answer), 0, deliver_answer, forget_answer);
        if (reply == NULL) {
            mail_release(m);
            return NULL;
        }
        reply->always = true;
        *(answer *)reply->data = (answer){.number = c->number, .worker = c->first + i};
    }
    return m;
}

/* The name is at `name`, the arguments behind it. Waits for the answers of so many workers from first on; then k has
 * them, in the call that is its context. raises */
static int ask(lua_State *L, uint32_t first, uint32_t workers, int name, const char *function, lua_KFunction k)
{
    host *h = host_of(L);
    host_seat *seat = h->seat;
    size_t name_len;
    host_value value;
    const char *name_text = host_mail_check_name(L, name, &name_len);
    int count = lua_gettop(L) - name;
    host_check_wait(L, function);
    call *c = lua_newuserdatauv(L, sizeof(*c) + workers * sizeof(mail *), 0);
    memset(c, 0, sizeof(*c) + workers * sizeof(mail *));
    lua_rawgetp(L, LUA_REGISTRYINDEX, &call_key);
    lua_setmetatable(L, -2);
    lua_insert(L, 1);
    lua_createtable(L, count, 0);
    lua_insert(L, name + 2);
    for (int i = count; i >= 1; i--) lua_rawseti(L, name + 2, i); /* stack: call, …, name, arguments */
    if (!host_value_encode_in_budget(L, -1, "arguments", &value))
        luaL_error(L, "%s: %s", function, lua_tostring(L, -1));
    *c = (call){.seat = seat, .done = {.left = left}, .first = first, .workers = workers, .pending = workers};
    if (value.len > MAIL_BYTES_MAX / 2) {
        host_value_free(&value);
        return host_push_failure(L, "more than 8 MiB at once", "limit");
    }
    if (seat->calls == NULL) seat->calls = id_map_open();
    uint64_t number = ++seat->call_numbers;
    if (seat->calls == NULL || !id_map_put(seat->calls, number, c)) {
        host_value_free(&value);
        return host_push_failure(L, "out of memory", "limit");
    }
    c->number = number;
    mail *m = make_question(c, h->worker->id, name_text, name_len, &value, count);
    int results = host_mail_post(L, m, workers == 1 ? first : HOST_MAIL_ALL);
    if (results != 1) {
        end_call(c);
        return results;
    }
    lua_settop(L, 1);
    return host_wait_in(L, &c->done, INT64_MAX, (lua_KContext)c, k);
}

/* Pushes the message of an answer that is none. raises */
static void push_message(lua_State *L, const answer *a)
{
    if (a->value.bytes != NULL) host_value_decode(L, &a->value);
    else lua_pushstring(L, a->message);
}

static int answered(lua_State *L, int status, lua_KContext context)
{
    call *c = (call *)context;
    const answer *a = c->answers[0]->data; /* if something raises from here on, collect() lets go of it */
    int results = 3;
    (void)status;
    if (a->code == NULL) {
        push_list(L, &a->value, a->count);
        results = (int)a->count;
    } else {
        lua_pushnil(L);
        push_message(L, a);
        lua_pushstring(L, a->code);
    }
    end_call(c);
    return results;
}

static int all_answered(lua_State *L, int status, lua_KContext context)
{
    call *c = (call *)context;
    (void)status;
    lua_settop(L, 1);
    lua_createtable(L, (int)c->workers, 1); /* stack: call, first results */
    lua_pushnil(L);                         /* …, messages or nil */
    for (uint32_t i = 0; i < c->workers; i++) {
        const answer *a = c->answers[i]->data;
        if (a->code == NULL) {
            push_list(L, &a->value, a->count);
            lua_settop(L, 4);
            lua_rawseti(L, 2, i);
            continue;
        }
        if (lua_isnil(L, 3)) {
            lua_newtable(L);
            lua_replace(L, 3);
        }
        push_message(L, a);
        lua_rawseti(L, 3, i);
    }
    end_call(c);
    return 2;
}

int host_api_call(lua_State *L)
{
    lua_Integer id = luaL_checkinteger(L, 1);
    luaL_argcheck(L, id >= 0 && id < (lua_Integer)host_of(L)->worker->count, 1,
                  "the id of a worker expected: 0 to portico.worker.count - 1");
    return ask(L, (uint32_t)id, 1, 2, "portico.worker.call", answered);
}

int host_api_each(lua_State *L)
{
    return ask(L, 0, host_of(L)->worker->count, 1, "portico.worker.each", all_answered);
}

void host_calls_library(lua_State *L)
{
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, collect);
    lua_setfield(L, -2, "__gc");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &call_key);
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &served_key);
}
