/* watch_posix.c - watch_system.h on Linux: inotify on directories, and lstat() along each path.
 *
 * A path is walked one name at a time, as the kernel does it. Wherever it could lead elsewhere tomorrow - at a link, at
 * the last name, at a name that is missing - the directory is watched for that name: a place. So a link that is swapped,
 * anywhere in the path, is seen. An ordinary directory on the way is not watched by its parent, since parents such as /tmp
 * never rest; when one is moved away, the next look sees it. The directory of the file tells by itself when it goes.
 */
#include "watch_system.h"

#include "log.h"
#include "mem.h"
#include "os.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    LINKS_MAX = 40,            /* in one path, as in the kernel: path_resolution(7) */
    PLACES_MAX = 65536,        /* more are left to looking */
    PLACES_FIRST = 16,         /* room to begin with */
    EVENTS_BYTES = 16384,      /* read at a time */
    CROWD_PAUSE_NS = 10000000, /* between two reads in a directory where much happens that is not ours */
    NANOSECONDS = 1000000000   /* in a second */
};

/* What happens to a name in the directory, and the end of the directory itself. Not what reading does, or we would see
 * ourselves. */
static const uint32_t event_mask = IN_ATTRIB | IN_CREATE | IN_DELETE | IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_FROM |
                                   IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;

/* A name in a directory. */
typedef struct watch_place {
    int descriptor; /* the directory's, of inotify */
    bool writing;   /* it was written, and who writes it has not closed it */
    char *name;
} watch_place;

typedef struct watch_places {
    watch_place *list;
    size_t count;
    size_t room;
} watch_places;

struct watch_system {
    int notify_fd; /* -1: polling */
    int wake_fd;
    bool covered;         /* in this round */
    bool crowded;         /* the last read brought nothing of ours */
    watch_places current; /* met in the last round */
    watch_places next;    /* met in this one */
};

/* ---- Places ---- */

static void places_clear(watch_places *places)
{
    for (size_t i = 0; i < places->count; i++) mem_free(places->list[i].name);
    places->count = 0;
}

static bool places_have(const watch_places *places, int descriptor)
{
    for (size_t i = 0; i < places->count; i++) {
        if (places->list[i].descriptor == descriptor) return true;
    }
    return false;
}

static watch_place *places_find(const watch_places *places, int descriptor, const char *name)
{
    for (size_t i = 0; i < places->count; i++) {
        watch_place *place = &places->list[i];
        if (place->descriptor == descriptor && strcmp(place->name, name) == 0) return place;
    }
    return NULL;
}

static bool places_add(watch_places *places, int descriptor, const char *name, bool writing)
{
    if (places_find(places, descriptor, name) != NULL) return true;
    if (places->count == PLACES_MAX) return false;
    if (places->count == places->room) {
        size_t room = places->room > 0 ? places->room * 2 : PLACES_FIRST;
        watch_place *list = mem_realloc(places->list, room * sizeof(*list));
        if (list == NULL) return false;
        places->list = list;
        places->room = room;
    }
    char *copy = mem_strdup(name);
    if (copy == NULL) return false;
    places->list[places->count++] = (watch_place){descriptor, writing, copy};
    return true;
}

/* ---- Polling instead ---- */

static void give_up_notifications(watch_system *s, const char *what, int code)
{
    const char *remedy = code == ENOSPC ? " (fs.inotify.max_user_watches)" : "";
    log_write(LOG_WARN, "cannot be notified of changed files: %s: %s%s; looking at them from time to time instead",
              what, strerror(code), remedy);
    if (s->notify_fd >= 0) close(s->notify_fd);
    s->notify_fd = -1;
    places_clear(&s->current);
    places_clear(&s->next);
}

/* Wants to hear about a name in a directory. */
static void notify_of(watch_system *s, const char *directory, const char *name)
{
    if (s->notify_fd < 0) return;
    /* The same directory has the same descriptor, however often it is added: inotify_add_watch(2). */
    int descriptor = inotify_add_watch(s->notify_fd, directory, event_mask);
    if (descriptor < 0 && (errno == ENOSPC || errno == ENOMEM)) {
        give_up_notifications(s, "inotify_add_watch", errno);
    } else if (descriptor < 0) {
        s->covered = false; /* it is gone again, or not for us to read */
    } else {
        const watch_place *known = places_find(&s->current, descriptor, name);
        if (!places_add(&s->next, descriptor, name, known != NULL && known->writing)) s->covered = false;
    }
}

/* ---- Looking ---- */

static uint64_t mix_status(uint64_t stamp, const struct stat *status)
{
    /* The time of change tells what a program that sets the time of modification hides. */
    const int64_t facts[] = {(int64_t)status->st_dev,         (int64_t)status->st_ino,
                             (int64_t)status->st_mode,        (int64_t)status->st_size,
                             (int64_t)status->st_mtim.tv_sec, (int64_t)status->st_mtim.tv_nsec,
                             (int64_t)status->st_ctim.tv_sec, (int64_t)status->st_ctim.tv_nsec};
    return watch_stamp_mix(stamp, facts, sizeof(facts));
}

/* A path on its way from text to file. */
typedef struct walk {
    char here[PATH_MAX];     /* free of links: what has been walked; "" is the working directory */
    char rest[PATH_MAX];     /* what has not */
    char name[NAME_MAX + 1]; /* the first of the rest */
    char full[PATH_MAX];     /* here and name */
    int links;
} walk;

static const char *directory_of(const walk *k)
{
    return k->here[0] != '\0' ? k->here : ".";
}

/* Moves the first name of the rest to name, and sets full. False: there is none, or one of them is too long. */
static bool next_name(walk *k)
{
    const char *rest = k->rest;
    size_t len;
    do {
        rest += strspn(rest, "/");
        len = strcspn(rest, "/");
    } while (len == 1 && rest[0] == '.' && (rest += 1, true));
    if (len == 0 || len > NAME_MAX) return false;
    memcpy(k->name, rest, len);
    k->name[len] = '\0';
    memmove(k->rest, rest + len, strlen(rest + len) + 1);
    bool rooted = k->here[0] == '\0' || strcmp(k->here, "/") == 0;
    int wanted = snprintf(k->full, sizeof(k->full), "%s%s%s", k->here, rooted ? "" : "/", k->name);
    return (size_t)wanted < sizeof(k->full);
}

static bool begin_at(walk *k, const char *path)
{
    size_t len = strlen(path);
    if (len >= sizeof(k->rest)) return false;
    memcpy(k->rest, path, len + 1);
    snprintf(k->here, sizeof(k->here), "%s", path[0] == '/' ? "/" : "");
    k->links = 0;
    return true;
}

/* Puts what the link says before the rest. */
static bool follow(walk *k)
{
    char target[PATH_MAX];
    ssize_t got = readlink(k->full, target, sizeof(target));
    size_t rest_len = strlen(k->rest);
    if (got <= 0 || ++k->links > LINKS_MAX) return false;
    size_t len = (size_t)got;
    if (len + rest_len + 1 >= sizeof(k->rest)) return false;
    memmove(k->rest + len + 1, k->rest, rest_len + 1);
    memcpy(k->rest, target, len);
    k->rest[len] = '/';
    if (target[0] == '/') snprintf(k->here, sizeof(k->here), "/");
    return true;
}

static bool is_last(const walk *k)
{
    return strspn(k->rest, "/") == strlen(k->rest);
}

uint64_t watch_system_look(watch_system *s, const char *path)
{
    walk k;
    uint64_t stamp = WATCH_STAMP_FIRST;
    bool good = begin_at(&k, path);
    while (good && next_name(&k)) {
        struct stat status;
        bool there = lstat(k.full, &status) == 0;
        if (!there || S_ISLNK(status.st_mode) || is_last(&k)) {
            /* What is to be stamped is looked at after it is watched: nothing can happen between. */
            notify_of(s, directory_of(&k), k.name);
            there = lstat(k.full, &status) == 0;
            int code = there ? 0 : errno;
            stamp = there ? mix_status(stamp, &status) : watch_stamp_mix(stamp, &code, sizeof(code));
        }
        if (!there) return stamp;
        if (S_ISLNK(status.st_mode)) good = follow(&k);
        else snprintf(k.here, sizeof(k.here), "%s", k.full);
    }
    if (!good) s->covered = false;
    return stamp;
}

void watch_system_begin(watch_system *s)
{
    s->covered = true;
    assert(s->next.count == 0);
}

bool watch_system_end(watch_system *s)
{
    if (s->notify_fd < 0) return false;
    for (size_t i = 0; i < s->current.count; i++) {
        int descriptor = s->current.list[i].descriptor;
        /* Several places of a directory: the second removal fails, as it does for a directory that is gone. */
        if (!places_have(&s->next, descriptor)) (void)inotify_rm_watch(s->notify_fd, descriptor);
    }
    watch_places old = s->current;
    s->current = s->next;
    s->next = old;
    places_clear(&s->next);
    return s->covered;
}

/* ---- Waiting ---- */

/* What was lost may have been that somebody has closed a file. */
static void forget_writing(watch_system *s)
{
    for (size_t i = 0; i < s->current.count; i++) s->current.list[i].writing = false;
}

/* Takes note of an event. True when it is about something of ours. */
static bool take_event(watch_system *s, const struct inotify_event *event)
{
    if ((event->mask & IN_Q_OVERFLOW) != 0) {
        forget_writing(s);
        return true;
    }
    if ((event->mask & IN_IGNORED) != 0) return false; /* said by the events before it, or by our own removal */
    if (event->len == 0) return places_have(&s->current, event->wd);
    watch_place *place = places_find(&s->current, event->wd, event->name);
    if (place == NULL) return false;
    if ((event->mask & IN_MODIFY) != 0) place->writing = true;
    else if ((event->mask & IN_ATTRIB) == 0) place->writing = false; /* closed, or another file or none has the name */
    return true;
}

/* True when something of ours was among what is there to be read. */
static bool read_events(watch_system *s)
{
    static_assert(EVENTS_BYTES >= sizeof(struct inotify_event) + NAME_MAX + 1, "room for the longest event");
    _Alignas(struct inotify_event) char bytes[EVENTS_BYTES];
    bool ours = false;
    ssize_t got = read(s->notify_fd, bytes, sizeof(bytes));
    for (ssize_t at = 0; at < got;) {
        const struct inotify_event *event = (const struct inotify_event *)(const void *)(bytes + at);
        ours = take_event(s, event) || ours;
        at += (ssize_t)(sizeof(*event) + event->len);
    }
    return ours;
}

/* Waits for either descriptor, or only for the waking one while a crowd passes. WATCH_TOUCHED: there is something to be
 * read. */
static watch_news wait_once(watch_system *s, int64_t timeout_ns)
{
    struct pollfd wanted[] = {{.fd = s->wake_fd, .events = POLLIN}, {.fd = s->notify_fd, .events = POLLIN}};
    nfds_t count = s->notify_fd >= 0 && !s->crowded ? 2 : 1;
    if (s->crowded && timeout_ns > CROWD_PAUSE_NS) timeout_ns = CROWD_PAUSE_NS;
    s->crowded = false;
    struct timespec timeout = {.tv_sec = timeout_ns / NANOSECONDS, .tv_nsec = timeout_ns % NANOSECONDS};
    (void)ppoll(wanted, count, &timeout, NULL); /* ended by a signal, it is begun again */
    if (wanted[0].revents != 0) return WATCH_WOKEN;
    return count == 2 && wanted[1].revents != 0 ? WATCH_TOUCHED : WATCH_TIME_OVER;
}

watch_news watch_system_wait(watch_system *s, int64_t timeout_ns)
{
    int64_t deadline_ns = os_monotonic_ns() + timeout_ns;
    for (;;) {
        watch_news news = wait_once(s, timeout_ns);
        if (news == WATCH_WOKEN) {
            uint64_t count;
            (void)!read(s->wake_fd, &count, sizeof(count));
            return WATCH_WOKEN;
        }
        if (news == WATCH_TOUCHED) {
            if (read_events(s)) return WATCH_TOUCHED;
            s->crowded = true;
        }
        timeout_ns = deadline_ns - os_monotonic_ns();
        if (timeout_ns <= 0) return WATCH_TIME_OVER;
    }
}

bool watch_system_writing(const watch_system *s)
{
    for (size_t i = 0; i < s->current.count; i++) {
        if (s->current.list[i].writing) return true;
    }
    return false;
}

void watch_system_wake(watch_system *s)
{
    const uint64_t one = 1;
    (void)!write(s->wake_fd, &one, sizeof(one)); /* fails when it is already as loud as can be */
}

/* ---- Opening and closing ---- */

watch_system *watch_system_open(bool poll)
{
    watch_system *s = mem_zalloc(sizeof(*s));
    if (s == NULL) return NULL;
    s->notify_fd = -1;
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wake_fd < 0) {
        mem_free(s);
        return NULL;
    }
    if (!poll) {
        s->notify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        if (s->notify_fd < 0) give_up_notifications(s, "inotify_init1", errno);
    }
    return s;
}

void watch_system_close(watch_system *s)
{
    if (s->notify_fd >= 0) close(s->notify_fd);
    close(s->wake_fd);
    places_clear(&s->current);
    places_clear(&s->next);
    mem_free(s->current.list);
    mem_free(s->next.list);
    mem_free(s);
}
