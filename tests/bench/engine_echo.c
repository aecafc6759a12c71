/* engine_echo.c - Portico's engine with an echo app in C: what the engine costs without Lua.
 *
 *   engine_echo BACKEND      listens on 127.0.0.1, prints the address, serves with one worker until it is killed
 */
#include "log.h"
#include "net.h"
#include "os.h"
#include "server.h"

#include <stdio.h>

static void on_open(conn *c, io_status status)
{
    (void)c;
    (void)status;
}

static void on_data(conn *c, const uint8_t *data, size_t len)
{
    conn_send(c, data, len);
}

static void nothing(conn *c)
{
    (void)c;
}

static void on_close(conn *c, conn_reason reason, io_status status)
{
    (void)reason;
    (void)status;
    conn_release(c);
}

static const conn_events events = {on_open, on_data, nothing, nothing, nothing, on_close};

static bool app_open(worker *w, void *context)
{
    (void)w;
    (void)context;
    return true;
}

static void app_close(worker *w)
{
    (void)w;
}

static void app_accept(worker *w, io_socket socket, const net_addr *peer, const char *name)
{
    conn_config config = {.events = &events, .limits = &conn_limits_default, .listener = name};
    conn_open(&w->conns, socket, peer, &config);
}

static const worker_app app = {.open = app_open, .close = app_close, .accept = app_accept};

int main(int argc, char **argv)
{
    char text[256];
    net_uri uri;
    int native;
    bool app_failed;
    os_news_open();
    net_start();
    os_raise_descriptor_limit();
    server_options options = {.workers = 1, .drain_ns = 1000000000};
    options.backend = io_backend_find(argc > 1 ? argv[1] : NULL, text, sizeof(text));
    if (options.backend == NULL) {
        fprintf(stderr, "engine_echo: %s\n", text);
        return 1;
    }
    server *s = server_open(&options, &app, NULL, &app_failed);
    if (s == NULL || net_uri_parse(&uri, "tcp://127.0.0.1:0", text, sizeof(text)) != IO_OK ||
        server_listen(s, &uri, &native) != IO_OK) {
        return 1;
    }
    server_start(s);
    printf("%s\n", server_listener_name(s, 0));
    fflush(stdout);
    while (!server_ended(s)) {
        if (os_news_wait(-1) == OS_NEWS_STOP) server_stop(s);
    }
    server_end end = server_wait(s);
    server_close(s);
    net_stop();
    return end == SERVER_CLEAN ? 0 : 1;
}
