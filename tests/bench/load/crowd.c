#include "crowd.h"

#include "socket.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* A message, and room for what comes back. */
struct pair {
    char *message, *answer;
};

static struct pair pair_new(void)
{
    struct pair p = {malloc(options.size), malloc(options.answer)};
    message_fill(p.message, 7);
    return p;
}

static void pair_free(struct pair *p)
{
    free(p->message);
    free(p->answer);
}

static bool send_message(const struct pair *p, int fd)
{
    return send(fd, p->message, options.size, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)options.size;
}

/* Goes on with a connection that poll() has news of: connecting, then the answer; its fd is -1 once all is done. Returns whether
 * all is well. */
static bool go_on(struct pollfd *p, size_t *got, const struct pair *pair, struct trouble *trouble)
{
    if (p->events == POLLOUT) {
        int code = 0;
        socklen_t len = sizeof code;
        getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &code, &len);
        if (code) {
            trouble_note(trouble, "connect", code);
            return false;
        }
        if (!options.touch) {
            p->fd = -1;
        } else if (!send_message(pair, p->fd)) {
            trouble_note(trouble, "send", errno);
            return false;
        }
        p->events = POLLIN;
        return true;
    }
    ssize_t n = recv(p->fd, pair->answer + *got, options.answer - *got, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return true;
    if (n <= 0) {
        trouble_note(trouble, "recv", n < 0 ? errno : 0);
        return false;
    }
    *got += (size_t)n;
    if (*got == options.answer) p->fd = -1;
    return true;
}

static int begin(const struct sockaddr_in *server, int *fds, struct pollfd *polled, int count, struct trouble *trouble)
{
    for (int i = 0; i < count; i++) {
        fds[i] = tcp_socket(SOCK_NONBLOCK);
        if (fds[i] < 0) {
            trouble_note(trouble, "socket", errno);
            return i;
        }
        if (connect(fds[i], (const struct sockaddr *)server, sizeof *server) && errno != EINPROGRESS) {
            trouble_note(trouble, "connect", errno);
            close(fds[i]);
            return i;
        }
        polled[i] = (struct pollfd){.fd = fds[i], .events = POLLOUT};
    }
    return count;
}

int crowd_connect(const struct sockaddr_in *server, int *fds, int count, struct trouble *trouble)
{
    struct pollfd polled[CROWD_MAX];
    size_t got[CROWD_MAX] = {0};
    int begun = begin(server, fds, polled, count, trouble), left = begun;
    if (begun < count) return begun;
    struct pair pair = pair_new();
    uint64_t progress_ns = now_ns();
    bool is_well = true;
    while (left > 0 && is_well) {
        int ready = poll(polled, (nfds_t)count, 1000);
        if (seconds_since(progress_ns) > options.patience) {
            snprintf(trouble->text, sizeof trouble->text, "no answer while connecting");
            is_well = false;
        }
        for (int i = 0; i < count && ready > 0 && is_well; i++) {
            if (polled[i].fd < 0 || !polled[i].revents) continue;
            is_well = go_on(&polled[i], &got[i], &pair, trouble);
            if (polled[i].fd < 0) left--;
            progress_ns = now_ns();
        }
    }
    pair_free(&pair);
    return is_well ? count : 0;
}

void crowd_ask(const int *fds, int count, struct answers *answers)
{
    struct pollfd polled[CROWD_MAX];
    uint64_t begin_ticks[CROWD_MAX];
    size_t got[CROWD_MAX] = {0};
    struct pair pair = pair_new();
    for (int i = 0; i < count; i++) {
        polled[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
        begin_ticks[i] = ticks();
        if (!send_message(&pair, fds[i])) answers->errors++;
    }
    for (int left = count; left > 0;) {
        if (poll(polled, (nfds_t)count, (int)(options.patience * 1000)) <= 0) {
            answers->errors += (uint64_t)left;
            break;
        }
        for (int i = 0; i < count; i++) {
            struct pollfd *p = &polled[i];
            if (p->fd < 0 || !p->revents) continue;
            ssize_t n = recv(p->fd, pair.answer, options.answer - got[i], MSG_DONTWAIT);
            if (n > 0) {
                if (memcmp(pair.answer, message_answer(pair.message) + got[i], (size_t)n) != 0) answers->mismatches++;
                got[i] += (size_t)n;
                if (got[i] < options.answer) continue;
                histogram_add(&answers->latencies, ticks() - begin_ticks[i]);
            } else answers->errors++;
            p->fd = -1;
            left--;
        }
    }
    pair_free(&pair);
}
