/* host_mail.c - posting, and what the sender hears of it. */
#include "host_internal.h"

#include "server.h"

#include <stdio.h>

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

int host_mail_post(lua_State *L, mail *m, uint32_t to)
{
    uint32_t full;
    char text[64];
    if (m == NULL) return host_push_failure(L, "out of memory", "limit");
    switch (host_mail_try(host_of(L)->seat, m, to, &full)) {
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
