/* host_conn.h - what scripts do with connections and datagrams. Part of host_internal.h, which says what the words mean. */
#ifndef PORTICO_HOST_CONN_H
#define PORTICO_HOST_CONN_H

#include "host_task.h"

#include "conn.h"
#include "worker.h"

#include <lauxlib.h>
#include <lua.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct host_conn host_conn;

/* The userdata that scripts see as conn. It is valid while the slot that it points to has its id: slots are not freed
 * before the worker's last state is closed, so that a stale one needs no clearing. User value 1 is conn.state; an outbound one has 2, its handlers by kind, and
 * 3, the address it was given. */
struct host_conn {
    const void *tag;       /* tells it from other userdata */
    conn *c;               /* see host_conn_get(); NULL: not yet, or no more */
    host_attempt *attempt; /* that waits for it to be connected; else NULL */
    uint64_t id;
    host_conn *before;          /* what its connection had in the host that it was moved from, as long as … */
    uint64_t before_generation; /* … that is the seat's fallback, and of this generation */
    uint32_t handlers;          /* outbound: its own */
    int ref;                    /* LUA_NOREF: not anchored */
    bool pooled;                /* outbound: it waits in the pool, and is nobody's */
    bool carried;               /* moved here from a host that cannot be gone back to */
    int frame_ref;              /* conn->own_frame: the host_custom, if Lua decodes it */
};

/* The connection of a userdata, or NULL when it is over, for scripts at least. */
static inline conn *host_conn_get(const host_conn *hc)
{
    return hc->c != NULL && hc->c->id == hc->id ? hc->c : NULL;
}

/* It waits in a pool, where no script may find it. */
static inline bool host_conn_is_pooled(const conn *c)
{
    return c->outbound && c->user != NULL && ((const host_conn *)c->user)->pooled;
}

/* ---- host_conn.c ---- */
/* The conn at index, or NULL when it is something else. */
const host_conn *host_conn_test(lua_State *L, int index);
/* The connection of the conn at arg, or NULL when it is over. raises */
conn *host_conn_check(lua_State *L, int arg);
/* Makes the metatable. raises */
void host_conn_library(lua_State *L);
/* Pushes a new userdata that belongs to no connection yet and is anchored. raises */
host_conn *host_conn_new(lua_State *L, int user_values);
/* Pushes the connection's userdata, which is made at its first use. One that another host serves is moved here first; where
 * that cannot be, the userdata is a visitor's: it can do all, but has a copy of conn.state. raises */
void host_conn_push(lua_State *L, conn *c);
/* Takes the anchor off: from here on the script alone keeps it. */
void host_conn_unanchor(host *h, host_conn *hc);
/* The userdata of a connection that is over, for scripts: from here on it is stale. Without one, nothing. */
void host_conn_detach(host *h, conn *c);
/* The same for one that never belonged to a connection. */
void host_conn_drop(host *h, host_conn *hc);

/* ---- host_message.c: messages of connections that have a frame ---- */
/* on_data for them: calls on_message for each whole one. */
void host_messages(host *h, conn *c, const uint8_t *data, size_t len);
/* Sends one, in a frame that is not FRAME_CUSTOM. Returns NULL, and conn_send()'s result; or what is wrong with it. */
const char *host_message_send(io_status *status, conn *c, const void *data, size_t len);
/* Sends the values from index message to the top as one message, in any frame but FRAME_RAW. raises what is wrong with it */
io_status host_message_send_any(lua_State *L, conn *c, int message);
/* Logs that the stream ended inside a message. */
void host_note_truncated(const conn *c);

/* ---- host_stream.c: conn:read and its kin ---- */
extern const luaL_Reg host_stream_methods[];
/* Pushes nil, message, code for a connection that is over, or not OPEN; returns 3. c may be NULL. raises */
int host_push_over(lua_State *L, const conn *c);
/* conn:send on that connection waits while its queue is above the high mark: the stream that runs is its own. */
bool host_stream_sends_wait(lua_State *L, const conn *c);
/* Then it ends with this. raises */
int host_stream_send_waits(lua_State *L, conn *c);
/* The task that waits is being ended, or does not wait for it any longer. */
void host_stream_abandon(host_task *t);

/* ---- host_pipe.c: conn:pipe ---- */
extern const luaL_Reg host_pipe_methods[];
/* The task that waits is being ended. */
void host_pipe_abandon(host_pipe *hp);

/* ---- host_connect.c: portico.connect ---- */
int host_api_connect(lua_State *L);
/* An outbound connection is open, or it is known why not. */
void host_connect_opened(host *h, conn *c, io_status status);
/* An outbound connection is open, and it is the first: the others of its attempt are given up. Before any handler. */
void host_connect_won(conn *c);
/* The task that waits is being ended. */
void host_connect_abandon(host_attempt *a);

/* ---- host_pool.c: connections that wait to be used again ---- */
typedef struct host_pool_options {
    uint32_t size; /* idle ones to one URI; 0: no pool */
    int64_t idle_ns;
} host_pool_options;
/* Reads the option `pool` of the function's argument arg from the value at index. raises */
void host_pool_read(lua_State *L, host_pool_options *options, int arg, int index);
/* Notes it in the table of a conn's handlers, for conn:release(). raises */
void host_pool_note(lua_State *L, const host_pool_options *options, int handlers);
/* Takes one out; its limits are those of a new one, and it is paused. NULL: there is none. */
conn *host_pool_take(host *h, const char *uri);
/* Closes all. */
void host_pool_close(host *h);
int host_conn_release(lua_State *L);

/* ---- host_udp.c: datagrams, portico.udp ---- */
void host_udp_library(lua_State *L); /* raises */
int host_api_udp(lua_State *L);
/* Takes this worker's socket of a UDP listener: see worker_app. */
void host_udp_take(worker *w, io_socket socket, const char *listener);
/* Pushes the peer of a datagram. raises */
void host_udp_push_peer(lua_State *L, const host_datagram *d);
/* Sends what the handler of the task's datagram has returned. */
void host_udp_reply(const host_task *t, const char *data, size_t len);
/* Few enough handlers of datagrams wait again. */
void host_udp_resume(host *h);

#endif
