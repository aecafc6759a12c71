/* host_message.c - messages of connections that have a frame: cut out of what came, and put into what is sent.
 *
 * Whole messages are handed to on_message out of the received bytes, without a copy but the script's string. What is not
 * whole, and what must wait because a handler does, stays with the connection: see conn_keep().
 */
#include "host_internal.h"

#include "log.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

enum {
    MESSAGES_MAX = 256, /* what one call of on_data decodes at most, before other connections have their turn */
    TOGETHER_MAX = 512  /* bytes: a short message is queued in one go, which costs less than three */
};

/* What the peer sent is no message. */
static void refuse(conn *c, frame_status status, frame_fault fault)
{
    static log_cause causes[FRAME_FAULTS];
    char peer[NET_ADDR_TEXT_MAX];
    net_addr_format(&c->peer, peer, sizeof(peer));
    log_rarely(&causes[fault], LOG_WARN, frame_fault_text(fault), "conn %" PRIu64 " (%s): %s%s: closed", c->id, peer,
               frame_fault_text(fault), status == FRAME_LIMIT ? " that its frame allows" : "");
    c->fault = (unsigned)fault & 15u;
    conn_close(c, status == FRAME_LIMIT ? CONN_LIMIT : CONN_ERROR);
}

static_assert(FRAME_FAULTS <= 16, "four bits");

void host_messages(host *h, conn *c, const uint8_t *data, size_t len)
{
    size_t start = 0, seen = conn_seen(c);
    uint32_t count = 0;
    while (start < len && c->state == CONN_OPEN) {
        const frame_rule *rule = &c->limits->frame; /* a handler may have changed it */
        size_t rest = len - start;
        if (c->holds > 0 || c->paused || c->above_high || count == MESSAGES_MAX) {
            conn_keep(c, rest, 0);
            break;
        }
        frame_found found;
        frame_status status = rule->type == FRAME_CUSTOM ? host_call_frame(h, c, &found, data + start, rest)
                                                         : frame_decode(&found, rule, data + start, rest, seen);
        if (status == FRAME_MORE) {
            conn_keep(c, rest, found.need);
            break;
        }
        if (status != FRAME_MESSAGE) {
            refuse(c, status, found.fault);
            break;
        }
        start += found.used;
        conn_offer(c, len - start); /* to a handler that reads */
        host_call_message(h, c, data + start - found.used + found.start, found.len);
        start = len - conn_offered(c);
        h = host_of_conn(c);
        seen = 0;
        count++;
    }
    c->messages += count - 1; /* conn.c counted one */
}

void host_note_truncated(const conn *c)
{
    char peer[NET_ADDR_TEXT_MAX];
    log_write(LOG_DEBUG, "conn %" PRIu64 " (%s): the stream ended inside a message, of which %zu bytes came", c->id,
              net_addr_format(&c->peer, peer, sizeof(peer)), conn_truncated(c));
}

const char *host_message_send(io_status *status, conn *c, const void *data, size_t len)
{
    frame_coat coat;
    const char *wrong = frame_encode(&coat, &c->limits->frame, data, len);
    if (wrong != NULL) return wrong;
    *status = IO_OK;
    size_t body = len - coat.skip, total = coat.head_len + body + coat.tail_len;
    if (total <= TOGETHER_MAX) {
        uint8_t bytes[TOGETHER_MAX];
        memcpy(bytes, coat.head, coat.head_len);
        memcpy(bytes + coat.head_len, (const char *)data + coat.skip, body);
        if (coat.tail_len > 0) memcpy(bytes + coat.head_len + body, coat.tail, coat.tail_len);
        *status = conn_send(c, bytes, total);
        return NULL;
    }
    if (coat.head_len > 0) *status = conn_send(c, coat.head, coat.head_len);
    if (*status == IO_OK) *status = conn_send(c, (const char *)data + coat.skip, body);
    if (*status == IO_OK && coat.tail_len > 0) *status = conn_send(c, coat.tail, coat.tail_len);
    if (*status == IO_LIMIT) conn_abort(c, CONN_LIMIT, IO_LIMIT); /* a part of it may be queued */
    return NULL;
}

io_status host_message_send_any(lua_State *L, conn *c, int message)
{
    size_t len;
    io_status status;
    if (c->limits->frame.type == FRAME_CUSTOM) {
        host_frame_encode(L, c, message);
        const char *bytes = lua_tolstring(L, -1, &len);
        return conn_send(c, bytes, len);
    }
    lua_concat(L, lua_gettop(L) - message + 1);
    const char *bytes = lua_tolstring(L, message, &len);
    const char *wrong = host_message_send(&status, c, bytes, len);
    if (wrong != NULL) luaL_error(L, "send: %s", wrong);
    return status;
}
