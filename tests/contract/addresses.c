/* addresses.c - goal: addresses are read as net.h says, rubbish is refused in words, and what is formatted can be read
 * again. Method: a table of good and bad texts. The backend does not matter here. */
#include "rig.h"

static void good_addresses_are_read_and_formatted(void)
{
    static const struct {
        const char *uri;
        const char *text;
        uint16_t port;
    } table[] = {
        {"127.0.0.1:7777", "127.0.0.1:7777", 7777},
        {"tcp://127.0.0.1:7777", "127.0.0.1:7777", 7777},
        {"127.0.0.1:0", "127.0.0.1:0", 0},
        {"127.0.0.1:65535", "127.0.0.1:65535", 65535},
        {"0.0.0.0:1", "0.0.0.0:1", 1},
        {"255.255.255.255:9", "255.255.255.255:9", 9},
        {"localhost:80", "127.0.0.1:80", 80},
        {"tcp://localhost:80", "127.0.0.1:80", 80},
        {"*:8080", "0.0.0.0:8080", 8080},
        {"tcp://*:0", "0.0.0.0:0", 0},
        {"[::1]:7777", "[::1]:7777", 7777},
        {"tcp://[::1]:7777", "[::1]:7777", 7777},
        {"[::]:0", "[::]:0", 0},
        {"[2001:db8::a:1]:443", "[2001:db8::a:1]:443", 443},
        {"[2001:0DB8:0:0:0:0:0:1]:443", "[2001:db8::1]:443", 443},
        {"[::ffff:10.1.2.3]:5", "10.1.2.3:5", 5},
        {"[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", 65535},
    };
    for (size_t i = 0; i < array_count(table); i++) {
        net_addr addr;
        net_addr again;
        char error[128] = "";
        char text[NET_ADDR_TEXT_MAX];
        memset(&addr, 0xee, sizeof(addr));
        if (net_addr_parse(&addr, table[i].uri, error, sizeof(error)) != IO_OK) fail("%s: %s", table[i].uri, error);
        check(net_addr_format(&addr, text, sizeof(text)) == text);
        check_str(text, table[i].text);
        check_eq(net_addr_port(&addr), table[i].port);
        check(net_addr_family(&addr) != 0);
        check(net_addr_bytes(&addr) > 0 && net_addr_bytes(&addr) <= sizeof(addr));
        check_eq(net_addr_parse(&again, text, error, sizeof(error)), IO_OK);
        check_eq(net_addr_port(&again), table[i].port);
        check_str(net_addr_format(&again, text, sizeof(text)), table[i].text);
    }
}

static void bad_addresses_are_refused_in_words(void)
{
    static const char *const table[] = {
        "",
        ":",
        "tcp://",
        "tcp://:",
        "127.0.0.1",
        "tcp://127.0.0.1",
        "localhost",
        "7777",
        "127.0.0.1:",
        "127.0.0.1:70000",
        "127.0.0.1:65536",
        "127.0.0.1:99999999999999999999",
        "127.0.0.1:4294967297",
        "127.0.0.1:-1",
        "127.0.0.1:+1",
        "127.0.0.1: 1",
        "127.0.0.1:1 ",
        " 127.0.0.1:1",
        "127.0.0.1:1x",
        "127.0.0.1:0x10",
        "127.0.0.1:1:2",
        "127.0.0.1:7777/",
        "127.0.0.1:\n",
        "256.0.0.1:1",
        "1.2.3:4",
        "1.2.3.4.5:6",
        "1.2.3.4x:6",
        "no.such.name.example:80",
        "a b:1",
        "udp://127.0.0.1:1",
        "http://127.0.0.1:1",
        "tcp:/127.0.0.1:1",
        "tcp:127.0.0.1:1",
        "://127.0.0.1:1",
        "::1:7777",
        "[::1]",
        "[::1]:",
        "[::1",
        "[::1]7777",
        "[::1]x:7777",
        "[::1]:70000",
        "[]:1",
        "[:::1]:1",
        "[1:2:3:4:5:6:7:8:9]:1",
        "[127.0.0.1]:80",
        "[localhost]:80",
        "[*]:80",
        "[::g]:80",
    };
    net_addr addr;
    for (size_t i = 0; i < array_count(table); i++) {
        char error[128] = "";
        if (net_addr_parse(&addr, table[i], error, sizeof(error)) == IO_OK) fail("'%s' was taken", table[i]);
        check_eq(net_addr_parse(&addr, table[i], error, sizeof(error)), IO_INVALID);
        if (strlen(error) < 5) fail("'%s' was refused without a word", table[i]);
    }
}

static void long_rubbish_is_refused_within_its_bounds(void)
{
    enum { LENGTH = 5000, SMALL = 8 };
    static char rubbish[LENGTH + 1];
    static const char fill[] = "1.:[]*x";
    net_addr addr;
    for (size_t i = 0; fill[i] != '\0'; i++) {
        char error[2 * SMALL];
        memset(error, 'x', sizeof(error));
        memset(rubbish, fill[i], LENGTH);
        rubbish[LENGTH] = '\0';
        check_eq(net_addr_parse(&addr, rubbish, error, SMALL), IO_INVALID);
        check(memchr(error, '\0', SMALL) != NULL);
        check_mem(error + SMALL, "xxxxxxxx", SMALL);
        rubbish[LENGTH - 2] = ':';
        rubbish[LENGTH - 1] = '1';
        check_eq(net_addr_parse(&addr, rubbish, error, SMALL), IO_INVALID);
    }
}

/* Random changes to good addresses: whatever is taken can be formatted and read again as the same. */
static void what_is_read_is_formatted_and_read_again(void)
{
    enum { TURNS = 20000 };
    static const char *const seeds[] = {"tcp://127.0.0.1:7777", "[2001:db8::1]:443", "localhost:80", "*:0"};
    static const char letters[] = "0123456789abcdef:.[]*/xtcp %-";
    uint64_t random = 20260101;
    for (int turn = 0; turn < TURNS; turn++) {
        char uri[64];
        char error[64];
        char text[2][NET_ADDR_TEXT_MAX];
        net_addr addr[2];
        snprintf(uri, sizeof(uri), "%s", seeds[check_random_below(&random, array_count(seeds))]);
        size_t len = strlen(uri);
        for (uint64_t changes = check_random_below(&random, 3); changes > 0; changes--) {
            uri[check_random_below(&random, len)] = letters[check_random_below(&random, sizeof(letters) - 1)];
        }
        if (net_addr_parse(&addr[0], uri, error, sizeof(error)) != IO_OK) continue;
        net_addr_format(&addr[0], text[0], NET_ADDR_TEXT_MAX);
        if (net_addr_parse(&addr[1], text[0], error, sizeof(error)) != IO_OK) {
            fail("'%s' became '%s': %s", uri, text[0], error);
        }
        check_str(net_addr_format(&addr[1], text[1], NET_ADDR_TEXT_MAX), text[0]);
    }
}

static void no_address_is_a_dash(void)
{
    net_addr none = {{0}};
    char text[NET_ADDR_TEXT_MAX];
    check_str(net_addr_format(&none, text, sizeof(text)), "-");
    check_eq(net_addr_port(&none), 0);
    check_eq(net_addr_family(&none), 0);
    check_eq(net_addr_bytes(&none), 0);
}

static void resolving_takes_numbers_and_localhost(void)
{
    net_addr found[8];
    char error[128];
    char text[NET_ADDR_TEXT_MAX];
    size_t count = array_count(found);
    check_eq(net_addr_resolve(found, &count, "tcp://127.0.0.1:7777", error, sizeof(error)), IO_OK);
    check_eq(count, 1);
    check_str(net_addr_format(&found[0], text, sizeof(text)), "127.0.0.1:7777");
    count = array_count(found);
    check_eq(net_addr_resolve(found, &count, "[::1]:7777", error, sizeof(error)), IO_OK);
    check_eq(count, 1);
    check_str(net_addr_format(&found[0], text, sizeof(text)), "[::1]:7777");
    count = array_count(found);
    check_eq(net_addr_resolve(found, &count, "localhost:7777", error, sizeof(error)), IO_OK);
    check(count >= 1 && count <= array_count(found));
    for (size_t i = 0; i < count; i++) check_eq(net_addr_port(&found[i]), 7777);
    count = array_count(found);
    check_eq(net_addr_resolve(found, &count, "localhost:70000", error, sizeof(error)), IO_INVALID);
    count = array_count(found);
    check_eq(net_addr_resolve(found, &count, "localhost", error, sizeof(error)), IO_INVALID);
}

static void options_are_set_on_a_connection(void)
{
    rig r;
    io_socket ours;
    io_socket peer;
    rig_open_pair(&r, &ours, &peer);
    check_eq(net_set_nodelay(ours, true), IO_OK);
    check_eq(net_set_nodelay(ours, false), IO_OK);
    check_eq(net_set_keepalive(ours, 30), IO_OK);
    check_eq(net_set_keepalive(ours, 0), IO_OK);
    net_addr local;
    check_eq(net_local(&local, ours), IO_OK);
    check_eq(net_addr_port(&local), net_addr_port(&r.address));
    rig_close_pair(&r, ours, peer);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(good_addresses_are_read_and_formatted);
    check_run(bad_addresses_are_refused_in_words);
    check_run(long_rubbish_is_refused_within_its_bounds);
    check_run(what_is_read_is_formatted_and_read_again);
    check_run(no_address_is_a_dash);
    check_run(resolving_takes_numbers_and_localhost);
    check_run(options_are_set_on_a_connection);
    return rig_end();
}
