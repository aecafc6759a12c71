/* libuv echo. mode "write": the usual allocate + uv_write; mode "try":
 * one static buffer + uv_try_write, the cheapest libuv allows; mode "line":
 * like try, but it splits lines and answers each by a function call. Prints
 * the address that it listens on; PORT 0 takes any. */
#include "system.h" /* posix/ or windows/ */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

static int port, tries, lines, workers = 1;

struct con {
    uv_tcp_t t;
    char *rest;
    size_t nrest;
};

struct wr {
    uv_write_t r;
    uv_buf_t b;
};

static void closed(uv_handle_t *h)
{
    free(((struct con *)h)->rest);
    free(h);
}
static void end(uv_handle_t *h)
{
    if (!uv_is_closing(h)) uv_close(h, closed);
}

static void alloc_heap(uv_handle_t *h, size_t n, uv_buf_t *b)
{
    (void)h;
    b->base = malloc(n);
    b->len = n;
}
static void alloc_static(uv_handle_t *h, size_t n, uv_buf_t *b)
{
    static _Thread_local char mem[65536];
    (void)h;
    (void)n;
    b->base = mem;
    b->len = sizeof mem;
}

static void written(uv_write_t *r, int st)
{
    struct wr *w = (struct wr *)r;
    if (st < 0) end((uv_handle_t *)r->handle);
    free(w->b.base);
    free(w);
}

static void send_heap(uv_stream_t *s, char *base, size_t n)
{
    struct wr *w = malloc(sizeof *w);
    w->b = uv_buf_init(base, (unsigned)n);
    if (uv_write(&w->r, s, &w->b, 1, written)) {
        free(base);
        free(w);
        end((uv_handle_t *)s);
    }
}

static _Thread_local char out[1 << 18];

static __attribute__((noinline)) size_t on_line(char *to, const char *p, size_t n)
{
    memcpy(to, p, n);
    return n;
}

static size_t split(struct con *c, const char *p, size_t n)
{
    size_t made = 0;
    while (n) {
        const char *e = memchr(p, '\n', n);
        size_t m = e ? (size_t)(e - p) + 1 : n;
        if (e && !c->nrest) made += on_line(out + made, p, m);
        else {
            c->rest = realloc(c->rest, c->nrest + m);
            memcpy(c->rest + c->nrest, p, m);
            c->nrest += m;
            if (e) {
                made += on_line(out + made, c->rest, c->nrest);
                c->nrest = 0;
            }
        }
        p += m;
        n -= m;
    }
    return made;
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
    if (n <= 0) {
        if (!tries) free(b->base);
        if (n < 0) end((uv_handle_t *)s);
        return;
    }
    if (!tries) {
        send_heap(s, b->base, (size_t)n);
        return;
    }
    uv_buf_t o = uv_buf_init(b->base, (unsigned)n);
    if (lines) {
        o.base = out;
        o.len = (unsigned)(n = (ssize_t)split((struct con *)s, b->base, (size_t)n));
        if (!n) return;
    }
    int r = uv_try_write(s, &o, 1);
    if (r == UV_EAGAIN) r = 0;
    if (r < 0) {
        end((uv_handle_t *)s);
        return;
    }
    if (r < n) {
        char *c = malloc((size_t)n - (size_t)r);
        memcpy(c, o.base + r, (size_t)n - (size_t)r);
        send_heap(s, c, (size_t)n - (size_t)r);
    }
}

static void on_conn(uv_stream_t *l, int st)
{
    if (st < 0) return;
    struct con *k = calloc(1, sizeof *k);
    uv_tcp_t *c = &k->t;
    uv_tcp_init(l->loop, c);
    if (uv_accept(l, (uv_stream_t *)c)) {
        end((uv_handle_t *)c);
        return;
    }
    uv_tcp_nodelay(c, 1);
    uv_read_start((uv_stream_t *)c, tries ? alloc_static : alloc_heap, on_read);
}

static void run(void *arg)
{
    (void)arg;
    uv_loop_t lp;
    uv_tcp_t l;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    int bytes = sizeof a;
    uv_loop_init(&lp);
    uv_tcp_init(&lp, &l);
    uv_tcp_open(&l, listening_socket(workers > 1));
    if (uv_tcp_bind(&l, (struct sockaddr *)&a, 0) || uv_listen((uv_stream_t *)&l, 65535, on_conn)) {
        fprintf(stderr, "listen failed\n");
        exit(1);
    }
    uv_tcp_getsockname(&l, (struct sockaddr *)&a, &bytes);
    printf("127.0.0.1:%d\n", ntohs(a.sin_port));
    fflush(stdout);
    uv_run(&lp, UV_RUN_DEFAULT);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: echo write|try|line PORT [workers]\n");
        return 2;
    }
    lines = !strcmp(argv[1], "line");
    tries = lines || !strcmp(argv[1], "try");
    port = atoi(argv[2]);
    if (argc > 3) workers = atoi(argv[3]);
    raise_descriptors();
    uv_thread_t t;
    for (int i = 1; i < workers; i++) uv_thread_create(&t, run, NULL);
    run(NULL);
    return 0;
}
