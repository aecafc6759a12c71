/* mail.h - what one thread tells another: messages to workers, without waiting for them.
 *
 * A worker_message is embedded by its poster, who knows that it will be run. A mail is for everybody else: it counts its
 * users, may go to many workers at once without being copied, and what a worker does not take in time is bounded. Each worker
 * has a mail_box:
 *
 *   NEW --mail_box_start, when the worker has opened--> STARTED --mail_box_stop, when it ends--> STOPPED
 *
 * Mail that comes to a NEW box waits there; a STOPPED one takes none. Mails of one thread to one worker arrive in the order of
 * posting.
 */
#ifndef PORTICO_MAIL_H
#define PORTICO_MAIL_H

#include "io.h"
#include "os.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct worker;

enum {
    MAIL_BYTES_MAX = 16 << 20, /* in one box … */
    MAIL_COUNT_MAX = 65536,    /* … of so many mails */
    MAIL_WORKERS_MAX = 256     /* that one goes to */
};

/* A message to a worker: run is called on the worker's thread, in order of posting. Embed it; it must stay until
 * run, which may free it. */
typedef struct worker_message worker_message;
struct worker_message {
    io_op op; /* zeroed before its first use */
    void (*run)(struct worker *w, worker_message *message);
};

typedef struct mail mail;

/* A mail's place in one box. */
typedef struct mail_slip mail_slip;
struct mail_slip {
    mail_slip *next;
    mail *mail;
};

struct mail {
    /* On the thread of each worker that it was posted to. It may retain the mail. */
    void (*deliver)(struct worker *w, mail *m);
    /* Nobody uses it any more: frees what its data refer to. Any thread; NULL: nothing to free. */
    void (*forget)(mail *m);
    void *data;
    size_t bytes; /* counted against MAIL_BYTES_MAX */
    bool
        always; /* may be set before it is posted: goes into a full box, too. For answers to what the addressee has asked */
    atomic_uint users;
    uint32_t slips; /* how many there are … */
    uint32_t used;  /* … and have been */
    mail_slip slip[];
};

/* A mail for at most so many workers, with room for data, zeroed; more_bytes is what the data will refer to. The caller is its
 * first user. Any thread. NULL: out of memory. */
mail *mail_open(uint32_t workers, size_t data_bytes, size_t more_bytes, void (*deliver)(struct worker *w, mail *m),
                void (*forget)(mail *m));
void mail_retain(mail *m);
/* The last one frees it. Any thread; NULL is fine. */
void mail_release(mail *m);

typedef struct mail_box {
    os_mutex *mutex; /* guards the following */
    io_port *port;   /* STARTED, STOPPED */
    mail_slip *first;
    mail_slip *last;
    size_t bytes;
    uint32_t count;
    bool posted; /* message is on its way, or its run is at work */
    bool stopped;
    worker_message message;
} mail_box;

bool mail_box_open(mail_box *box); /* zeroed. False: out of memory */
void mail_box_close(mail_box *box);
/* The worker's thread. */
void mail_box_start(mail_box *box, io_port *port);
/* The worker's thread. What is in it is dropped. The port may be closed when mail_box_is_due() is false. */
void mail_box_stop(mail_box *box);
/* The worker's thread: the port still has to run the box's message. */
bool mail_box_is_due(mail_box *box);

typedef enum mail_result { MAIL_POSTED, MAIL_FULL, MAIL_STOPPED } mail_result;

/* Posts a mail to boxes of different workers; once per mail. The caller stays its user. Any thread.
 * result  MAIL_FULL: one is full, its index is in *full, and none has got it; MAIL_STOPPED: all are. */
mail_result mail_post(mail *m, mail_box *const *boxes, uint32_t count, uint32_t *full);

#endif
