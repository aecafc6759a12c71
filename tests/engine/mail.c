/* mail.c - boxes of mail between threads: order, bounds, what is dropped, and that nothing is left.
 *
 * Method: a port of the test's own is the worker that takes; other threads post. The message of a box is run by hand, as
 * worker.c would.
 */
#include "mail.h"

#include "base.h"
#include "contract/rig.h"
#include "os.h"

#include <stdatomic.h>

enum { THREADS = 4, MAILS = 5000, PATIENCE_NS = 2000000000 };

typedef struct letter {
    uint32_t thread;
    uint32_t number;
    void *more; /* freed by forget */
} letter;

static struct {
    rig rig;
    mail_box box;
    mail_box other; /* NEW all the time */
    uint32_t taken;
    uint32_t last[THREADS]; /* the number that was taken last */
    atomic_uint forgotten;
    atomic_uint refused;
} post;

static void deliver(struct worker *w, mail *m)
{
    const letter *l = m->data;
    (void)w;
    check(l->number > post.last[l->thread]);
    post.last[l->thread] = l->number;
    post.taken++;
}

static void forget(mail *m)
{
    mem_free(((letter *)m->data)->more);
    post.forgotten++;
}

static void open_post(void)
{
    memset(&post, 0, sizeof(post));
    rig_open(&post.rig, NULL);
    check(mail_box_open(&post.box));
    check(mail_box_open(&post.other));
}

static void close_post(void)
{
    mail_box_close(&post.box);
    mail_box_close(&post.other);
    rig_close(&post.rig);
}

/* Takes what the port has; waits at most so long for it. */
static void turn(int64_t wait_ns)
{
    io_packet packet;
    check_eq(io_port_wait(post.rig.port, wait_ns), IO_OK);
    while (io_port_next(post.rig.port, &packet)) {
        check_eq(packet.kind, IO_POST);
        worker_message *message = container_of(packet.op, worker_message, op);
        message->run(NULL, message);
    }
}

static mail *write_letter(uint32_t thread, uint32_t number, uint32_t boxes, size_t bytes)
{
    mail *m = mail_open(boxes, sizeof(letter), bytes, deliver, forget);
    check(m != NULL);
    *(letter *)m->data = (letter){thread, number, mem_alloc(bytes + 1)};
    return m;
}

static void post_many(void *argument)
{
    uint32_t thread = *(const uint32_t *)argument;
    mail_box *boxes[] = {&post.box};
    uint32_t full;
    for (uint32_t number = 1; number <= MAILS; number++) {
        mail *m = write_letter(thread, number, 1, 100);
        if (mail_post(m, boxes, 1, &full) != MAIL_POSTED) post.refused++;
        mail_release(m);
    }
}

static void threads_post_in_order(void)
{
    os_thread *threads[THREADS];
    uint32_t ids[THREADS];
    open_post();
    for (uint32_t i = 0; i < THREADS; i++) {
        ids[i] = i;
        threads[i] = os_thread_start("poster", post_many, &ids[i]);
        check(threads[i] != NULL);
    }
    turn(0);
    check_eq(post.taken, 0); /* not STARTED yet */
    mail_box_start(&post.box, post.rig.port);
    int64_t deadline = os_monotonic_ns() + 20 * (int64_t)PATIENCE_NS;
    while (post.taken + post.refused < THREADS * MAILS && os_monotonic_ns() < deadline) turn(10000000);
    for (int i = 0; i < THREADS; i++) os_thread_join(threads[i]);
    while (mail_box_is_due(&post.box)) turn(10000000);
    check_eq(post.taken, THREADS * MAILS);
    check_eq(post.forgotten, THREADS * MAILS);
    mail_box_stop(&post.box);
    check(!mail_box_is_due(&post.box));
    close_post();
}

static void a_full_box_refuses_for_all(void)
{
    mail_box *boxes[] = {&post.other, &post.box};
    uint32_t full = 9;
    open_post();
    mail_box_start(&post.box, post.rig.port);
    for (uint32_t i = 1; i <= MAIL_COUNT_MAX; i++) {
        mail *m = write_letter(0, i, 1, 1);
        check_eq(mail_post(m, &boxes[1], 1, &full), MAIL_POSTED);
        mail_release(m);
    }
    mail *m = write_letter(0, MAIL_COUNT_MAX + 1, 2, 1);
    check_eq(mail_post(m, boxes, 2, &full), MAIL_FULL);
    check_eq(full, 1);
    mail_release(m);
    check(post.other.count == 0 && post.other.bytes == 0 && post.other.first == NULL);
    m = write_letter(0, MAIL_COUNT_MAX + 1, 1, 1);
    m->always = true;
    check_eq(mail_post(m, &boxes[1], 1, &full), MAIL_POSTED);
    mail_release(m);
    while (mail_box_is_due(&post.box)) turn(10000000);
    check_eq(post.taken, MAIL_COUNT_MAX + 1);
    check(post.box.count == 0 && post.box.bytes == 0);
    m = write_letter(1, 1, 1, MAIL_BYTES_MAX); /* never fits */
    check_eq(mail_post(m, &boxes[1], 1, &full), MAIL_FULL);
    mail_release(m);
    check_eq(post.forgotten, MAIL_COUNT_MAX + 3);
    close_post();
}

static void a_stopped_box_drops_what_it_has(void)
{
    mail_box *boxes[] = {&post.other, &post.box};
    uint32_t full;
    open_post();
    mail_box_start(&post.box, post.rig.port);
    mail *kept = write_letter(0, 1, 2, 1);
    check_eq(mail_post(kept, boxes, 2, &full), MAIL_POSTED);
    for (uint32_t i = 2; i < 10; i++) {
        mail *m = write_letter(0, i, 2, 1);
        check_eq(mail_post(m, boxes, 2, &full), MAIL_POSTED);
        mail_release(m);
    }
    check(mail_box_is_due(&post.box));
    mail_box_stop(&post.box);
    check_eq(post.forgotten, 0); /* the other box has them, too */
    mail *m = write_letter(0, 10, 2, 1);
    check_eq(mail_post(m, boxes, 2, &full), MAIL_POSTED); /* to the other */
    mail_release(m);
    m = write_letter(0, 11, 1, 1);
    check_eq(mail_post(m, &boxes[1], 1, &full), MAIL_STOPPED);
    mail_release(m);
    while (mail_box_is_due(&post.box)) turn(10000000);
    check_eq(post.taken, 0);
    close_post(); /* the other box never started: what is in it goes now */
    check_eq(post.forgotten, 10);
    mail_release(kept);
    check_eq(post.forgotten, 11);
}

int main(int argc, char **argv)
{
    rig_begin(argc, argv);
    check_run(threads_post_in_order);
    check_run(a_full_box_refuses_for_all);
    check_run(a_stopped_box_drops_what_it_has);
    return rig_end();
}
