/* host_mail.c - posting, and what the sender hears of it. */
#include "host_internal.h"

#include "server.h"

#include <inttypes.h>
#include <stdio.h>

/* A mail in an outbox. */
typedef struct host_kept host_kept;
struct host_kept {
    host_kept *next;
    mail *mail;
    uint32_t to;
};

mail_result host_mail_try(host_seat *seat, mail *m, uint32_t to, uint32_t *full)
{
    server *s = seat->worker->server;
    mail_box *boxes[WORKER_MAX] = {NULL};
    uint32_t count = 0;
    if (to == HOST_MAIL_ALL) {
        for (; count < seat->worker->count; count++) boxes[count] = &server_worker(s, count)->box;
    } else {
        boxes[count++] = &server_worker(s, to)->box;
    }
    mail_result result = mail_post(m, boxes, count, full);
    if (to != HOST_MAIL_ALL) *full = to;
    mail_release(m);
    return result;
}

/* ---- The outbox ---- */

/* The outbox takes over the mail. False: it is full, or there is no memory. */
static bool keep(host_outbox *box, mail *m, uint32_t to)
{
    bool has_room = box->count < MAIL_COUNT_MAX && m->bytes <= MAIL_BYTES_MAX - box->bytes;
    host_kept *one = has_room ? mem_alloc(sizeof(*one)) : NULL;
    if (one == NULL) {
        mail_release(m);
        return false;
    }
    *one = (host_kept){.mail = m, .to = to};
    if (box->last != NULL) box->last->next = one;
    else box->first = one;
    box->last = one;
    box->bytes += m->bytes;
    box->count++;
    return true;
}

/* The oldest, which is the caller's then; NULL: none. */
static mail *take(host_outbox *box, uint32_t *to)
{
    host_kept *one = box->first;
    if (one == NULL) return NULL;
    mail *m = one->mail;
    *to = one->to;
    box->first = one->next;
    if (box->first == NULL) box->last = NULL;
    box->bytes -= m->bytes;
    box->count--;
    mem_free(one);
    return m;
}

void host_outbox_send(host *h)
{
    uint32_t to = 0, full, dropped = 0;
    for (mail *m = take(&h->outbox, &to); m != NULL; m = take(&h->outbox, &to)) {
        if (host_mail_try(h->seat, m, to, &full) == MAIL_FULL) dropped++;
    }
    if (dropped > 0)
        log_write(LOG_WARN,
                  "worker %" PRIu32 ": %" PRIu32
                  " of what the script posted while it loaded is dropped: a message queue is full",
                  h->worker->id, dropped);
}

void host_outbox_close(host *h)
{
    uint32_t to;
    for (mail *m = take(&h->outbox, &to); m != NULL; m = take(&h->outbox, &to)) mail_release(m);
}

/* ---- Posting ---- */

int host_mail_post(lua_State *L, mail *m, uint32_t to)
{
    host *h = host_of(L);
    uint32_t full;
    char text[64];
    if (m == NULL) return host_push_failure(L, "out of memory", "limit");
    if (h->holds_back) {
        if (!keep(&h->outbox, m, to)) return host_push_failure(L, "too much is posted while the script loads", "limit");
        lua_pushboolean(L, true);
        return 1;
    }
    switch (host_mail_try(h->seat, m, to, &full)) {
    case MAIL_POSTED:
        lua_pushboolean(L, true);
        return 1;
    case MAIL_FULL:
        snprintf(text, sizeof(text), "the message queue of worker %u is full", (unsigned)full);
        return host_push_failure(L, text, "limit");
    case MAIL_STOPPED:
    default:
        return host_push_failure(L, "the server is stopping", "closed");
    }
}

host *host_mail_taker(const struct worker *w)
{
    const host_seat *seat = w->app_state;
    return seat->config->check ? NULL : seat->current;
}

const char *host_mail_check_name(lua_State *L, int arg, size_t *len)
{
    luaL_checktype(L, arg, LUA_TSTRING);
    const char *name = lua_tolstring(L, arg, len);
    luaL_argcheck(L, *len >= 1 && *len <= HOST_TOPIC_BYTES, arg, "a name of 1 to 4096 bytes expected");
    return name;
}
