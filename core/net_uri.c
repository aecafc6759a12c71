/* net_uri.c - reading and writing URIs; the addresses in them are net.c's. */
#include "net_uri.h"

#include "base.h"
#include "net_system.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

_Static_assert(NET_URI_TEXT_MAX >= NET_ADDR_TEXT_MAX + 8, "every URI fits");

static const struct {
    const char *prefix;
    net_transport transport;
} prefixes[] = {{"tcp://", NET_TCP}, {"udp://", NET_UDP}, {"unix:", NET_UNIX}};

const char *net_uri_split(net_transport *transport, const char *text)
{
    *transport = NET_TCP;
    for (size_t i = 0; i < array_count(prefixes); i++) {
        if (!net_has_scheme(text, prefixes[i].prefix)) continue;
        *transport = prefixes[i].transport;
        return text + strlen(prefixes[i].prefix);
    }
    return text;
}

/* "mode=0660": octal digits, at most the nine permission bits. */
static io_status read_option(net_uri *uri, const char *option, char *error, size_t error_size)
{
    enum { MODE_MAX = 0777 };
    static const char name[] = "mode=";
    const char *digits = option + strlen(name);
    int mode = 0;
    if (strncmp(option, name, strlen(name)) != 0) {
        return net_invalid(error, error_size, "after the '?' only mode=0660 or the like can be given, not '%s'",
                           option);
    }
    for (const char *digit = digits; *digit != '\0' && mode <= MODE_MAX; digit++) {
        mode = *digit >= '0' && *digit <= '7' ? mode * 8 + (*digit - '0') : MODE_MAX + 1;
    }
    if (*digits == '\0' || mode > MODE_MAX) {
        return net_invalid(error, error_size, "mode: octal digits up to 0777 expected, not '%s'", digits);
    }
    uri->mode = (int16_t)mode;
    return IO_OK;
}

static io_status parse_unix(net_uri *uri, const char *path, char *error, size_t error_size)
{
    const char *option = strchr(path, '?');
    size_t len = option == NULL ? strlen(path) : (size_t)(option - path);
    if (strncmp(path, "//", 2) == 0) {
        if (path[2] != '/') return net_invalid(error, error_size, "unix:/PATH or unix:PATH expected, without the '//'");
        path += 2; /* the URI with an empty authority */
        len -= 2;
        for (; path[1] == '/'; path++) len--; /* written without one, a second '/' would look like it */
    }
    if (len == 0) return net_invalid(error, error_size, "unix: the path is missing");
    if (len > NET_PATH_MAX) {
        return net_invalid(error, error_size, "the path has %zu bytes: a Unix socket's has %d at most", len,
                           NET_PATH_MAX);
    }
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)path[i] < ' ') return net_invalid(error, error_size, "the path holds a control character");
    }
    memcpy(uri->path, path, len);
    uri->path[len] = '\0';
    if (uri->path[0] == '@' && len == 1) return net_invalid(error, error_size, "unix:@: the name is missing");
    if (option == NULL) return IO_OK;
    if (uri->path[0] == '@') return net_invalid(error, error_size, "an abstract name is no file and has no options");
    return read_option(uri, option + 1, error, error_size);
}

io_status net_uri_parse(net_uri *uri, const char *text, char *error, size_t error_size)
{
    net_transport transport;
    const char *rest = net_uri_split(&transport, text);
    *uri = (net_uri){.transport = (uint8_t)transport, .mode = NET_MODE_NONE};
    if (transport == NET_UNIX) return parse_unix(uri, rest, error, error_size);
    if (transport == NET_TCP) return net_addr_parse(&uri->addr, text, error, error_size);
    if (strstr(rest, "://") != NULL) return net_invalid(error, error_size, "'%.32s' has two transports", text);
    return net_addr_parse(&uri->addr, rest, error, error_size);
}

char *net_uri_format(const net_uri *uri, char *text, size_t size)
{
    char addr[NET_ADDR_TEXT_MAX];
    assert(size >= NET_URI_TEXT_MAX);
    if (uri->transport == NET_UNIX) {
        (void)snprintf(text, size, "unix:%s", uri->path);
    } else {
        (void)snprintf(text, size, "%s://%s", uri->transport == NET_UDP ? "udp" : "tcp",
                       net_addr_format(&uri->addr, addr, sizeof addr));
    }
    return text;
}
