/* listening.c - see listening.h. Few wishes and few sockets: everything is looked for by going through all of them, under one
 * mutex, which also guards the server's listeners.
 */
#include "listening.h"

#include "file.h"
#include "io_types.h"
#include "log.h"
#include "mem.h"
#include "os.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum {
    WHY_BYTES = 256,
    PRIVILEGED_PORTS = 1024,               /* below it Linux wants a capability, by default */
    WISHES_MAX = 4 * SERVER_LISTENERS_MAX, /* in force, to go back to, loading; and sockets for datagrams that stay */
    WORKER_WORDS = (WORKER_MAX + 63) / 64
};
#define UNBOUND UINT32_MAX
#define NO_PLACE UINT32_MAX /* no other generation's is the same one */

typedef struct wish {
    uint64_t id; /* 0: free */
    uint64_t generation;
    net_uri uri;
    bool loaded;                       /* when the generation did, and not later */
    uint32_t place;                    /* among those of its generation without name and with that address */
    uint32_t number;                   /* of the server's listener, or UNBOUND */
    uint64_t workers[WORKER_WORDS];    /* who has said so: a bit each */
    char name[LISTENING_NAME_MAX + 1]; /* "": none */
} wish;

struct listening {
    const options *options;
    const char *script;
    os_mutex *mutex; /* guards all that follows */
    server *server;  /* NULL: the workers have not all opened yet */
    bool bound;      /* the first generation's are */
    bool started;
    bool changed;       /* since listening_tell() */
    uint64_t spoken;    /* the last generation whose script has a `listen` */
    uint64_t ids;       /* the last that was given */
    uint64_t in_force;  /* generations whose wishes count at once: this, */
    uint64_t fallback;  /* … this, */
    uint64_t candidate; /* … and the one that was bound last */
    wish wishes[WISHES_MAX];
};

listening *listening_open(const options *o, const char *script)
{
    listening *l = mem_zalloc(sizeof(*l));
    if (l == NULL) return NULL;
    l->options = o;
    l->script = script;
    l->mutex = os_mutex_open();
    if (l->mutex != NULL) return l;
    mem_free(l);
    return NULL;
}

void listening_close(listening *l)
{
    if (l == NULL) return;
    os_mutex_close(l->mutex);
    mem_free(l);
}

/* ---- Looking for wishes ---- */

static wish *next_wish(listening *l, wish *w)
{
    for (w = w == NULL ? l->wishes : w + 1; w < l->wishes + WISHES_MAX; w++) {
        if (w->id != 0) return w;
    }
    return NULL;
}

static wish *find(listening *l, uint64_t id)
{
    wish *w = NULL;
    do w = next_wish(l, w);
    while (w != NULL && w->id != id);
    return w;
}

static bool is_same_uri(const net_uri *a, const net_uri *b)
{
    char one[NET_URI_TEXT_MAX], other[NET_URI_TEXT_MAX];
    return strcmp(net_uri_format(a, one, sizeof(one)), net_uri_format(b, other, sizeof(other))) == 0;
}

/* The system chooses the port. */
static bool is_open(const net_uri *uri)
{
    return uri->transport != NET_UNIX && net_addr_port(&uri->addr) == 0;
}

/* The socket that is bound for w, of another generation, is what wanted wants, too. */
static bool is_socket_for(const listening *l, const wish *w, const wish *wanted)
{
    char text[NET_URI_TEXT_MAX];
    if (w->number == UNBOUND || w->generation == wanted->generation) return false;
    if (!is_open(&wanted->uri)) {
        net_uri_format(&wanted->uri, text, sizeof(text));
        return strcmp(server_listener_address(l->server, w->number), text) == 0;
    }
    return is_same_uri(&w->uri, &wanted->uri) && strcmp(w->name, wanted->name) == 0 && w->place == wanted->place &&
           w->place != NO_PLACE;
}

/* ---- Sockets ---- */

static void explain(char *error, size_t error_size, const net_uri *uri, io_status status, int native)
{
    char name[NET_URI_TEXT_MAX];
    net_uri_format(uri, name, sizeof(name));
    bool is_unix = uri->transport == NET_UNIX;
    uint16_t port = net_addr_port(&uri->addr);
    if (status == IO_UNEXPECTED) {
        snprintf(error, error_size, "cannot listen on %s: system error %d", name, native);
    } else if (status == IO_DENIED && port > 0 && port < PRIVILEGED_PORTS) {
        snprintf(error, error_size, "cannot listen on %s: %s: ports below %d are for the privileged", name,
                 io_status_text(status), PRIVILEGED_PORTS);
    } else if (is_unix && status == IO_INVALID) {
        snprintf(error, error_size, "cannot listen on %s: there is a file of that name, and it is no socket", name);
    } else if (is_unix && status == IO_NOT_FOUND) {
        snprintf(error, error_size, "cannot listen on %s: there is no such directory", name);
    } else if (uri->transport == NET_UDP && status == IO_UNSUPPORTED) {
        snprintf(error, error_size, "cannot listen on %s: sockets for datagrams are opened when the server starts",
                 name);
    } else {
        snprintf(error, error_size, "cannot listen on %s: %s", name, io_status_text(status));
    }
}

/* From now on connections there are told the wish's name. */
static bool give_name(const listening *l, const wish *w)
{
    const char *address = server_listener_address(l->server, w->number);
    return server_name_listener(l->server, w->number, w->name[0] != '\0' ? w->name : address);
}

/* The file of a Unix socket gets the permissions that the wish names. */
static void give_mode(const listening *l, const wish *w)
{
    char name[NET_URI_TEXT_MAX];
    int native;
    io_status status = server_set_mode(l->server, w->number, w->uri.mode, &native);
    if (status == IO_OK) return;
    log_write(LOG_WARN, "cannot change the permissions of %s: %s (system code %d)",
              net_uri_format(&w->uri, name, sizeof(name)), io_status_text(status), native);
}

/* A killed process leaves its sockets to the kernel, which closes those of a ring a moment after the process has gone: who
 * starts it again at once finds its port taken. So at the start a port in use is asked for again, for a second. The mutex is
 * held, but not while waiting. */
static io_status listen_on(listening *l, const net_uri *uri, uint32_t *number, int *native)
{
    const int64_t patience_ns = 1000000000;
    const int64_t pause_ns = 10000000;
    int64_t end_ns = os_monotonic_ns() + patience_ns;
    io_status status = server_listen(l->server, uri, number, native);
    if (status != IO_IN_USE || l->bound) return status;
    os_cond *never = os_cond_open();
    while (never != NULL && status == IO_IN_USE && os_monotonic_ns() < end_ns) {
        os_cond_wait(never, l->mutex, pause_ns);
        status = server_listen(l->server, uri, number, native);
    }
    if (never != NULL) os_cond_close(never);
    return status;
}

/* Gives a wish the socket that is there for it, or a new one; *is_new says which. */
static io_status bind_one(listening *l, wish *wanted, bool *is_new, char *error, size_t error_size)
{
    int native = 0;
    *is_new = false;
    for (wish *w = next_wish(l, NULL); w != NULL; w = next_wish(l, w)) {
        if (!is_socket_for(l, w, wanted)) continue;
        wanted->number = w->number;
        return IO_OK;
    }
    uint32_t number = UNBOUND;
    io_status status = listen_on(l, &wanted->uri, &number, &native);
    if (status == IO_OK) {
        *is_new = true;
        wanted->number = number;
        if (give_name(l, wanted)) return IO_OK;
        status = IO_LIMIT;
    }
    explain(error, error_size, &wanted->uri, status, native);
    return status;
}

/* Takes the socket of a wish away; the last one stops the listening. One for datagrams stays, as nobody's wish. */
static void unbind(listening *l, wish *gone)
{
    uint32_t number = gone->number;
    bool is_last = number != UNBOUND;
    for (wish *w = next_wish(l, NULL); w != NULL; w = next_wish(l, w)) {
        if (w != gone && w->number == number) is_last = false;
    }
    if (is_last && gone->uri.transport == NET_UDP) {
        gone->generation = 0;
        return;
    }
    *gone = (wish){0};
    /* Once the server stops it does so by itself, and soon takes no messages any more. */
    if (!is_last || server_stopping(l->server)) return;
    server_unlisten(l->server, number);
    l->changed = true;
}

static void unbind_all(listening *l, uint64_t generation)
{
    for (wish *w = next_wish(l, NULL); w != NULL; w = next_wish(l, w)) {
        if (w->generation == generation) unbind(l, w);
    }
}

/* ---- Wishes ---- */

static wish *add(listening *l, uint64_t generation, const net_uri *uri, const char *name, uint32_t place)
{
    uint32_t count = 0;
    wish *room = NULL;
    for (wish *w = l->wishes; w < l->wishes + WISHES_MAX; w++) {
        if (w->id == 0 && room == NULL) room = w;
        if (w->id != 0 && w->generation == generation) count++;
    }
    if (room == NULL || count >= SERVER_LISTENERS_MAX) return NULL;
    *room = (wish){.id = ++l->ids, .generation = generation, .uri = *uri, .place = place, .number = UNBOUND};
    if (name != NULL) snprintf(room->name, sizeof(room->name), "%s", name);
    return room;
}

/* True the first time for that worker. */
static bool take_turn(wish *w, uint32_t index)
{
    uint64_t bit = UINT64_C(1) << index % 64;
    bool is_first = (w->workers[index / 64] & bit) == 0;
    w->workers[index / 64] |= bit;
    return is_first;
}

/* The wish of its generation's that it is, on another worker or on this one; NULL: it is a new one, at that place. On a contradiction
 * *outcome and error say so. */
static wish *find_same(listening *l, const listening_wish *wanted, uint32_t *place, listening_outcome *outcome,
                       char *error, size_t error_size)
{
    char text[NET_URI_TEXT_MAX];
    bool open = is_open(&wanted->uri);
    const char *name = wanted->name != NULL ? wanted->name : "";
    *outcome = LISTENING_OK;
    *place = 0;
    for (wish *w = next_wish(l, NULL); w != NULL; w = next_wish(l, w)) {
        if (w->generation != wanted->generation) continue;
        bool same_uri = is_same_uri(&w->uri, &wanted->uri), same_name = strcmp(w->name, name) == 0;
        if (same_uri && w->uri.mode != wanted->uri.mode) {
            snprintf(error, error_size, "%s is listened on already, with other permissions (?mode=)",
                     net_uri_format(&w->uri, text, sizeof(text)));
            *outcome = LISTENING_CONTRADICTS;
            return NULL;
        }
        if (same_uri && same_name && (!open || *name != '\0')) return w;
        if (same_uri && same_name && wanted->loads && take_turn(w, wanted->worker)) return w;
        if (same_uri && same_name) ++*place;
        if (same_name && *name != '\0') {
            snprintf(error, error_size, "the name '%s' is that of %s already", name,
                     net_uri_format(&w->uri, text, sizeof(text)));
            *outcome = LISTENING_CONTRADICTS;
            return NULL;
        }
        if (same_uri && !open) {
            snprintf(error, error_size, "%s is listened on already, %s%s%s",
                     net_uri_format(&w->uri, text, sizeof(text)), w->name[0] != '\0' ? "as '" : "without a name",
                     w->name, w->name[0] != '\0' ? "'" : "");
            *outcome = LISTENING_CONTRADICTS;
            return NULL;
        }
    }
    if (!wanted->loads && open && *name == '\0') *place = NO_PLACE;
    return NULL;
}

/* Its generation is in force, or about to be. */
static bool counts(const listening *l, uint64_t generation)
{
    return generation == l->in_force || generation == l->fallback || generation == l->candidate;
}

static listening_outcome want(listening *l, const listening_wish *wanted, uint64_t *id, io_status *status, char *error,
                              size_t error_size)
{
    listening_outcome outcome;
    uint32_t place;
    bool is_new = false;
    *status = IO_OK;
    wish *w = find_same(l, wanted, &place, &outcome, error, error_size);
    if (outcome != LISTENING_OK) return outcome;
    bool at_once = !wanted->loads && l->bound;
    if (at_once && (server_stopping(l->server) || !counts(l, wanted->generation))) {
        *status = IO_CLOSED;
        snprintf(error, error_size, "%s",
                 server_stopping(l->server) ? "the server is stopping"
                                            : "this version of the script is not in force any more");
        return LISTENING_FAILED;
    }
    if (w == NULL) {
        w = add(l, wanted->generation, &wanted->uri, wanted->name, place);
        if (w != NULL) w->loaded = wanted->loads;
        if (w != NULL && place != NO_PLACE) (void)take_turn(w, wanted->worker);
    }
    if (w == NULL) {
        *status = IO_LIMIT;
        snprintf(error, error_size, "more than %d addresses to listen on", SERVER_LISTENERS_MAX);
        return LISTENING_FAILED;
    }
    if (at_once && w->number == UNBOUND) {
        *status = bind_one(l, w, &is_new, error, error_size);
        if (*status != IO_OK) {
            unbind(l, w);
            return LISTENING_FAILED;
        }
        if (!is_new && wanted->generation != l->fallback) {
            (void)give_name(l, w);
            give_mode(l, w);
        }
        if (is_new && l->started) (void)server_accept(l->server);
        l->changed = l->changed || is_new;
    }
    *id = w->id;
    return LISTENING_OK;
}

/* Unlocks; the main thread tells what has changed. */
static void leave(listening *l)
{
    bool wakes = l->changed && l->started;
    os_mutex_unlock(l->mutex);
    if (wakes) os_news_post(OS_NEWS_WAKE);
}

listening_outcome listening_want(listening *l, const listening_wish *wanted, uint64_t *id, io_status *status,
                                 char *error, size_t error_size)
{
    os_mutex_lock(l->mutex);
    listening_outcome outcome = want(l, wanted, id, status, error, error_size);
    leave(l);
    return outcome;
}

bool listening_forget(listening *l, uint64_t id)
{
    os_mutex_lock(l->mutex);
    wish *w = find(l, id);
    bool is_there = w != NULL && w->generation != 0;
    if (is_there) unbind(l, w);
    leave(l);
    return is_there;
}

bool listening_address(listening *l, uint64_t id, char *text)
{
    os_mutex_lock(l->mutex);
    const wish *w = find(l, id);
    bool is_there = w != NULL && w->generation != 0;
    if (is_there && w->number == UNBOUND) net_uri_format(&w->uri, text, NET_URI_TEXT_MAX);
    else if (is_there) snprintf(text, NET_URI_TEXT_MAX, "%s", server_listener_address(l->server, w->number));
    os_mutex_unlock(l->mutex);
    return is_there;
}

void listening_say(listening *l, uint64_t generation)
{
    os_mutex_lock(l->mutex);
    l->spoken = generation;
    os_mutex_unlock(l->mutex);
}

bool listening_is_given(const listening *l)
{
    return l->options->listen_count > 0;
}

/* ---- Generations ---- */

void listening_attach(listening *l, server *s)
{
    os_mutex_lock(l->mutex);
    l->server = s;
    os_mutex_unlock(l->mutex);
}

/* An address of the command line's, unless the script, whose wishes go up to the id last, wants that, too. */
static bool add_given(listening *l, uint64_t generation, const net_uri *uri, uint32_t place, uint64_t last)
{
    for (wish *w = next_wish(l, NULL); w != NULL; w = next_wish(l, w)) {
        if (w->generation == generation && w->id <= last && !is_open(uri) && is_same_uri(&w->uri, uri)) return true;
    }
    wish *w = add(l, generation, uri, NULL, place);
    if (w != NULL) w->loaded = true;
    return w != NULL;
}

/* What is listened on beside the script's wishes. False: too much. */
static bool add_others(listening *l, uint64_t generation)
{
    const options *o = l->options;
    char why[WHY_BYTES];
    net_uri uri;
    bool has_wish = false;
    uint64_t last = l->ids;
    for (uint32_t i = 0; i < o->listen_count; i++) {
        uint32_t place = 0;
        for (uint32_t k = 0; k < i; k++) place += is_same_uri(&o->listen[k], &o->listen[i]) ? 1 : 0;
        if (!add_given(l, generation, &o->listen[i], place, last)) return false;
    }
    for (wish *w = next_wish(l, NULL); w != NULL; w = next_wish(l, w)) {
        has_wish = has_wish || (w->generation == generation && w->loaded);
    }
    if (has_wish || l->spoken == generation) return true;
    io_status status = net_uri_parse(&uri, OPTIONS_LISTEN_DEFAULT, why, sizeof(why));
    assert(status == IO_OK);
    return status == IO_OK && add(l, generation, &uri, NULL, 0) != NULL;
}

static bool bind_all(listening *l, uint64_t generation, char *error, size_t error_size)
{
    bool is_new[WISHES_MAX] = {false};
    wish *w = NULL;
    if (!add_others(l, generation)) {
        snprintf(error, error_size, "%s: more than %d addresses to listen on", l->script, SERVER_LISTENERS_MAX);
        return false;
    }
    while ((w = next_wish(l, w)) != NULL) {
        if (w->generation != generation || w->number != UNBOUND) continue;
        if (bind_one(l, w, &is_new[w - l->wishes], error, error_size) != IO_OK) return false;
    }
    return true;
}

bool listening_bind(listening *l, uint64_t generation, char *error, size_t error_size)
{
    os_mutex_lock(l->mutex);
    bool ok = bind_all(l, generation, error, error_size);
    if (ok) l->candidate = generation;
    else unbind_all(l, generation);
    if (ok && !l->bound) l->in_force = generation;
    l->bound = l->bound || ok;
    os_mutex_unlock(l->mutex);
    return ok;
}

void listening_start(listening *l)
{
    os_mutex_lock(l->mutex);
    l->started = true; /* what a handler has opened before this is still to be told */
    server_start(l->server);
    os_mutex_unlock(l->mutex);
}

void listening_drop(listening *l, uint64_t generation)
{
    os_mutex_lock(l->mutex);
    unbind_all(l, generation);
    l->candidate = l->in_force;
    if (l->spoken == generation) l->spoken = 0; /* the next one may have its number */
    leave(l);
}

void listening_settle(listening *l, uint64_t generation, uint64_t fallback)
{
    os_mutex_lock(l->mutex);
    l->in_force = l->candidate = generation;
    l->fallback = fallback;
    for (wish *w = next_wish(l, NULL); w != NULL; w = next_wish(l, w)) {
        if (w->generation == generation) {
            (void)give_name(l, w); /* without memory the old name stays */
            give_mode(l, w);
        } else if (w->generation != fallback && w->generation != 0) {
            unbind(l, w);
        }
    }
    if (!server_stopping(l->server) && server_accept(l->server) > 0) l->changed = true;
    os_mutex_unlock(l->mutex);
    listening_tell(l);
}

/* ---- What is told ---- */

/* Adds a text behind each other's, cut where there is no room. */
static void append(char *text, size_t size, size_t *len, const char *before, const char *more)
{
    int wanted = snprintf(text + *len, size - *len, "%s%s", before, more);
    size_t room = size - 1 - *len;
    *len += wanted < 0 ? 0 : (size_t)wanted < room ? (size_t)wanted : room;
}

static void list_addresses(const listening *l, char *text, size_t size, const char *between, const char *behind)
{
    size_t len = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < SERVER_LISTENERS_MAX; i++) {
        const char *address = server_listener_address(l->server, i);
        if (address == NULL) continue;
        append(text, size, &len, len > 0 ? between : "", address);
        append(text, size, &len, behind, "");
    }
}

char *listening_names(listening *l, char *text, size_t size)
{
    os_mutex_lock(l->mutex);
    list_addresses(l, text, size, ", ", "");
    os_mutex_unlock(l->mutex);
    if (text[0] == '\0') snprintf(text, size, "nothing");
    return text;
}

void listening_tell(listening *l)
{
    char names[LISTENING_NAMES_BYTES];
    os_mutex_lock(l->mutex);
    bool changed = l->changed && l->started;
    l->changed = false;
    os_mutex_unlock(l->mutex);
    if (!changed) return;
    log_write(LOG_INFO, "listening on %s from now on", listening_names(l, names, sizeof(names)));
    (void)listening_write_file(l);
}

bool listening_write_file(listening *l)
{
    char text[SERVER_LISTENERS_MAX * (NET_URI_TEXT_MAX + 1)];
    char why[WHY_BYTES];
    if (l->options->address_file == NULL) return true;
    os_mutex_lock(l->mutex);
    list_addresses(l, text, sizeof(text), "", "\n");
    os_mutex_unlock(l->mutex);
    if (file_write(l->options->address_file, text, strlen(text), why, sizeof(why))) return true;
    log_write(LOG_ERROR, "cannot write the address file %s: %s", l->options->address_file, why);
    return false;
}
