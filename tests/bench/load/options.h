/* options.h - what the load client was asked for. Set once, before any thread starts; see main.c for their letters. */
#ifndef LOAD_OPTIONS_H
#define LOAD_OPTIONS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mode { MODE_ECHO, MODE_CONNECT, MODE_IDLE };
enum framing { FRAMING_RAW, FRAMING_LINE, FRAMING_FIXED };
enum engine { ENGINE_URING, ENGINE_EPOLL };

struct options {
    enum mode mode;
    enum framing framing;
    enum engine engine;
    int connections, threads;
    int depth;        /* messages in flight per connection */
    size_t size;      /* bytes of a message */
    size_t answer;    /* bytes of an answer */
    char *request_is; /* FRAMING_FIXED: the message and its answer */
    char *answer_is;
    double seconds, warm;      /* measured, and before that */
    double rate;               /* messages per second in total; 0: each answer brings the next message */
    double patience;           /* seconds without progress that end the run */
    unsigned batch;            /* submissions of the ring's at a time */
    int sources;               /* addresses that the connections come from; 0: the system's choice */
    bool touch;                /* one message on each fresh connection (MODE_IDLE) */
    int core;                  /* whose busy time is told; -1: none */
    int pids[64], pid_count;   /* of the server, whose processor time is counted */
    struct sockaddr_in server; /* with the first port */
    uint16_t ports[256];       /* in network order */
    int port_count;
};

extern struct options options;

#endif
