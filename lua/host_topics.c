/* host_topics.c - portico.publish and portico.subscribe: values to whoever wants to know, on all workers.
 *
 * Every subscription gets a copy of its own, read from the mail's bytes when its function starts. Of a host that is not in
 * force those hear on that belong to a connection it still serves: else who waits in there would miss what is said until
 * his connection has moved, and his next handler has subscribed.
 */
#include "host_internal.h"

#include "host_value.h"

#include <string.h>

typedef struct subscription subscription;

/* User value 1 is the function, 2 the topic. Anchored in the registry until it is canceled. */
struct subscription {
    const void *tag;    /* &subscription_tag */
    subscription *next; /* in its bucket, in order of subscribing */
    subscription *prev;
    const char *topic; /* user value 2 */
    size_t len;
    uint64_t number;
    const conn *c;    /* whose handler has subscribed; NULL: a connection's had not */
    uint64_t conn_id; /* c may belong to another one by now */
    uint32_t hash;
    int ref; /* LUA_NOREF: canceled */
};

typedef struct bucket {
    subscription *first;
    subscription *last;
} bucket;

struct host_topics {
    bucket *buckets;
    uint32_t room; /* a power of two */
    uint32_t count;
    uint64_t numbers;     /* the last that was given */
    subscription *coming; /* while a mail is delivered: the next to look at */
};

/* A mail's data. */
typedef struct news {
    host_value value;
    uint32_t hash;
    size_t len;
    char topic[];
} news;

/* What the errand of one delivery is about. */
typedef struct arrival {
    const subscription *s;
    const news *n;
} arrival;

/* What only a subscription begins with; and the registry's key of its metatable. */
static const char subscription_tag;

static subscription *check(lua_State *L)
{
    subscription *s = lua_touserdata(L, 1);
    if (s == NULL || lua_rawlen(L, 1) != sizeof(*s) || s->tag != &subscription_tag) {
        luaL_typeerror(L, 1, "subscription");
    }
    return s;
}

/* FNV-1a (Fowler, Noll, Vo). */
static uint32_t hash_of(const char *text, size_t len)
{
    uint32_t hash = UINT32_C(2166136261);
    for (size_t i = 0; i < len; i++) hash = (hash ^ (uint8_t)text[i]) * UINT32_C(16777619);
    return hash;
}

/* ---- The table ---- */

static void append(host_topics *topics, subscription *s)
{
    bucket *b = &topics->buckets[s->hash & (topics->room - 1)];
    s->next = NULL;
    s->prev = b->last;
    if (b->last != NULL) b->last->next = s;
    else b->first = s;
    b->last = s;
}

/* False: out of memory; what there is remains. Not while a mail is delivered. */
static bool make_room(host_topics *topics)
{
    enum { ROOM_FIRST = 16 };
    uint32_t room = topics->room == 0 ? ROOM_FIRST : topics->room * 2;
    host_topics larger = {.buckets = mem_zalloc(room * sizeof(bucket)), .room = room};
    if (larger.buckets == NULL) return false;
    for (uint32_t i = 0; i < topics->room; i++) {
        subscription *next;
        for (subscription *s = topics->buckets[i].first; s != NULL; s = next) {
            next = s->next;
            append(&larger, s);
        }
    }
    mem_free(topics->buckets);
    topics->buckets = larger.buckets;
    topics->room = room;
    return true;
}

static void leave(host *h, subscription *s)
{
    host_topics *topics = h->topics;
    bucket *b = &topics->buckets[s->hash & (topics->room - 1)];
    if (topics->coming == s) topics->coming = s->next;
    if (s->prev != NULL) s->prev->next = s->next;
    else b->first = s->next;
    if (s->next != NULL) s->next->prev = s->prev;
    else b->last = s->prev;
    topics->count--;
    luaL_unref(h->L, LUA_REGISTRYINDEX, s->ref);
    s->ref = LUA_NOREF;
}

void host_topics_close(host *h)
{
    if (h->topics != NULL) mem_free(h->topics->buckets);
    mem_free(h->topics);
    h->topics = NULL;
}

/* ---- Delivering ---- */

static int push(lua_State *L, host_task *t)
{
    const arrival *a = t->subject;
    luaL_checkstack(L, 4, "a subscription");
    lua_rawgeti(L, LUA_REGISTRYINDEX, a->s->ref);
    lua_getiuservalue(L, -1, 1);
    lua_getiuservalue(L, -2, 2);
    lua_remove(L, -3); /* stack: function, topic */
    host_value_decode(L, &a->n->value);
    lua_insert(L, -2);
    return 2;
}

static void over(host *h, host_task *t, host_errand_end how)
{
    (void)h;
    (void)t;
    (void)how;
}

static bool is_served(const host *h, const subscription *s)
{
    return s->c != NULL && s->c->id == s->conn_id && host_of_conn(s->c) == h;
}

static void deliver_to(host *h, const news *n, bool in_force)
{
    static const host_errand errand = {.push = push, .over = over};
    host_topics *topics = h->topics;
    if (topics == NULL || topics->room == 0) return;
    uint64_t last = topics->numbers; /* who subscribes from here on does not get this one */
    subscription *s = topics->buckets[n->hash & (topics->room - 1)].first;
    for (; s != NULL; s = topics->coming) {
        topics->coming = s->next;
        if (s->number > last || s->hash != n->hash || s->len != n->len || memcmp(s->topic, n->topic, n->len) != 0)
            continue;
        if (!in_force && !is_served(h, s)) continue;
        arrival a = {s, n};
        host_call_errand(h, HOST_TOPIC, &errand, &a);
    }
}

static void deliver(worker *w, mail *m)
{
    const host_seat *seat = w->app_state;
    host *current = host_mail_taker(w);
    if (current == NULL) return;
    deliver_to(current, m->data, true);
    if (seat->fallback != NULL) deliver_to(seat->fallback, m->data, false);
    for (host *h = seat->lingering; h != NULL; h = h->next) deliver_to(h, m->data, false);
}

static void forget(mail *m)
{
    host_value_free(&((news *)m->data)->value);
}

int host_api_publish(lua_State *L)
{
    size_t len;
    const char *topic = host_mail_check_name(L, 1, &len);
    luaL_checkany(L, 2);
    host_value value;
    if (!host_value_encode_in_budget(L, 2, "value", &value)) luaL_argerror(L, 2, lua_tostring(L, -1));
    mail *m = NULL;
    if (value.len > MAIL_BYTES_MAX / 2) {
        host_value_free(&value);
        return host_push_failure(L, "more than 8 MiB at once", "limit");
    }
    m = mail_open(host_of(L)->worker->count, offsetof(news, topic) + len, value.size, deliver, forget);
    if (m == NULL) {
        host_value_free(&value);
    } else {
        news *n = m->data;
        n->value = value;
        n->len = len;
        n->hash = hash_of(topic, len);
        memcpy(n->topic, topic, len);
    }
    return host_mail_post(L, m, HOST_MAIL_ALL);
}

/* ---- Subscriptions ---- */

int host_api_subscribe(lua_State *L)
{
    host *h = host_of(L);
    size_t len;
    const char *topic = host_mail_check_name(L, 1, &len);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    if (h->topics == NULL) h->topics = mem_zalloc(sizeof(*h->topics));
    host_topics *topics = h->topics;
    if (topics == NULL) return host_push_failure(L, "out of memory", "limit");
    if (topics->count == HOST_TOPICS_MAX) return host_push_failure(L, "too many subscriptions: 100000", "limit");
    /* Growing may wait until no mail is being delivered; the first table may not. */
    if (topics->count >= topics->room && (topics->room == 0 || topics->coming == NULL) && !make_room(topics) &&
        topics->room == 0) {
        return host_push_failure(L, "out of memory", "limit");
    }
    subscription *s = lua_newuserdatauv(L, sizeof(*s), 2);
    *s = (subscription){.tag = &subscription_tag, .topic = topic, .len = len, .ref = LUA_NOREF};
    s->hash = hash_of(topic, len);
    s->c = h->task != NULL ? h->task->c : NULL;
    s->conn_id = s->c != NULL ? s->c->id : 0;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &subscription_tag);
    lua_setmetatable(L, -2);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, -2, 1);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 2);
    lua_pushvalue(L, -1);
    s->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    s->number = ++topics->numbers;
    append(topics, s);
    topics->count++;
    return 1;
}

static int method_cancel(lua_State *L)
{
    subscription *s = check(L);
    bool active = s->ref != LUA_NOREF;
    if (active) leave(host_of(L), s);
    lua_pushboolean(L, active);
    return 1;
}

static int to_string(lua_State *L)
{
    const subscription *s = check(L);
    lua_getiuservalue(L, 1, 2);
    lua_pushfstring(L, "subscription (%s%s)", lua_tostring(L, -1), s->ref == LUA_NOREF ? ", canceled" : "");
    return 1;
}

void host_topics_library(lua_State *L)
{
    static const luaL_Reg methods[] = {{"cancel", method_cancel}, {NULL, NULL}};
    static const luaL_Reg metamethods[] = {{"__close", method_cancel}, {"__tostring", to_string}, {NULL, NULL}};
    host_metatable(L, "subscription", &subscription_tag, methods, metamethods);
}
