/* peer.c - the models: each is a set of habits, and one function that does whatever it can do now. */
#include "peer.h"

#include "sim.h"

#include <string.h>

enum { CHUNK = 4096 };

/* What one says at the most. */
typedef struct volume {
    size_t bytes;
    size_t chunks; /* nobody wants to see a million packets */
    size_t drips;
} volume;

static const volume usual = {.bytes = 60000, .chunks = 200, .drips = 80};
static const volume brief = {.bytes = 2000, .chunks = 20, .drips = 10};

/* What a peer is like. */
typedef struct habits {
    size_t total;     /* bytes to send */
    size_t chunk;     /* in one go, at most */
    int64_t gap_ns;   /* between two sends; 0: none */
    bool waits;       /* for its echo before it sends on, and before it closes */
    bool reads;       /* ever */
    size_t read_max;  /* at once */
    int64_t read_gap; /* between two reads; 0: none */
    bool fin_early;   /* as soon as everything is sent */
    bool fin;         /* at all */
    int64_t rst_ns;   /* breaks off so long after it connected; 0: never */
    bool echo;        /* a service: sends what it gets */
} habits;

struct sim_peer {
    habits habits;
    sim_model model;
    sim_end *end; /* its own; NULL before it connects */
    uint16_t port;
    uint64_t key; /* what its bytes are made from */
    size_t sent;
    size_t got;
    int64_t send_ns; /* not before */
    int64_t read_ns;
    uint32_t returns; /* so often it comes back */
    sim_reply reply;
    bool done;
    bool clean; /* … and the end was FIN after FIN */
    bool alarm; /* a call of act() is planned for later … */
    bool news;  /* … or for now */
};

static struct {
    bool stopped;
    size_t unit;
    bool at_once;
    volume volume;
    uint64_t bytes;
    uint64_t keys;
} peers;

static void act(sim_peer *p);

void sim_peers_open(size_t unit, bool at_once, bool is_brief)
{
    memset(&peers, 0, sizeof(peers));
    peers.unit = unit;
    peers.at_once = at_once;
    peers.volume = is_brief ? brief : usual;
}

void sim_peers_stop(void)
{
    peers.stopped = true;
}

uint64_t sim_peers_bytes(void)
{
    return peers.bytes;
}

static uint8_t byte_at(uint64_t key, size_t at)
{
    return (uint8_t)(((key + at) * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

/* ---- Models ---- */

static size_t draw_total(void)
{
    size_t most = world.window * 3 < peers.volume.bytes ? world.window * 3 : peers.volume.bytes;
    return (size_t)sim_between(SIM_PEERS, 1, (int64_t)most);
}

static int64_t draw_gap(int64_t most)
{
    return sim_percent(SIM_PEERS, 50) ? 0 : sim_between(SIM_PEERS, 10000, most);
}

static habits draw_habits(sim_model model)
{
    habits h = {.total = draw_total(), .reads = true, .read_max = CHUNK, .fin = true};
    h.chunk = (size_t)sim_between(SIM_PEERS, 1, CHUNK);
    if (h.total / h.chunk > peers.volume.chunks) h.total = h.chunk * peers.volume.chunks;
    switch (model) {
    case SIM_TALKER:
        h.waits = true;
        h.gap_ns = draw_gap(200 * SIM_MS);
        break;
    case SIM_FLOODER:
        h.chunk = CHUNK;
        break;
    case SIM_NON_READER:
        h.reads = false;
        h.chunk = CHUNK;
        h.rst_ns = sim_between(SIM_PEERS, 100 * SIM_MS, 60 * SIM_SECOND);
        break;
    case SIM_DRIPPER:
        h.chunk = h.read_max = 1;
        h.total = h.total % peers.volume.drips + 1;
        h.gap_ns = sim_between(SIM_PEERS, SIM_MS, 50 * SIM_MS);
        h.read_gap = draw_gap(50 * SIM_MS);
        break;
    case SIM_HALF_CLOSER:
        h.fin_early = true;
        break;
    case SIM_RESETTER:
        h.rst_ns = sim_between(SIM_PEERS, SIM_MS, 3 * SIM_SECOND);
        h.gap_ns = draw_gap(20 * SIM_MS);
        break;
    case SIM_SILENT:
        h.total = 0;
        h.fin = sim_percent(SIM_PEERS, 50);
        h.reads = sim_percent(SIM_PEERS, 50);
        h.rst_ns = h.fin ? 0 : sim_between(SIM_PEERS, SIM_SECOND, 60 * SIM_SECOND);
        break;
    case SIM_PROBE:
        h = (habits){.total = 20, .chunk = 10, .waits = true, .reads = true, .read_max = CHUNK, .fin = true};
        if (peers.at_once) h.total = 1000, h.chunk = 500; /* above many a high mark */
        break;
    case SIM_MODELS:
        break;
    }
    return h;
}

/* ---- What it does ---- */

/* Of what it has sent so many bytes will come back. */
static size_t answerable(const sim_peer *p)
{
    return peers.unit > 0 ? p->sent - p->sent % peers.unit : p->sent;
}

static void wake_up(void *context)
{
    sim_peer *p = context;
    p->alarm = false;
    act(p);
}

static void hear_news(void *context)
{
    sim_peer *p = context;
    p->news = false;
    act(p);
}

static void alarm_at(sim_peer *p, int64_t at_ns)
{
    if (p->alarm) return;
    p->alarm = true;
    sim_plan(at_ns, wake_up, p);
}

void sim_peer_news(sim_peer *p)
{
    if (p->news) return;
    p->news = true;
    sim_plan(world.now_ns, hear_news, p);
}

static void leave(sim_peer *p, bool abort)
{
    if (p->done) return;
    p->done = true;
    sim_end_close(p->end, abort);
    if (p->returns == 0 || peers.stopped) return;
    sim_peer *again = sim_peer_start(p->model, p->port, world.now_ns, p->reply);
    again->returns = p->returns - 1;
}

static void check_echo(const sim_peer *p, const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        sim_check("echo", p->got + i < p->sent && bytes[i] == byte_at(p->key, p->got + i),
                  "a client's byte %zu of the reply is not what it sent", p->got + i);
    }
}

static bool read_some(sim_peer *p)
{
    uint8_t bytes[CHUNK];
    size_t len = sim_end_readable(p->end);
    if (!p->habits.reads || len == 0) return false;
    if (p->read_ns > world.now_ns) {
        alarm_at(p, p->read_ns);
        return false;
    }
    if (len > p->habits.read_max) len = p->habits.read_max;
    if (p->habits.echo && len > sim_end_room(p->end)) len = sim_end_room(p->end);
    if (len == 0) return false;
    sim_end_read(p->end, bytes, len);
    if (p->habits.echo) sim_end_write(p->end, bytes, len);
    else if (p->reply != SIM_ANYTHING) check_echo(p, bytes, len);
    p->got += len;
    peers.bytes += len;
    p->read_ns = world.now_ns + p->habits.read_gap;
    return true;
}

static bool send_some(sim_peer *p)
{
    uint8_t bytes[CHUNK];
    size_t len = p->habits.total - p->sent;
    if (p->habits.waits && p->reply == SIM_ECHO && p->got < answerable(p)) return false;
    if (len > p->habits.chunk) len = p->habits.chunk;
    if (len > sim_end_room(p->end)) len = sim_end_room(p->end);
    if (len == 0) return false;
    if (p->send_ns > world.now_ns) {
        alarm_at(p, p->send_ns);
        return false;
    }
    for (size_t i = 0; i < len; i++) bytes[i] = byte_at(p->key, p->sent + i);
    sim_end_write(p->end, bytes, len);
    p->sent += len;
    p->send_ns = world.now_ns + p->habits.gap_ns;
    return true;
}

/* Everything was said. */
static void finish(sim_peer *p)
{
    bool all_sent = p->sent == p->habits.total;
    bool answered = p->reply == SIM_ANYTHING || !p->habits.reads || p->got == answerable(p);
    bool may_end = p->habits.fin_early || p->reply == SIM_LATE_ECHO || answered;
    if (p->habits.fin && !p->habits.echo && all_sent && may_end) sim_end_fin(p->end);
    if (!p->habits.reads || !sim_end_at_fin(p->end)) return;
    /* A client that did not wait for the end of the reply, or whose server closed first, closes now. */
    p->clean = p->end->out.fin_written && all_sent && answered;
    sim_end_fin(p->end);
    leave(p, false);
}

static void act(sim_peer *p)
{
    if (p->done || p->end == NULL) return;
    if (p->end->broken) {
        leave(p, false);
        return;
    }
    bool moved;
    int turns = 0;
    do {
        moved = read_some(p);
        if (!p->end->out.fin_written) moved = send_some(p) || moved;
    } while (moved && ++turns < 64);
    if (moved) sim_peer_news(p);
    finish(p);
}

static void break_off(void *context)
{
    sim_peer *p = context;
    leave(p, true);
}

/* ---- Clients ---- */

static void connect_now(void *context)
{
    sim_peer *p = context;
    sim_end *theirs = sim_link_open(p);
    p->end = theirs->other;
    if (!sim_link_arrive(theirs, p->port)) { /* nobody listens: that is the end of it */
        p->done = true;
        p->end->closed = true;
        return;
    }
    sim_note("client", p->model, p->habits.total, p->port);
    if (p->habits.rst_ns > 0) sim_plan(world.now_ns + p->habits.rst_ns, break_off, p);
    sim_peer_news(p);
}

sim_peer *sim_peer_start(sim_model model, uint16_t port, int64_t at_ns, sim_reply reply)
{
    sim_peer *p = sim_alloc(sizeof(*p));
    *p = (sim_peer){.habits = draw_habits(model), .model = model, .port = port, .reply = reply};
    p->key = ++peers.keys * 1000003;
    if (model != SIM_PROBE && sim_percent(SIM_PEERS, 20)) p->returns = 1 + (uint32_t)sim_below(SIM_PEERS, 3);
    sim_plan(at_ns, connect_now, p);
    return p;
}

bool sim_peer_is_content(const sim_peer *p)
{
    return p->done && p->clean && !p->end->broken;
}

bool sim_peer_was_accepted(const sim_peer *p)
{
    return p->end != NULL && p->end->other->accepted;
}

/* ---- Services ---- */

io_status sim_peer_serve(uint16_t port, sim_end **end)
{
    if (port < SIM_SERVICE_ECHO || port >= SIM_SERVICES_END) return IO_NOT_FOUND;
    if (port == SIM_SERVICE_REFUSES) return IO_REFUSED;
    if (port == SIM_SERVICE_SILENT) return IO_AGAIN;
    sim_peer *p = sim_alloc(sizeof(*p));
    sim_end *theirs = sim_link_open(p);
    p->end = theirs->other;
    p->port = port;
    p->key = ++peers.keys * 1000003;
    p->habits = (habits){.reads = port != SIM_SERVICE_DEAF, .read_max = CHUNK, .chunk = CHUNK};
    if (port == SIM_SERVICE_ECHO) p->habits.echo = true;
    if (port == SIM_SERVICE_TALKS || port == SIM_SERVICE_RESETS) p->habits.total = draw_total();
    if (port == SIM_SERVICE_TALKS) p->habits.fin = p->habits.fin_early = true;
    if (port == SIM_SERVICE_RESETS) {
        sim_plan(world.now_ns + sim_between(SIM_PEERS, SIM_MS, SIM_SECOND), break_off, p);
    }
    sim_peer_news(p);
    *end = theirs;
    return IO_OK;
}
