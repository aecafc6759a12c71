/* sim_target.c - runs the program over the simulated kernel (tests/sim), with the input's decisions: of what is drawn, and
 * with FUZZ_SCRIPT for that script, too, which finds the rest of the input in INPUT. Whatever an oracle denies is a find; with
 * FUZZ_TRACE in the environment it writes the simulation's trace.
 *
 *   byte 1      the profile
 *   bytes 2, 3  the seed
 *   byte 4      so many decisions follow; without a script all bytes from here on are
 *   decisions   of the draws in turn: below 128 as the seed says, else this number less 128
 */
#include "fuzz.h"
#include "net_udp.h"
#include "net_unix.h"
#include "run.h"

enum { SOURCE_MAX = 64 << 10 };

static sim_verdict verdict;

/* Stand for the system's: see CMakeLists.txt. */
_Noreturn void __wrap__Exit(int status);
_Noreturn void __real__Exit(int status);
io_status __wrap_net_udp_open(io_socket *opened, const net_addr *addr, int *native);
io_status __wrap_net_udp_open_group(io_socket *opened, uint32_t count, const net_addr *addr, int *native);
io_status __wrap_net_udp_connect(io_socket *opened, const net_addr *addr, const net_addr *peer, int *native);
io_status __wrap_net_unix_listen(io_socket *opened, const net_uri *uri, net_unix_file *file, int *native);
io_status __wrap_net_unix_connect(io_socket *opened, const net_uri *uri, int *native);

/* An oracle's no ends the process so. */
_Noreturn void __wrap__Exit(int status)
{
    if (verdict.oracle[0] == '\0') __real__Exit(status); /* libFuzzer's own */
    fuzz_fail("%s: %s", verdict.oracle, verdict.text);
}

/* The simulated kernel has neither. */
io_status __wrap_net_udp_open(io_socket *opened, const net_addr *addr, int *native)
{
    (void)addr;
    *opened = IO_SOCKET_NONE;
    *native = 0;
    return IO_LIMIT;
}

io_status __wrap_net_udp_open_group(io_socket *opened, uint32_t count, const net_addr *addr, int *native)
{
    (void)count;
    return __wrap_net_udp_open(opened, addr, native);
}

io_status __wrap_net_udp_connect(io_socket *opened, const net_addr *addr, const net_addr *peer, int *native)
{
    (void)peer;
    return __wrap_net_udp_open(opened, addr, native);
}

io_status __wrap_net_unix_listen(io_socket *opened, const net_uri *uri, net_unix_file *file, int *native)
{
    (void)uri;
    (void)file;
    *opened = IO_SOCKET_NONE;
    *native = 0;
    return IO_DENIED;
}

io_status __wrap_net_unix_connect(io_socket *opened, const net_uri *uri, int *native)
{
    (void)uri;
    *opened = IO_SOCKET_NONE;
    *native = 0;
    return IO_REFUSED;
}

#ifdef FUZZ_SCRIPT
/* The script's text, with the input in its first line. The caller frees it. */
static char *make_source(const uint8_t *bytes, size_t len)
{
    static const char begin[] = "local INPUT <const> = \"";
    static char script[SOURCE_MAX];
    static size_t script_len;
    if (script_len == 0) {
        FILE *file = fopen(FUZZ_SCRIPT, "rb");
        fuzz_check(file != NULL, "%s cannot be read", FUZZ_SCRIPT);
        script_len = fread(script, 1, sizeof(script) - 1, file);
        fclose(file);
    }
    char *source = malloc(sizeof(begin) + len * 4 + 8 + script_len);
    if (source == NULL) abort();
    char *at = source + sprintf(source, "%s", begin);
    for (size_t i = 0; i < len; i++) at += sprintf(at, "\\x%02x", bytes[i]);
    at += sprintf(at, "\" ");
    memcpy(at, script, script_len + 1);
    return source;
}
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};
    sim_setting setting = {.profile = (sim_profile)fuzz_below(&in, SIM_PROFILES)};
    setting.tracing = getenv("FUZZ_TRACE") != NULL;
    setting.seed = fuzz_byte(&in);
    setting.seed = setting.seed << 8 | fuzz_byte(&in);
    setting.brief = true;
    sim_verdict_shared = &verdict;
#ifdef FUZZ_SCRIPT
    size_t decisions = fuzz_byte(&in);
    setting.decision_count = decisions < in.left ? decisions : in.left;
    setting.decisions = in.next;
    char *source = make_source(in.next + setting.decision_count, in.left - setting.decision_count);
    setting.source = source;
    setting.stays = FUZZ_STAYS;
    (void)sim_run(&setting);
    free(source);
#else
    static bool ready;
    if (!ready) sim_scripts_open(SIM_SCRIPTS, SIM_DEFAULT_SCRIPT);
    ready = true;
    setting.decisions = in.next;
    setting.decision_count = in.left;
    (void)sim_run(&setting);
#endif
    return 0;
}
