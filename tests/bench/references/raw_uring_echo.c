/* raw_uring_echo - echo server on io_uring, as tight as this bench can make it,
 * with every relevant kernel feature switchable so each can be measured.
 *
 *   raw_uring_echo [options] PORT
 *     -t N         threads, each with its own ring and SO_REUSEPORT listener
 *     -S MODE      ring mode: defer (default) | coop | plain | sqpoll
 *     -R MODE      receive: multi (default) | single | own (buffer per connection)
 *                  | poll (idle: multishot poll only; receive when readable)
 *     -A MODE      accept: multi (default) | single
 *     -W MODE      send: ring (default) | skip (no completion on success) | sys | zc
 *     -D           direct (registered) descriptors from accept on
 *     -B           receive bundles
 *     -I | -O      incrementally consumed buffers (default where the kernel has
 *                  them) | one buffer per receive
 *     -n N -s N    number and size of provided buffers (8 x 1 MiB with -I,
 *                  512 x 16 KiB with -O)
 *     -q N         submission queue entries (4096)
 *     -w N         completions to wait for (1)
 *     -M USEC      minimum wait window (6.12)
 *     -X USEC      spin this long before blocking
 *     -P           poll first on the initial receive
 *     -U           separate descriptor table per thread (N times the limit)
 *     -N USEC      register NAPI busy polling
 *     -v           print the features of the running kernel and exit
 *
 * Correctness rules it keeps: one send in flight per connection (stream order),
 * a provided buffer is recycled only after its send finished, out-of-buffers
 * stops a receiver until buffers come back.
 */
#include "raw_uring.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

int port, threads = 1, smode = S_DEFER, rmode = R_MULTI, amulti = 1, wmode = W_RING;
int direct, bundle, inc = -1, pollfirst, separate;
unsigned nbufs, bufsz, sqn = 4096, waitn = 1, minwait, spin_us, napi_us;
size_t maxconn;

static int pick(const char *s, const char *names)
{
    int i = 0;
    char *d = strdup(names);
    for (char *p = strtok(d, " "); p; p = strtok(NULL, " "), i++)
        if (!strcmp(p, s)) return i;
    fprintf(stderr, "unknown mode %s (one of: %s)\n", s, names);
    exit(2);
}

int main(int argc, char **argv)
{
    int o;
    while ((o = getopt(argc, argv, "t:S:R:A:W:DBIOn:s:q:w:M:X:PN:vU")) != -1) {
        switch (o) {
        case 't':
            threads = atoi(optarg);
            break;
        case 'S':
            smode = pick(optarg, "plain coop defer sqpoll");
            break;
        case 'R':
            rmode = pick(optarg, "multi single own poll");
            break;
        case 'A':
            amulti = !pick(optarg, "multi single");
            break;
        case 'W':
            wmode = pick(optarg, "ring skip sys zc");
            break;
        case 'D':
            direct = 1;
            break;
        case 'B':
            bundle = 1;
            break;
        case 'I':
            inc = 1;
            break;
        case 'O':
            inc = 0;
            break;
        case 'n':
            nbufs = (unsigned)atoi(optarg);
            break;
        case 's':
            bufsz = (unsigned)atoi(optarg);
            break;
        case 'q':
            sqn = (unsigned)atoi(optarg);
            break;
        case 'w':
            waitn = (unsigned)atoi(optarg);
            break;
        case 'M':
            minwait = (unsigned)atoi(optarg);
            break;
        case 'X':
            spin_us = (unsigned)atoi(optarg);
            break;
        case 'P':
            pollfirst = 1;
            break;
        case 'U':
            separate = 1;
            break;
        case 'N':
            napi_us = (unsigned)atoi(optarg);
            break;
        case 'v':
            probe_all();
            return 0;
        default:
            return 2;
        }
    }
    if (optind >= argc) {
        fprintf(stderr, "usage: raw_uring_echo [options] PORT\n");
        return 2;
    }
    if (inc < 0) inc = !bundle && rmode != R_OWN && probe_inc();
    if (!bufsz) bufsz = inc ? 1u << 20 : rmode == R_OWN ? 4096 : 16384;
    if (!nbufs) nbufs = inc ? 8 : 512;
    if (rmode == R_POLL && wmode == W_ZC) {
        fprintf(stderr, "-R poll excludes -W zc\n");
        return 2;
    }
    if (bundle && inc) {
        fprintf(stderr, "-B excludes -I\n");
        return 2;
    }
    if (direct && wmode == W_SYS) {
        fprintf(stderr, "-D excludes -W sys\n");
        return 2;
    }
    if (smode == S_SQPOLL && wmode == W_SKIP) wmode = W_RING; /* submission is asynchronous there */
    port = atoi(argv[optind]);
    struct rlimit rl;
    getrlimit(RLIMIT_NOFILE, &rl);
    rl.rlim_cur = rl.rlim_max;
    setrlimit(RLIMIT_NOFILE, &rl);
    maxconn = (size_t)rl.rlim_cur;
    pthread_t th;
    for (int i = 1; i < threads; i++) pthread_create(&th, NULL, raw_uring_loop, NULL);
    raw_uring_loop(NULL);
    return 0;
}
