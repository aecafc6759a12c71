/* net.c - what of net.h is the same on every system: reading and writing addresses, and the statuses in words. */
#include "net.h"

#include "base.h"
#include "net_system.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    HOST_MAX = 253, /* characters of a DNS name */
    PORT_MAX = 65535,
    PORT_DIGITS_MAX = 20 /* quoted back in an error; more than a port can have */
};

static const struct {
    const char *name;
    const char *text;
} status_words[] = {
    [-IO_OK] = {"ok", "no error"},
    [-IO_AGAIN] = {"again", "nothing there now"},
    [-IO_CANCELED] = {"canceled", "canceled"},
    [-IO_RESET] = {"reset", "connection reset by peer"},
    [-IO_REFUSED] = {"refused", "connection refused"},
    [-IO_TIMEOUT] = {"timeout", "timed out"},
    [-IO_UNREACHABLE] = {"unreachable", "network or host is unreachable"},
    [-IO_LIMIT] = {"limit", "no descriptors, memory or kernel buffers left"},
    [-IO_IN_USE] = {"in_use", "address already in use"},
    [-IO_DENIED] = {"denied", "permission denied"},
    [-IO_UNAVAILABLE] = {"unavailable", "not an address of this machine"},
    [-IO_UNSUPPORTED] = {"unsupported", "not supported on this system"},
    [-IO_CLOSED] = {"closed", "closed"},
    [-IO_INVALID] = {"invalid", "invalid argument"},
    [-IO_NOT_FOUND] = {"not_found", "there is nothing of that name"},
    [-IO_UNEXPECTED] = {"unexpected", "unexpected error"},
};

static size_t status_index(io_status status)
{
    int index = -(int)status;
    assert(index >= 0 && (size_t)index < array_count(status_words));
    if (index < 0 || (size_t)index >= array_count(status_words)) return (size_t)-IO_UNEXPECTED;
    return (size_t)index;
}

const char *io_status_name(io_status status)
{
    return status_words[status_index(status)].name;
}

const char *io_status_text(io_status status)
{
    return status_words[status_index(status)].text;
}

/* "HOST:PORT" taken apart. */
typedef struct host_port {
    char host[HOST_MAX + 1]; /* without brackets */
    uint16_t port;
    bool bracketed;
} host_port;

io_status net_invalid(char *error, size_t error_size, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(error, error_size, format, arguments);
    va_end(arguments);
    return IO_INVALID;
}

bool net_has_scheme(const char *text, const char *scheme)
{
    size_t i = 0;
    for (; scheme[i] != '\0'; i++) {
        char c = text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] - 'A' + 'a') : text[i];
        if (c != scheme[i]) return false;
    }
    return true;
}

static bool is_digits(const char *text)
{
    if (*text == '\0') return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9') return false;
    }
    return true;
}

static io_status read_port(uint16_t *port, const char *text, char *error, size_t error_size)
{
    unsigned value = 0;
    if (!is_digits(text[0] == '-' ? text + 1 : text)) {
        return net_invalid(error, error_size, "'%.*s' is not a port number", PORT_DIGITS_MAX, text);
    }
    for (const char *digit = text; *digit != '\0' && value <= PORT_MAX; digit++) {
        if (*digit == '-') value = PORT_MAX + 1; /* no negative port is in range */
        else value = value * 10 + (unsigned)(*digit - '0');
    }
    if (value > PORT_MAX) {
        return net_invalid(error, error_size, "port %.*s is not between 0 and %d", PORT_DIGITS_MAX, text, PORT_MAX);
    }
    *port = (uint16_t)value;
    return IO_OK;
}

static io_status split(host_port *parts, const char *uri, char *error, size_t error_size)
{
    const char *rest = uri;
    const char *scheme_end = strstr(uri, "://");
    const char *host_end;
    const char *port;
    if (uri[0] == '\0') return net_invalid(error, error_size, "the address is empty");
    if (scheme_end != NULL) {
        size_t len = (size_t)(scheme_end - uri);
        if (!net_has_scheme(uri, "tcp://")) {
            return net_invalid(error, error_size,
                               "'%.*s' is not a transport: use tcp://, udp:// or unix:", (int)(len < 32 ? len : 32),
                               uri);
        }
        rest = scheme_end + 3;
    }
    parts->bracketed = rest[0] == '[';
    if (parts->bracketed) {
        rest++;
        host_end = strchr(rest, ']');
        if (host_end == NULL) return net_invalid(error, error_size, "the closing bracket is missing");
        port = host_end + 1;
        if (*port != ':' && *port != '\0') {
            return net_invalid(error, error_size, "after the bracket only :PORT may follow");
        }
    } else {
        host_end = strrchr(rest, ':');
        if (host_end == NULL) host_end = rest + strlen(rest);
        if (memchr(rest, ':', (size_t)(host_end - rest)) != NULL) {
            return net_invalid(error, error_size, "an IPv6 address goes in brackets: [::1]:7777");
        }
        port = host_end;
    }
    if (host_end == rest) return net_invalid(error, error_size, "the host is missing ('*' is every address)");
    if (port[0] == '\0' && is_digits(rest)) {
        return net_invalid(error, error_size, "the host is missing, as in 127.0.0.1:%s", rest);
    }
    if (port[0] == '\0' && scheme_end == NULL && strchr(uri, '/') != NULL) {
        return net_invalid(error, error_size, "the port is missing; a Unix socket is unix:%s", uri);
    }
    if (port[0] == '\0' || port[1] == '\0') return net_invalid(error, error_size, "the port is missing");
    size_t host_len = (size_t)(host_end - rest);
    if (host_len > HOST_MAX) return net_invalid(error, error_size, "the host is longer than %d characters", HOST_MAX);
    memcpy(parts->host, rest, host_len);
    parts->host[host_len] = '\0';
    return read_port(&parts->port, port + 1, error, error_size);
}

/* ::ffff:a.b.c.d is a.b.c.d: every IPv6 socket here takes IPv6 only, so that only the IPv4 address can be bound or reached. */
static void unmap(net_endpoint *endpoint)
{
    static const uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (endpoint->version != 6 || memcmp(endpoint->bytes, prefix, sizeof prefix) != 0) return;
    memmove(endpoint->bytes, endpoint->bytes + sizeof prefix, 4);
    endpoint->version = 4;
}

/* The hosts that need no resolver. */
static bool read_host(net_endpoint *endpoint, const host_port *parts)
{
    const char *host = parts->host;
    if (parts->bracketed) return net_system_read_host(endpoint, 6, host);
    if (strcmp(host, "*") == 0) host = "0.0.0.0";
    if (strcmp(host, "localhost") == 0) host = "127.0.0.1";
    return net_system_read_host(endpoint, 4, host);
}

io_status net_addr_parse(net_addr *addr, const char *uri, char *error, size_t error_size)
{
    host_port parts;
    net_endpoint endpoint = {0};
    io_status status = split(&parts, uri, error, error_size);
    if (status != IO_OK) return status;
    if (!read_host(&endpoint, &parts)) {
        if (parts.bracketed) return net_invalid(error, error_size, "'%s' is not an IPv6 address", parts.host);
        return net_invalid(error, error_size, "'%s' is not a numeric address, localhost or *", parts.host);
    }
    endpoint.port = parts.port;
    unmap(&endpoint);
    net_system_pack(addr, &endpoint);
    return IO_OK;
}

enum { RESOLVE_MAX = 16 }; /* addresses of one name; a caller has no use for more */

io_status net_addr_resolve(net_addr *addrs, size_t *count, const char *uri, char *error, size_t error_size)
{
    host_port parts;
    net_endpoint endpoints[RESOLVE_MAX] = {{{0}, 0, 0}};
    char why[128] = "";
    size_t found = *count < RESOLVE_MAX ? *count : RESOLVE_MAX;
    assert(*count > 0);
    io_status status = split(&parts, uri, error, error_size);
    if (status != IO_OK) return status;
    if (read_host(&endpoints[0], &parts)) {
        found = 1;
    } else if (parts.bracketed) {
        return net_invalid(error, error_size, "'%s' is not an IPv6 address", parts.host);
    } else {
        status = net_system_resolve(endpoints, &found, parts.host, why, sizeof why);
        if (status != IO_OK) {
            (void)snprintf(error, error_size, "'%s': %s", parts.host, why);
            return status;
        }
    }
    for (size_t i = 0; i < found; i++) {
        endpoints[i].port = parts.port;
        unmap(&endpoints[i]);
        net_system_pack(&addrs[i], &endpoints[i]);
    }
    *count = found;
    return IO_OK;
}

uint64_t net_addr_site(const net_addr *addr, bool *loopback)
{
    static const uint8_t own[16] = {[15] = 1}; /* ::1 */
    net_endpoint endpoint;
    net_system_unpack(&endpoint, addr);
    *loopback = endpoint.version == 6 && memcmp(endpoint.bytes, own, sizeof own) == 0;
    if (*loopback) return 1; /* nobody has 0.0.0.1 */
    if (endpoint.version != 4 && endpoint.version != 6) return 0;
    uint64_t site = 0;
    for (size_t i = 0; i < (endpoint.version == 4 ? 4u : 8u); i++) site = site << 8 | endpoint.bytes[i];
    *loopback = endpoint.version == 4 && endpoint.bytes[0] == 127;
    return site;
}

char *net_addr_format(const net_addr *addr, char *text, size_t size)
{
    net_endpoint endpoint;
    char host[NET_HOST_TEXT_MAX];
    assert(size >= NET_ADDR_TEXT_MAX);
    net_system_unpack(&endpoint, addr);
    if (endpoint.version != 4 && endpoint.version != 6) {
        (void)snprintf(text, size, endpoint.version == NET_VERSION_UNIX ? "unix" : "-");
        return text;
    }
    net_system_write_host(&endpoint, host, sizeof host);
    (void)snprintf(text, size, endpoint.version == 6 ? "[%s]:%u" : "%s:%u", host, (unsigned)endpoint.port);
    return text;
}

uint16_t net_addr_port(const net_addr *addr)
{
    net_endpoint endpoint;
    net_system_unpack(&endpoint, addr);
    return endpoint.port;
}

bool net_addr_is_unix(const net_addr *addr)
{
    net_endpoint endpoint;
    net_system_unpack(&endpoint, addr);
    return endpoint.version == NET_VERSION_UNIX;
}

net_addr net_addr_unix(void)
{
    const net_endpoint endpoint = {.version = NET_VERSION_UNIX};
    net_addr addr;
    net_system_pack(&addr, &endpoint);
    return addr;
}
