/* mail.c - boxes of mail: a list under a mutex, and one message to the worker while there is something in it. */
#include "mail.h"

#include "base.h"
#include "mem.h"

#include <assert.h>
#include <stdalign.h>

/* Mails that are delivered before the worker's packets and timers have their turn: so many, and after so long no more. */
enum { MAIL_ROUND = 256 };
#define MAIL_ROUND_NS INT64_C(5000000) /* like WORKER_ROUND_NS, for the same reason */

/* ---- Mails ---- */

mail *mail_open(uint32_t workers, size_t data_bytes, size_t more_bytes, void (*deliver)(struct worker *w, mail *m),
                void (*forget)(mail *m))
{
    const size_t align = alignof(max_align_t);
    size_t head = (sizeof(mail) + workers * sizeof(mail_slip) + align - 1) / align * align;
    if (data_bytes > SIZE_MAX - head) return NULL;
    mail *m = mem_zalloc(head + data_bytes);
    if (m == NULL) return NULL;
    m->deliver = deliver;
    m->forget = forget;
    m->data = (char *)m + head;
    m->bytes = head + data_bytes + more_bytes;
    m->slips = workers;
    atomic_init(&m->users, 1);
    return m;
}

void mail_retain(mail *m)
{
    atomic_fetch_add_explicit(&m->users, 1, memory_order_relaxed);
}

void mail_release(mail *m)
{
    if (m == NULL || atomic_fetch_sub_explicit(&m->users, 1, memory_order_acq_rel) > 1) return;
    if (m->forget != NULL) m->forget(m);
    mem_free(m);
}

/* Releases each mail of a list. */
static void drop(mail_slip *slip)
{
    while (slip != NULL) {
        mail_slip *next = slip->next; /* the slip goes with its mail */
        mail_release(slip->mail);
        slip = next;
    }
}

/* ---- The owner's side ---- */

/* Takes a round off the list. The box stays posted until settle(). */
static mail_slip *take(mail_box *box)
{
    mail_slip *last = NULL;
    os_mutex_lock(box->mutex);
    mail_slip *slips = box->first;
    for (int i = 0; i < MAIL_ROUND && box->first != NULL; i++) {
        last = box->first;
        box->first = last->next;
        box->count--;
        box->bytes -= last->mail->bytes;
    }
    if (last != NULL) last->next = NULL;
    if (box->first == NULL) box->last = NULL;
    os_mutex_unlock(box->mutex);
    return slips;
}

/* Ends a round: what is left of it comes first in the next, for which it posts the box again if there is anything. */
static void settle(mail_box *box, mail_slip *left)
{
    os_mutex_lock(box->mutex);
    if (!box->stopped && left != NULL) {
        mail_slip *last = NULL;
        for (mail_slip *slip = left; slip != NULL; slip = slip->next) {
            box->count++;
            box->bytes += slip->mail->bytes;
            last = slip;
        }
        last->next = box->first;
        if (box->first == NULL) box->last = last;
        box->first = left;
        left = NULL;
    }
    box->posted = box->first != NULL;
    if (box->posted) io_port_post(box->port, &box->message.op);
    os_mutex_unlock(box->mutex);
    drop(left);
}

static void run(struct worker *w, worker_message *message)
{
    mail_box *box = container_of(message, mail_box, message);
    int64_t begun_ns = io_port_now(box->port);
    mail_slip *slip = take(box);
    while (slip != NULL) {
        mail_slip *next = slip->next;
        mail *m = slip->mail;
        m->deliver(w, m);
        mail_release(m);
        slip = next;
        if (io_port_now(box->port) - begun_ns >= MAIL_ROUND_NS) break;
    }
    settle(box, slip);
}

bool mail_box_open(mail_box *box)
{
    box->message.run = run;
    box->mutex = os_mutex_open();
    return box->mutex != NULL;
}

void mail_box_close(mail_box *box)
{
    drop(box->first);
    box->first = box->last = NULL;
    if (box->mutex != NULL) os_mutex_close(box->mutex);
    box->mutex = NULL;
}

/* Under the mutex, so that the owner cannot stop the box and close the port in between. */
static void wake(mail_box *box)
{
    if (box->posted || box->port == NULL) return;
    box->posted = true;
    io_port_post(box->port, &box->message.op);
}

void mail_box_start(mail_box *box, io_port *port)
{
    os_mutex_lock(box->mutex);
    box->port = port;
    if (box->first != NULL) wake(box);
    os_mutex_unlock(box->mutex);
}

void mail_box_stop(mail_box *box)
{
    os_mutex_lock(box->mutex);
    mail_slip *left = box->first;
    box->stopped = true;
    box->first = box->last = NULL;
    box->count = 0;
    box->bytes = 0;
    os_mutex_unlock(box->mutex);
    drop(left);
}

bool mail_box_is_due(mail_box *box)
{
    os_mutex_lock(box->mutex);
    bool due = box->posted;
    os_mutex_unlock(box->mutex);
    return due;
}

/* ---- The poster's side ---- */

/* Keeps room. MAIL_POSTED: there was some. */
static mail_result reserve(mail_box *box, const mail *m)
{
    mail_result result = MAIL_POSTED;
    os_mutex_lock(box->mutex);
    if (box->stopped) {
        result = MAIL_STOPPED;
    } else if (!m->always && (box->count >= MAIL_COUNT_MAX || box->bytes >= MAIL_BYTES_MAX ||
                              m->bytes > MAIL_BYTES_MAX - box->bytes)) {
        result = MAIL_FULL;
    } else {
        box->count++;
        box->bytes += m->bytes;
    }
    os_mutex_unlock(box->mutex);
    return result;
}

static void unreserve(mail_box *box, const mail *m)
{
    os_mutex_lock(box->mutex);
    if (!box->stopped) {
        box->count--;
        box->bytes -= m->bytes;
    }
    os_mutex_unlock(box->mutex);
}

/* In room that has been kept. False: the box was stopped meanwhile. */
static bool put(mail_box *box, mail *m)
{
    os_mutex_lock(box->mutex);
    bool ok = !box->stopped;
    if (ok) {
        assert(m->used < m->slips);
        mail_slip *slip = &m->slip[m->used++];
        *slip = (mail_slip){.mail = m};
        mail_retain(m);
        if (box->last != NULL) box->last->next = slip;
        else box->first = slip;
        box->last = slip;
        wake(box);
    }
    os_mutex_unlock(box->mutex);
    return ok;
}

mail_result mail_post(mail *m, mail_box *const *boxes, uint32_t count, uint32_t *full)
{
    bool kept[MAIL_WORKERS_MAX];
    bool any = false;
    assert(count <= m->slips);
    for (uint32_t i = 0; i < count; i++) {
        mail_result result = reserve(boxes[i], m);
        kept[i] = result == MAIL_POSTED;
        if (result != MAIL_FULL) continue;
        *full = i;
        while (i-- > 0) {
            if (kept[i]) unreserve(boxes[i], m);
        }
        return MAIL_FULL;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (kept[i] && put(boxes[i], m)) any = true;
    }
    return any ? MAIL_POSTED : MAIL_STOPPED;
}
