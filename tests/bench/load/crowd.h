/* crowd.h - some connections at a time: all connect, or all ask and are answered. One thread. */
#ifndef LOAD_CROWD_H
#define LOAD_CROWD_H

#include "clock.h"
#include "histogram.h"
#include "message.h"
#include "run.h"

#include <poll.h>

enum { CROWD_MAX = 256 };

struct answers {
    struct histogram latencies;
    uint64_t errors, mismatches;
};

/* Opens count connections, at most CROWD_MAX, each with an answer (options.touch). Returns count, or, having noted why, how many of
 * the first are open. */
int crowd_connect(const struct sockaddr_in *server, int *fds, int count, struct trouble *trouble);

/* A message on each of count, and its answer. */
void crowd_ask(const int *fds, int count, struct answers *answers);

#endif
