/* stage.c - see stage.h. */
#include "stage.h"

#include <assert.h>

static void note(player *p, const char *format, ...) PRINTF_LIKE(2, 3);
static void note(player *p, const char *format, ...)
{
    if (p->quiet) return;
    size_t len = strlen(p->events);
    if (len > 0 && len + 1 < sizeof(p->events)) p->events[len++] = ' ';
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(p->events + len, sizeof(p->events) - len, format, arguments);
    va_end(arguments);
}

static player *player_of(conn *c)
{
    player *p = c->user;
    check(p->closes == 0); /* nothing comes after on_close */
    check_eq(c->holds, 0); /* and nothing while held */
    return p;
}

static void on_open(conn *c, io_status status)
{
    player *p = player_of(c);
    check_eq(p->opens, 0);
    p->opens++;
    if (status == IO_OK) note(p, "open");
    else note(p, "open(%s)", io_status_name(status));
    if (status != IO_OK) p->c = NULL;
    if (p->in_open != NULL) p->in_open(p);
}

static void on_data(conn *c, const uint8_t *data, size_t len)
{
    player *p = player_of(c);
    check_eq(p->opens, 1);
    check_eq(p->eofs, 0);
    check(len > 0);
    p->datas++;
    if (p->received_len + len > p->received_room) {
        p->received_room = (p->received_len + len) * 2;
        p->received = realloc(p->received, p->received_room);
        check(p->received != NULL);
    }
    memcpy(p->received + p->received_len, data, len);
    p->received_len += len;
    note(p, "data(%.*s)", (int)len, (const char *)data);
    if (p->in_data != NULL) p->in_data(p, data, len);
}

static void on_readable(conn *c)
{
    player *p = player_of(c);
    p->readables++;
    note(p, "readable");
    if (p->in_readable != NULL) p->in_readable(p);
}

static void on_eof(conn *c)
{
    player *p = player_of(c);
    check_eq(p->eofs, 0);
    p->eofs++;
    note(p, "eof");
    if (p->in_eof != NULL) p->in_eof(p);
}

static void on_drain(conn *c)
{
    player *p = player_of(c);
    p->drains++;
    note(p, "drain");
    if (p->in_drain != NULL) p->in_drain(p);
}

static void on_turn(conn *c)
{
    note(player_of(c), "turn");
}

static void on_close(conn *c, conn_reason reason, io_status status)
{
    player *p = player_of(c);
    check_eq(p->opens, 1);
    p->closes++;
    (void)status;
    note(p, "close(%s)", conn_reason_name(reason));
    check_eq(conn_send(c, "late", 4), IO_CLOSED);
    if (p->in_close != NULL) p->in_close(p);
    if (p->keep) return;
    p->c = NULL;
    conn_release(c);
}

static const conn_events events_of_players = {on_open, on_data, on_readable, on_eof, on_drain, on_close, on_turn, NULL};

void stage_open(stage *s)
{
    rig_open(&s->rig, NULL);
    timers_open(&s->timers);
    conn_set_open(&s->conns, s->rig.port, &s->timers, 1, 1);
    s->limits = conn_limits_default;
}

void stage_close(stage *s)
{
    check_eq(s->conns.count, 0);
    check_eq(s->timers.count, 0);
    check_eq(s->conns.opened, s->conns.closed);
    conn_set_close(&s->conns);
    timers_close(&s->timers);
    rig_close(&s->rig);
}

static conn_config config_of(stage *s, player *p, conn_receive receive, bool half_open)
{
    return (conn_config){.events = &events_of_players,
                         .limits = &s->limits,
                         .listener = "test",
                         .user = p,
                         .receive = receive,
                         .half_open = half_open};
}

void stage_pair(stage *s, player *p, conn_receive receive, bool half_open)
{
    p->peer = peer_connect(&s->rig.address);
    conn_config config = config_of(s, p, receive, half_open);
    io_socket socket = rig_accept(&s->rig);
    s->conns.now_ns = io_port_now(s->rig.port); /* its deadlines count from here, and not from the last turn */
    p->c = conn_open(&s->conns, socket, NULL, &config);
    check(p->c != NULL);
    while (conn_settle(&s->conns)) {
    }
    check_eq(p->opens, 1);
}

void stage_connect(stage *s, player *p, const net_addr *addr)
{
    conn_config config = config_of(s, p, CONN_LENT, false);
    io_status status;
    p->peer = IO_SOCKET_NONE;
    const net_uri target = net_uri_tcp(addr);
    p->c = conn_connect(&s->conns, &target, &config, &status);
    check_eq(status, IO_OK);
    check(p->c != NULL);
}

void stage_leave(stage *s, player *p)
{
    stage_until(s, p->c == NULL);
    if (p->peer != IO_SOCKET_NONE) peer_close(p->peer);
    p->peer = IO_SOCKET_NONE;
    free(p->received);
    p->received = NULL;
}

void stage_turn(stage *s, int64_t timeout_ns)
{
    io_packet packet;
    check_eq(io_port_wait(s->rig.port, timeout_ns), IO_OK);
    s->conns.now_ns = io_port_now(s->rig.port);
    while (io_port_next(s->rig.port, &packet)) {
        conn_on_packet(&packet);
        while (conn_settle(&s->conns)) {
        }
    }
    timers_run(&s->timers, s->conns.now_ns, UINT32_MAX);
    do {
        while (conn_settle(&s->conns)) {
        }
        conn_send_unsent(&s->conns);
    } while (s->conns.dirty_head != NULL);
}

void stage_quiet(stage *s, int64_t ns)
{
    int64_t end = io_port_now(s->rig.port) + ns;
    while (io_port_now(s->rig.port) < end) stage_turn(s, 5000000);
}

void player_sends(player *p, const char *text)
{
    check_eq(conn_send(p->c, text, strlen(text)), IO_OK);
}

void player_echoes(player *p, const uint8_t *data, size_t len)
{
    check_eq(conn_send(p->c, data, len), IO_OK);
}

void player_peer_gets(player *p, const char *text)
{
    char bytes[256];
    size_t len = strlen(text);
    check(len < sizeof(bytes));
    check_eq(peer_recv(p->peer, bytes, len), len);
    check_mem(bytes, text, len);
}

void player_peer_gets_fin(player *p)
{
    char byte;
    check_eq(peer_recv(p->peer, &byte, 1), 0);
}
