/* host_mail.h - what scripts of different workers tell each other. Part of host_internal.h.
 *
 * Every mail goes through the box of its worker, the own one, too: so it is delivered in order, and never inside the
 * slice in which it was posted. It is addressed to the worker, and what it finds there is the host that is in force.
 */
#ifndef PORTICO_HOST_MAIL_H
#define PORTICO_HOST_MAIL_H

#include "mail.h"

#include <lua.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct host host;
typedef struct host_seat host_seat;
typedef struct host_topics host_topics; /* of a host: who has subscribed to what */

#define HOST_MAIL_ALL UINT32_MAX /* as an address: all workers */

enum {
    HOST_TOPIC_BYTES = 4096, /* of the name of a topic, or of a function that is served */
    HOST_TOPICS_MAX = 100000 /* subscriptions of one host */
};

/* What a candidate says to others: nobody hears it until it is in force on all workers, and if it is refused, nobody ever does. */
typedef struct host_outbox {
    struct host_kept *first; /* mails, in order of posting */
    struct host_kept *last;
    size_t bytes; /* of them, like a box's */
    uint32_t count;
    bool stop; /* portico.shutdown() was called … */
    int code;  /* … with that code; -1: with none */
} host_outbox;

/* ---- host_mail.c ---- */
/* Posts a mail, which may be NULL for want of memory, to a worker, and lets go of it. Pushes what the script gets: true, or nil,
 * message, code; returns how many values. A candidate's is kept for host_outbox_send(). raises, but has let go then, too. */
int host_mail_post(lua_State *L, mail *m, uint32_t to);
/* The same without a script that hears of it: nothing is pushed. */
mail_result host_mail_try(host_seat *seat, mail *m, uint32_t to, uint32_t *full);
/* Posts what was kept, in order. */
void host_outbox_send(host *h);
/* Forgets it. */
void host_outbox_close(host *h);
/* The host that gets the mail of a worker, or NULL when nobody is to. */
host *host_mail_taker(const struct worker *w);
/* A name: 1 to HOST_TOPIC_BYTES bytes. raises */
const char *host_mail_check_name(lua_State *L, int arg, size_t *len);

/* ---- host_remote.c: portico.conn, portico.broadcast ---- */
void host_remote_library(lua_State *L); /* raises */
int host_api_conn(lua_State *L);
int host_api_broadcast(lua_State *L);

/* ---- host_topics.c: portico.publish, portico.subscribe ---- */
void host_topics_library(lua_State *L); /* raises */
int host_api_publish(lua_State *L);
int host_api_subscribe(lua_State *L);
void host_topics_close(host *h);

/* ---- host_calls.c: portico.worker.serve, call and each ---- */
void host_calls_library(lua_State *L); /* raises */
int host_api_serve(lua_State *L);
int host_api_call(lua_State *L);
int host_api_each(lua_State *L);

#endif
