/* echoload - load client for TCP servers that echo or acknowledge.
 *
 *   echoload [options] HOST PORT[,PORT...]
 *
 * Modes (-m):
 *   echo      closed loop: every connection keeps DEPTH messages in flight (default); with -R an open loop at a fixed rate
 *   connect   connect, one echo, close, again and again: connections/s
 *   idle      open and hold connections; obeys commands on stdin: "sweep N W" asks N random ones, W at a time; "quit".
 *             With several ports thread i connects to the i-th of them
 * Options:
 *   -c N   connections (1)                         -s N   message size in bytes (64)
 *   -p N   messages in flight per connection (1)   -t N   threads (1)
 *   -d S   measured seconds (3)                    -w S   warm-up seconds before (1)
 *   -R N   messages/s in total, open loop          -f F   framing: raw (default) | line | fixed
 *   -q STR -a STR  message and expected answer for -f fixed (\r \n \t escapes)
 *   -e E   engine: uring (default) | epoll         -b N   submissions at a time of the uring engine (64)
 *   -S N   source addresses 127.0.0.2 .. (connect: 64, idle: one per 8000)
 *   -T     idle: do not send one message on each fresh connection
 *   -P PID server process to account processor time for (repeatable)
 *   -C N   processor whose busy time is told (from /proc/stat)
 *   -r S   no progress for S seconds ends the run (10)
 *
 * Every byte of every answer is compared. One line of JSON on stdout. */
#include "clock.h"
#include "message.h"
#include "run.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

struct options options = {.connections = 1,
                          .size = 64,
                          .depth = 1,
                          .threads = 1,
                          .sources = -1,
                          .touch = true,
                          .core = -1,
                          .batch = 64,
                          .seconds = 3,
                          .warm = 1,
                          .patience = 10};
atomic_int phase = WARM_UP;

/* With \r, \n and \t for what they stand for, and \c for any other c. */
static char *unescape(const char *text)
{
    char *plain = malloc(strlen(text) + 1), *at = plain;
    for (; *text; text++) {
        if (*text == '\\' && text[1]) {
            text++;
            *at++ = *text == 'n' ? '\n' : *text == 'r' ? '\r' : *text == 't' ? '\t' : *text;
        } else *at++ = *text;
    }
    *at = 0;
    return plain;
}

/* The word's place among the names. */
static int pick(const char *word, const char *const names[3])
{
    for (int i = 0; i < 3 && names[i]; i++)
        if (!strcmp(word, names[i])) return i;
    fprintf(stderr, "unknown value %s\n", word);
    exit(2);
}

static bool take_option(int letter, char *word)
{
    static const char *const modes[] = {"echo", "connect", "idle"}, *const framings[] = {"raw", "line", "fixed"},
                             *const engines[] = {"uring", "epoll", NULL};
    switch (letter) {
    case 'm':
        options.mode = (enum mode)pick(word, modes);
        break;
    case 'f':
        options.framing = (enum framing)pick(word, framings);
        break;
    case 'e':
        options.engine = (enum engine)pick(word, engines);
        break;
    case 'c':
        options.connections = atoi(word);
        break;
    case 's':
        options.size = (size_t)atol(word);
        break;
    case 'p':
        options.depth = atoi(word);
        break;
    case 't':
        options.threads = atoi(word);
        break;
    case 'd':
        options.seconds = atof(word);
        break;
    case 'w':
        options.warm = atof(word);
        break;
    case 'R':
        options.rate = atof(word);
        break;
    case 'r':
        options.patience = atof(word);
        break;
    case 'q':
        options.request_is = unescape(word);
        break;
    case 'a':
        options.answer_is = unescape(word);
        break;
    case 'b':
        options.batch = (unsigned)atoi(word);
        break;
    case 'S':
        options.sources = atoi(word);
        break;
    case 'T':
        options.touch = false;
        break;
    case 'P':
        if (options.pid_count < 64) options.pids[options.pid_count++] = atoi(word);
        break;
    case 'C':
        options.core = atoi(word);
        break;
    default:
        return false;
    }
    return true;
}

/* What follows from the others. Returns whether all can be. */
static bool complete_options(void)
{
    struct options *o = &options;
    if (o->framing == FRAMING_FIXED) {
        if (!o->request_is || !o->answer_is) return false;
        o->size = strlen(o->request_is);
    }
    o->answer = o->framing == FRAMING_FIXED ? strlen(o->answer_is) : o->size;
    /* Few connections per address: the kernel looks for free ports in half of the range first. */
    if (o->sources < 0 && o->mode == MODE_CONNECT) o->sources = 64;
    if (o->sources < 0 && o->mode == MODE_IDLE) o->sources = o->connections < 80000 ? 10 : o->connections / 8000;
    return o->size > 0 && o->answer > 0 && o->depth > 0 && o->threads > 0 && o->threads <= o->connections;
}

/* Returns whether there is such a host. */
static bool resolve(const char *host, char *ports)
{
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    const int room = sizeof options.ports / sizeof *options.ports;
    for (char *port = strtok(ports, ","); port && options.port_count < room; port = strtok(NULL, ","))
        options.ports[options.port_count++] = htons((uint16_t)atoi(port));
    if (options.port_count == 0 || getaddrinfo(host, NULL, &hints, &found)) return false;
    memcpy(&options.server, found->ai_addr, sizeof options.server);
    options.server.sin_port = options.ports[0];
    freeaddrinfo(found);
    if (ntohl(options.server.sin_addr.s_addr) >> 24 != 127) options.sources = 0;
    return true;
}

int main(int argc, char **argv)
{
    for (int letter; (letter = getopt(argc, argv, "m:c:s:p:d:w:t:R:f:q:a:e:b:S:TP:C:r:")) != -1;)
        if (!take_option(letter, optarg)) return 2;
    if (argc - optind != 2 || !complete_options()) {
        fprintf(
            stderr,
            "usage: echoload [-m echo|connect|idle] [-c connections] [-s size] [-p depth] [-t threads] [-d seconds] "
            "[-f fixed -q message -a answer] ... HOST PORT[,PORT...]\n");
        return 2;
    }
    if (!resolve(argv[optind], argv[optind + 1])) {
        fprintf(stderr, "cannot resolve %s\n", argv[optind]);
        return 1;
    }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGPIPE, SIG_IGN);
    clock_calibrate();
    message_prepare();
    switch (options.mode) {
    case MODE_CONNECT:
        return run_connect();
    case MODE_IDLE:
        return run_idle();
    default:
        return run_echo();
    }
}
