/* passage.h - passes descriptors from threads with tables of their own to the main thread. */
#ifndef LOAD_PASSAGE_H
#define LOAD_PASSAGE_H

enum { PASSAGE_MAX = 250 }; /* descriptors in a message; the kernel takes 253 (SCM_MAX_FD) */

struct passage {
    int ends[2];
};

/* Returns 0, or -1 with errno. */
int passage_open(struct passage *p);

/* Returns 0, or an errno. */
int passage_give(const struct passage *p, const int *fds, int count);

/* Waits for the next message, and returns how many have come with it, PASSAGE_MAX at the most; 0: there was no room for them. */
int passage_take(const struct passage *p, int *fds);

#endif
