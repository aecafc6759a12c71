/* net_uris.c - goal: URIs of all transports are read as net_uri.h says, and rubbish is refused in words. Method: tables. */
#include "check.h"
#include "net_uri.h"

static void good_uris_are_read_and_formatted(void)
{
    static const struct {
        const char *text;
        const char *formatted;
        net_transport transport;
        int mode;
    } table[] = {
        {"tcp://127.0.0.1:7777", "tcp://127.0.0.1:7777", NET_TCP, NET_MODE_NONE},
        {"TCP://127.0.0.1:7777", "tcp://127.0.0.1:7777", NET_TCP, NET_MODE_NONE},
        {"Udp://127.0.0.1:53", "udp://127.0.0.1:53", NET_UDP, NET_MODE_NONE},
        {"UNIX:/Run/x", "unix:/Run/x", NET_UNIX, NET_MODE_NONE},
        {"localhost:80", "tcp://127.0.0.1:80", NET_TCP, NET_MODE_NONE},
        {"udp://*:53", "udp://0.0.0.0:53", NET_UDP, NET_MODE_NONE},
        {"udp://[::1]:0", "udp://[::1]:0", NET_UDP, NET_MODE_NONE},
        {"[::ffff:1.2.3.1]:65535", "tcp://1.2.3.1:65535", NET_TCP, NET_MODE_NONE},
        {"unix:/run/portico.sock", "unix:/run/portico.sock", NET_UNIX, NET_MODE_NONE},
        {"unix:///run/portico.sock", "unix:/run/portico.sock", NET_UNIX, NET_MODE_NONE},
        {"unix:////run//portico.sock", "unix:/run//portico.sock", NET_UNIX, NET_MODE_NONE},
        {"unix:here.sock", "unix:here.sock", NET_UNIX, NET_MODE_NONE},
        {"unix:./here.sock?mode=0660", "unix:./here.sock", NET_UNIX, 0660},
        {"unix:/x?mode=0", "unix:/x", NET_UNIX, 0},
        {"unix:/x?mode=777", "unix:/x", NET_UNIX, 0777},
        {"unix:@portico", "unix:@portico", NET_UNIX, NET_MODE_NONE},
    };
    for (size_t i = 0; i < array_count(table); i++) {
        net_uri uri;
        char error[128] = "";
        char text[NET_URI_TEXT_MAX];
        if (net_uri_parse(&uri, table[i].text, error, sizeof error) != IO_OK) fail("%s: %s", table[i].text, error);
        check_str(net_uri_format(&uri, text, sizeof text), table[i].formatted);
        check_eq(uri.transport, table[i].transport);
        check_eq(uri.mode, table[i].mode);
        net_uri again;
        check_eq(net_uri_parse(&again, text, error, sizeof error), IO_OK);
        check(memcmp(&again.addr, &uri.addr, sizeof uri.addr) == 0);
    }
}

static void bad_uris_are_refused_in_words(void)
{
    static const char *const table[] = {
        "",
        "udp://",
        "udp://127.0.0.1",
        "udp://no.such.name:53",
        "udp://tcp://127.0.0.1:1",
        "udp:127.0.0.1:1",
        "unix:",
        "unix:?mode=0600",
        "unix://run/x",
        "unix:@",
        "unix:@x?mode=0600",
        "unix:/x?",
        "unix:/x?mode=",
        "unix:/x?mode=8",
        "unix:/x?mode=1777",
        "unix:/x?mode=-1",
        "unix:/x?mode=0660x",
        "unix:/x?owner=me",
        "unix:/x\n",
        "http://127.0.0.1:1",
    };
    for (size_t i = 0; i < array_count(table); i++) {
        net_uri uri;
        char error[128] = "";
        check_eq(net_uri_parse(&uri, table[i], error, sizeof error), IO_INVALID);
        if (strlen(error) < 5) fail("'%s' was refused without a word", table[i]);
    }
}

static void a_path_is_as_long_as_the_system_allows(void)
{
    char text[200];
    char formatted[NET_URI_TEXT_MAX];
    char error[128];
    net_uri uri;
    memset(text, 'p', sizeof text);
    memcpy(text, "unix:", 5);
    text[5 + NET_PATH_MAX] = '\0';
    check_eq(net_uri_parse(&uri, text, error, sizeof error), IO_OK);
    check_str(net_uri_format(&uri, formatted, sizeof formatted), text);
    text[5 + NET_PATH_MAX] = 'p';
    text[5 + NET_PATH_MAX + 1] = '\0';
    check_eq(net_uri_parse(&uri, text, error, sizeof error), IO_INVALID);
    check(strstr(error, "108") != NULL && strstr(error, "107") != NULL);
}

static void a_text_is_split_without_being_judged(void)
{
    net_transport transport;
    check_str(net_uri_split(&transport, "udp://a name:x"), "a name:x");
    check_eq(transport, NET_UDP);
    check_str(net_uri_split(&transport, "unix:"), "");
    check_eq(transport, NET_UNIX);
    check_str(net_uri_split(&transport, "tcp://h:1"), "h:1");
    check_eq(transport, NET_TCP);
    check_str(net_uri_split(&transport, "h:1"), "h:1");
    check_eq(transport, NET_TCP);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(good_uris_are_read_and_formatted);
    check_run(bad_uris_are_refused_in_words);
    check_run(a_path_is_as_long_as_the_system_allows);
    check_run(a_text_is_split_without_being_judged);
    return check_end();
}
