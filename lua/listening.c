/* listening.c - see listening.h. */
#include "listening.h"

#include "file.h"
#include "io_types.h"
#include "log.h"

#include <stdio.h>
#include <string.h>

enum {
    WHY_BYTES = 256,
    PRIVILEGED_PORTS = 1024 /* below it Linux wants a capability, by default */
};

static bool add(const listening *l, listen_set *set, const char *uri, char *error, size_t error_size)
{
    char why[WHY_BYTES];
    if (set->count == SERVER_LISTENERS_MAX) {
        snprintf(error, error_size, "%s: more than %d addresses in `listen`", l->script, SERVER_LISTENERS_MAX);
        return false;
    }
    if (net_uri_parse(&set->list[set->count], uri, why, sizeof(why)) != IO_OK) {
        snprintf(error, error_size, "%s: cannot use '%s' in `listen` as an address: %s", l->script, uri, why);
        return false;
    }
    set->count++;
    return true;
}

bool listening_collect(const listening *l, listen_set *set, const char *const *uris, char *error, size_t error_size)
{
    const options *o = l->options;
    bool script_says = uris != NULL;
    set->count = 0;
    for (; uris != NULL && *uris != NULL; uris++) {
        if (!add(l, set, *uris, error, error_size)) return false;
    }
    if (o->listen_count > 0) {
        set->count = o->listen_count;
        memcpy(set->list, o->listen, sizeof(set->list));
    }
    return set->count > 0 || script_says || add(l, set, OPTIONS_LISTEN_DEFAULT, error, error_size);
}

static void explain(char *error, size_t error_size, const net_uri *uri, io_status status, int native)
{
    char name[NET_URI_TEXT_MAX];
    net_uri_format(uri, name, sizeof(name));
    bool is_unix = uri->transport == NET_UNIX;
    uint16_t port = net_addr_port(&uri->addr);
    if (status == IO_UNEXPECTED) {
        snprintf(error, error_size, "cannot listen on %s: system error %d", name, native);
    } else if (status == IO_DENIED && port > 0 && port < PRIVILEGED_PORTS) {
        snprintf(error, error_size, "cannot listen on %s: %s: ports below %d are for the privileged", name,
                 io_status_text(status), PRIVILEGED_PORTS);
    } else if (is_unix && status == IO_INVALID) {
        snprintf(error, error_size, "cannot listen on %s: there is a file of that name, and it is no socket", name);
    } else if (is_unix && status == IO_NOT_FOUND) {
        snprintf(error, error_size, "cannot listen on %s: there is no such directory", name);
    } else if (uri->transport == NET_UDP && status == IO_UNSUPPORTED) {
        snprintf(error, error_size, "cannot listen on %s: sockets for datagrams are opened when the server starts",
                 name);
    } else {
        snprintf(error, error_size, "cannot listen on %s: %s", name, io_status_text(status));
    }
}

/* So many times it is among the first count of a set. */
static uint32_t count_in(const listen_set *set, uint32_t count, const net_uri *uri)
{
    char wanted[NET_URI_TEXT_MAX], text[NET_URI_TEXT_MAX];
    uint32_t times = 0;
    net_uri_format(uri, wanted, sizeof(wanted));
    for (uint32_t i = 0; set != NULL && i < count; i++) {
        if (strcmp(net_uri_format(&set->list[i], text, sizeof(text)), wanted) == 0) times++;
    }
    return times;
}

static uint32_t size_of(const listen_set *set)
{
    return set == NULL ? 0 : set->count;
}

bool listening_bind(const listening *l, const listen_set *set, char *error, size_t error_size)
{
    bool is_new[SERVER_LISTENERS_MAX] = {false};
    for (uint32_t i = 0; i < set->count; i++) {
        const net_uri *uri = &set->list[i];
        int native = 0;
        if (server_listens(l->server, uri) >= count_in(set, i + 1, uri)) continue;
        io_status status = server_listen(l->server, uri, &native);
        is_new[i] = status == IO_OK;
        if (status == IO_OK) continue;
        explain(error, error_size, uri, status, native);
        for (uint32_t k = 0; k < i; k++) {
            if (is_new[k]) server_unlisten(l->server, &set->list[k]);
        }
        return false;
    }
    return true;
}

/* Stops listening on one that neither set has. False: there is none. */
static bool drop_one(const listening *l, const listen_set *a, const listen_set *b)
{
    for (uint32_t i = 0; i < server_listener_count(l->server); i++) {
        const net_uri uri = *server_listener_uri(l->server, i);
        uint32_t in_a = count_in(a, size_of(a), &uri), in_b = count_in(b, size_of(b), &uri);
        uint32_t wanted = in_a > in_b ? in_a : in_b;
        if (uri.transport == NET_UDP || server_listens(l->server, &uri) <= wanted) continue;
        server_unlisten(l->server, &uri);
        return true;
    }
    return false;
}

void listening_settle(const listening *l, const listen_set *a, const listen_set *b)
{
    char names[1024] = "nothing";
    size_t len = 0;
    bool changed = server_accept(l->server) > 0;
    while (drop_one(l, a, b)) changed = true;
    if (!changed) return;
    for (uint32_t i = 0; i < server_listener_count(l->server) && len < sizeof(names); i++) {
        int wanted =
            snprintf(names + len, sizeof(names) - len, "%s%s", i > 0 ? ", " : "", server_listener_name(l->server, i));
        len += wanted > 0 ? (size_t)wanted : 0;
    }
    log_write(LOG_INFO, "listening on %s from now on", names);
    (void)listening_write_file(l);
}

bool listening_write_file(const listening *l)
{
    char text[SERVER_LISTENERS_MAX * (NET_URI_TEXT_MAX + 1)];
    char why[WHY_BYTES];
    size_t len = 0;
    if (l->options->address_file == NULL) return true;
    for (uint32_t i = 0; i < server_listener_count(l->server); i++) {
        int wanted = snprintf(text + len, sizeof(text) - len, "%s\n", server_listener_name(l->server, i));
        len += wanted > 0 ? (size_t)wanted : 0;
    }
    if (file_write(l->options->address_file, text, len, why, sizeof(why))) return true;
    log_write(LOG_ERROR, "cannot write the address file %s: %s", l->options->address_file, why);
    return false;
}
