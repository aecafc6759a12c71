/* Goal: connections are counted by address and by the second, and what has left makes room. */
#include "gate.h"

#include "check.h"

#define SECOND_NS INT64_C(1000000000)

static net_addr addr_of(const char *text)
{
    net_addr addr;
    char error[128];
    check_eq(net_addr_parse(&addr, text, error, sizeof error), IO_OK);
    return addr;
}

static gate *open_gate(uint32_t per_address, bool spare_loopback, uint32_t per_second)
{
    gate *g = gate_open(&(gate_limits){per_address, spare_loopback, per_second});
    check(g != NULL);
    return g;
}

static void an_address_has_its_share(void)
{
    gate *g = open_gate(2, true, 0);
    net_addr one = addr_of("10.0.0.1:1000"), same = addr_of("10.0.0.1:2000"), two = addr_of("10.0.0.2:1000");
    check_eq(gate_enter(g, &one, 0), GATE_IN);
    check_eq(gate_enter(g, &same, 0), GATE_IN);
    check_eq(gate_enter(g, &same, 0), GATE_FULL);
    check_eq(gate_enter(g, &two, 0), GATE_IN);
    gate_leave(g, &one);
    check_eq(gate_enter(g, &same, 0), GATE_IN);
    check_eq(gate_enter(g, &one, 0), GATE_FULL);
    for (int i = 0; i < 2; i++) gate_leave(g, &same);
    gate_leave(g, &two);
    gate_close(g);
}

static void a_network_of_ipv6_is_one_address(void)
{
    gate *g = open_gate(1, true, 0);
    net_addr one = addr_of("[2001:db8::1]:1"), near = addr_of("[2001:db8::ffff:1]:1"),
             far = addr_of("[2001:db8:0:1::1]:1");
    check_eq(gate_enter(g, &one, 0), GATE_IN);
    check_eq(gate_enter(g, &near, 0), GATE_FULL);
    check_eq(gate_enter(g, &far, 0), GATE_IN);
    gate_leave(g, &one);
    gate_leave(g, &far);
    gate_close(g);
}

static void an_ipv4_address_is_the_same_in_ipv6(void)
{
    gate *g = open_gate(1, true, 0);
    net_addr plain = addr_of("192.0.2.7:1"), mapped = addr_of("[::ffff:192.0.2.7]:1"),
             other = addr_of("[::ffff:192.0.2.8]:1");
    check_eq(gate_enter(g, &plain, 0), GATE_IN);
    check_eq(gate_enter(g, &mapped, 0), GATE_FULL);
    check_eq(gate_enter(g, &other, 0), GATE_IN);
    gate_leave(g, &plain);
    gate_leave(g, &other);
    gate_close(g);
}

static void loopback_is_spared_or_not(void)
{
    static const char *const own[] = {"127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"};
    gate *spares = open_gate(1, true, 0);
    gate *counts = open_gate(1, false, 0);
    for (size_t i = 0; i < array_count(own); i++) {
        net_addr addr = addr_of(own[i]);
        check_eq(gate_enter(spares, &addr, 0), GATE_IN);
        check_eq(gate_enter(spares, &addr, 0), GATE_IN);
        check_eq(gate_enter(counts, &addr, 0), GATE_IN);
        check_eq(gate_enter(counts, &addr, 0), GATE_FULL);
        gate_leave(counts, &addr);
    }
    gate_close(spares);
    gate_close(counts);
}

static void peers_without_an_address_are_not_counted(void)
{
    gate *g = open_gate(1, false, 0);
    net_addr local = net_addr_unix();
    for (int i = 0; i < 3; i++) check_eq(gate_enter(g, &local, 0), GATE_IN);
    for (int i = 0; i < 3; i++) gate_leave(g, &local);
    gate_close(g);
}

static void a_second_has_its_number(void)
{
    gate *g = open_gate(0, false, 10);
    net_addr addr = addr_of("10.0.0.1:1");
    int64_t now_ns = 5 * SECOND_NS;
    for (int i = 0; i < 10; i++) check_eq(gate_enter(g, &addr, now_ns), GATE_IN);
    check_eq(gate_enter(g, &addr, now_ns), GATE_LATER);
    check_eq(gate_enter(g, &addr, now_ns + SECOND_NS / 10 - 1), GATE_LATER);
    now_ns += SECOND_NS / 10;
    check_eq(gate_enter(g, &addr, now_ns), GATE_IN);
    check_eq(gate_enter(g, &addr, now_ns), GATE_LATER);
    now_ns += 100 * SECOND_NS; /* what was not used long ago is lost */
    for (int i = 0; i < 10; i++) check_eq(gate_enter(g, &addr, now_ns), GATE_IN);
    check_eq(gate_enter(g, &addr, now_ns), GATE_LATER);
    gate_close(g);
}

static void who_is_refused_does_not_use_the_second_up(void)
{
    gate *g = open_gate(1, false, 2);
    net_addr full = addr_of("10.0.0.1:1");
    net_addr other = addr_of("10.0.0.2:1");
    check_eq(gate_enter(g, &full, 0), GATE_IN);
    for (int i = 0; i < 100; i++) check_eq(gate_enter(g, &full, 0), GATE_FULL);
    check_eq(gate_enter(g, &other, 0), GATE_IN);
    check_eq(gate_enter(g, &full, 0), GATE_LATER);
    gate_leave(g, &full);
    gate_leave(g, &other);
    gate_close(g);
}

static void many_addresses_come_and_go(void)
{
    gate *g = open_gate(1, false, 0);
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 1; i < 5000; i++) {
            char text[32];
            snprintf(text, sizeof text, "10.1.%u.%u:9", i / 256, i % 256);
            net_addr addr = addr_of(text);
            check_eq(gate_enter(g, &addr, 0), GATE_IN);
            check_eq(gate_enter(g, &addr, 0), GATE_FULL);
        }
        for (uint32_t i = 1; i < 5000; i++) {
            char text[32];
            snprintf(text, sizeof text, "10.1.%u.%u:9", i / 256, i % 256);
            net_addr addr = addr_of(text);
            gate_leave(g, &addr);
        }
    }
    gate_close(g);
}

int main(void)
{
    check_eq(net_start(), IO_OK);
    an_address_has_its_share();
    a_network_of_ipv6_is_one_address();
    an_ipv4_address_is_the_same_in_ipv6();
    loopback_is_spared_or_not();
    peers_without_an_address_are_not_counted();
    a_second_has_its_number();
    who_is_refused_does_not_use_the_second_up();
    many_addresses_come_and_go();
    net_stop();
    return 0;
}
