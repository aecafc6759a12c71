/* watch.c - the thread that waits, looks, and lets things settle before it tells. */
#include "watch.h"

#include "mem.h"
#include "os.h"
#include "watch_system.h"

#include <assert.h>
#include <string.h>

#define MS INT64_C(1000000) /* in nanoseconds */
#define NEVER INT64_MAX

/* The set of files: paths and what was seen there. */
typedef struct watch_files {
    size_t count;
    char **paths;
    uint64_t stamp; /* of all of them together, at the last look */
} watch_files;

struct watch {
    void (*changed)(void *context);
    void *context;
    watch_system *system;
    os_thread *thread;
    os_mutex *mutex;
    bool closing;         /* guarded by the mutex, like the next line */
    watch_files *wanted;  /* the set to change to, or NULL */
    watch_files *files;   /* the rest is the thread's own: the set that is watched */
    bool covered;         /* notifications tell of everything in it */
    int64_t look_ns;      /* when to look next */
    int64_t first_ns;     /* of the changes that have not been told; NEVER: there are none */
    int64_t last_ns;      /* of the same */
    bool writing;         /* when the last of them came, somebody had a file open for writing */
    int64_t look_back_ns; /* when to tell once more; NEVER: not wanted */
};

static void files_free(watch_files *files)
{
    if (files == NULL) return;
    for (size_t i = 0; i < files->count; i++) mem_free(files->paths[i]);
    mem_free(files->paths);
    mem_free(files);
}

static watch_files *files_copy(const char *const *paths, size_t count)
{
    watch_files *files = mem_zalloc(sizeof(*files));
    if (files == NULL) return NULL;
    files->paths = mem_zalloc((count + 1) * sizeof(*files->paths));
    if (files->paths == NULL) goto fail;
    for (; files->count < count; files->count++) {
        files->paths[files->count] = mem_strdup(paths[files->count]);
        if (files->paths[files->count] == NULL) goto fail;
    }
    return files;
fail:
    files_free(files);
    return NULL;
}

/* True when something is not as it was. */
static bool look(watch *w)
{
    uint64_t stamp = WATCH_STAMP_FIRST;
    watch_system_begin(w->system);
    for (size_t i = 0; i < w->files->count; i++) {
        uint64_t one = watch_system_look(w->system, w->files->paths[i]);
        stamp = watch_stamp_mix(stamp, &one, sizeof(one));
    }
    w->covered = watch_system_end(w->system);
    w->look_ns = os_monotonic_ns() + (w->covered ? WATCH_LOOK_MS : WATCH_POLL_MS) * MS;
    bool differs = stamp != w->files->stamp;
    w->files->stamp = stamp;
    return differs;
}

static void note_change(watch *w, int64_t now_ns)
{
    if (w->first_ns == NEVER) w->first_ns = now_ns;
    w->last_ns = now_ns;
    w->writing = watch_system_writing(w->system);
}

/* When the changes so far are to be told. */
static int64_t due_ns(const watch *w)
{
    if (w->first_ns == NEVER) return NEVER;
    if (w->writing) return w->first_ns + WATCH_WRITER_MS * MS;
    int64_t settled_ns = w->last_ns + WATCH_SETTLE_MS * MS;
    int64_t latest_ns = w->first_ns + WATCH_STREAM_MS * MS;
    return settled_ns < latest_ns ? settled_ns : latest_ns;
}

static int64_t earliest(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Takes over a new set. False: the watch is being closed. */
static bool take_orders(watch *w)
{
    os_mutex_lock(w->mutex);
    watch_files *wanted = w->wanted;
    bool closing = w->closing;
    w->wanted = NULL;
    os_mutex_unlock(w->mutex);
    if (wanted != NULL) {
        files_free(w->files);
        w->files = wanted;
        (void)look(w);
        note_change(w, os_monotonic_ns());
    }
    return !closing;
}

/* The same for a change that was seen by looking. A second save in the same tick of the file system's clock that leaves
 * the size as it is cannot be seen. The longest tick is that of FAT, two seconds. */
static void note_seen(watch *w, int64_t now_ns)
{
    note_change(w, now_ns);
    w->look_back_ns = now_ns + WATCH_GRAIN_MS * MS;
}

/* Where nothing is notified, to settle is to look the same twice. */
static bool has_settled(watch *w, int64_t now_ns)
{
    if (w->covered || now_ns >= w->first_ns + WATCH_STREAM_MS * MS || !look(w)) return true;
    note_seen(w, now_ns);
    return false;
}

/* One wait, and what follows from how it ended. */
static void turn(watch *w)
{
    int64_t now_ns = os_monotonic_ns();
    int64_t until_ns = earliest(earliest(w->look_ns, due_ns(w)), w->look_back_ns);
    watch_news news = watch_system_wait(w->system, until_ns > now_ns ? until_ns - now_ns : 0);
    now_ns = os_monotonic_ns();
    if (news == WATCH_TOUCHED) {
        (void)look(w); /* other directories may be the ones to hear of now */
        note_change(w, now_ns);
    } else if (now_ns >= w->look_ns && look(w)) {
        note_seen(w, now_ns);
    }
    if (now_ns >= w->look_back_ns) {
        note_change(w, now_ns);
        w->look_back_ns = NEVER;
    }
    if (now_ns >= due_ns(w) && has_settled(w, now_ns)) {
        w->first_ns = NEVER;
        w->changed(w->context);
    }
}

static void run(void *argument)
{
    watch *w = argument;
    while (take_orders(w)) turn(w);
}

static void watch_free(watch *w)
{
    if (w->system != NULL) watch_system_close(w->system);
    if (w->mutex != NULL) os_mutex_close(w->mutex);
    files_free(w->wanted);
    files_free(w->files);
    mem_free(w);
}

watch *watch_open(watch_mode mode, void (*changed)(void *context), void *context)
{
    watch *w = mem_zalloc(sizeof(*w));
    if (w == NULL) return NULL;
    w->changed = changed;
    w->context = context;
    w->first_ns = NEVER;
    w->look_back_ns = NEVER;
    w->files = files_copy(NULL, 0);
    w->mutex = os_mutex_open();
    w->system = watch_system_open(mode == WATCH_POLL);
    if (w->files == NULL || w->mutex == NULL || w->system == NULL) goto fail;
    w->thread = os_thread_start("watch", run, w);
    if (w->thread != NULL) return w;
fail:
    watch_free(w);
    return NULL;
}

bool watch_set(watch *w, const char *const *paths, size_t count)
{
    if (count > WATCH_FILES_MAX) return false;
    watch_files *files = files_copy(paths, count);
    if (files == NULL) return false;
    os_mutex_lock(w->mutex);
    watch_files *old = w->wanted;
    w->wanted = files;
    os_mutex_unlock(w->mutex);
    files_free(old);
    watch_system_wake(w->system);
    return true;
}

void watch_close(watch *w)
{
    if (w == NULL) return;
    os_mutex_lock(w->mutex);
    w->closing = true;
    os_mutex_unlock(w->mutex);
    watch_system_wake(w->system);
    os_thread_join(w->thread);
    watch_free(w);
}
