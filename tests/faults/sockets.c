/* Goal: whatever call fails while sockets are opened and addresses are looked up, a status says so and nothing is left
 * open. Method: each call fails, one after the other, with each of its errors. */
#include "inject.h"

#include "contract/rig.h"
#include "net.h"
#include "net_udp.h"
#include "net_unix.h"
#include "os.h"

#include <sys/stat.h>
#include <unistd.h>

enum { GROUP = 3 };

static net_addr parse(const char *text)
{
    net_addr addr;
    char error[128];
    check_eq(net_addr_parse(&addr, text, error, sizeof(error)), IO_OK);
    return addr;
}

/* A socket that was opened is closed; one that was not has a status, and the system's code unless memory ran out. */
static void take_and_close(io_status status, io_socket opened, int native)
{
    check((status == IO_OK) == (opened != IO_SOCKET_NONE));
    check(status != IO_OK || native == 0);
    check(status == IO_OK || native != 0);
    if (status == IO_OK) net_close(opened);
}

static void listen_on_tcp(void)
{
    static const char *const where[] = {"127.0.0.1:0", "[::1]:0"};
    for (size_t i = 0; i < array_count(where); i++) {
        const net_addr addr = parse(where[i]);
        net_addr local;
        io_socket opened;
        int native;
        io_status status = net_listen(&opened, &addr, &native);
        if (status == IO_OK && net_local(&local, opened) == IO_OK) check(net_addr_port(&local) != 0);
        take_and_close(status, opened, native);
    }
}

static void a_listener_opens_or_says_why_not(void)
{
    if (rig_has_ipv6()) inject_sweep(listen_on_tcp);
    else check_skip("this machine has no ::1");
}

static void set_options(void)
{
    const net_addr addr = parse("127.0.0.1:1");
    io_socket opened;
    int native;
    io_status status = net_open_stream(&opened, &addr, &native);
    if (status == IO_OK) {
        (void)net_set_keepalive(opened, 30);
        (void)net_set_keepalive(opened, 0);
        (void)net_set_abort(opened);
        check(net_shutdown_send(opened) != IO_OK); /* not connected */
    }
    take_and_close(status, opened, native);
}

static void an_option_that_cannot_be_set_is_told(void)
{
    inject_sweep(set_options);
}

/* ---- UDP ---- */

static void open_udp(void)
{
    static const char *const where[] = {"127.0.0.1:0", "[::1]:0", "239.255.7.7:0", "[ff02::7777]:0"};
    io_socket opened;
    int native;
    for (size_t i = 0; i < array_count(where); i++) {
        const net_addr addr = parse(where[i]);
        io_status status = net_udp_open(&opened, &addr, &native);
        take_and_close(status, opened, native);
    }
    const net_addr any = parse("127.0.0.1:0"), peer = parse("127.0.0.1:9");
    for (int bound = 0; bound <= 1; bound++) {
        io_status status = net_udp_connect(&opened, bound != 0 ? &any : NULL, &peer, &native);
        take_and_close(status, opened, native);
    }
}

static void open_udp_group(void)
{
    io_socket opened[GROUP];
    int native;
    const net_addr any = parse("127.0.0.1:0");
    io_status status = net_udp_open_group(opened, GROUP, &any, &native);
    for (size_t i = 0; status == IO_OK && i < GROUP; i++) net_close(opened[i]);
}

static void a_udp_socket_opens_or_says_why_not(void)
{
    if (rig_has_ipv6()) inject_sweep(open_udp);
    else check_skip("this machine has no ::1");
}

static void of_a_group_all_open_or_none(void)
{
    inject_sweep(open_udp_group);
}

/* ---- Unix ---- */

static net_uri file_uri;
static net_uri abstract_uri;

static net_uri parse_uri(const char *text)
{
    net_uri uri;
    char error[128];
    if (net_uri_parse(&uri, text, error, sizeof(error)) != IO_OK) fail("%s: %s", text, error);
    return uri;
}

static void listen_and_connect(const net_uri *uri)
{
    net_unix_file file;
    io_socket opened, connected;
    int native, client_native;
    io_status status = net_unix_listen(&opened, uri, &file, &native);
    check(status == IO_OK || native != 0);
    if (status != IO_OK) {
        check_eq(opened, IO_SOCKET_NONE);
        check(!file.made);
        return;
    }
    io_status client_status = net_unix_connect(&connected, uri, &client_native);
    take_and_close(client_status, connected, client_native);
    net_unix_remove(uri, &file);
    net_close(opened);
}

/* With a socket in the way that nobody serves. */
static void serve_unix(void)
{
    struct stat there;
    inject_pause();
    net_unix_file stale;
    io_socket opened;
    int native;
    (void)unlink(file_uri.path);
    check_eq(net_unix_listen(&opened, &file_uri, &stale, &native), IO_OK);
    net_close(opened);
    check_eq(lstat(file_uri.path, &there), 0);
    inject_resume();
    listen_and_connect(&file_uri);
    listen_and_connect(&abstract_uri);
}

static void a_unix_socket_opens_or_says_why_not(void)
{
    char text[64];
    snprintf(text, sizeof(text), "unix:faults_%lu.sock?mode=600", os_pid());
    file_uri = parse_uri(text);
    snprintf(text, sizeof(text), "unix:@faults_%lu", os_pid());
    abstract_uri = parse_uri(text);
    inject_sweep(serve_unix);
    (void)unlink(file_uri.path);
}

/* ---- Names ---- */

static void look_up(void)
{
    net_addr addrs[4];
    char error[128] = "";
    size_t count = array_count(addrs);
    io_status status = net_addr_resolve(addrs, &count, "tcp://localhost.:80", error, sizeof(error));
    check(status == IO_OK ? count > 0 : error[0] != '\0');
}

static void a_name_that_is_not_found_is_explained(void)
{
    inject_sweep(look_up);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(a_listener_opens_or_says_why_not);
    check_run(an_option_that_cannot_be_set_is_told);
    check_run(a_udp_socket_opens_or_says_why_not);
    check_run(of_a_group_all_open_or_none);
    check_run(a_unix_socket_opens_or_says_why_not);
    check_run(a_name_that_is_not_found_is_explained);
    return check_end();
}
