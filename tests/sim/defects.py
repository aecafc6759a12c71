#!/usr/bin/env python3
"""Plants defects into copies of the program's sources, for the simulation's exam.

  defects.py OUTPUT_DIRECTORY SOURCE...

A defect replaces a piece of text by one that does wrong where the variable sim_defect has the defect's number. Nothing
of this is in the program itself. A piece that is not there exactly once (somebody has rewritten it) is left out, and the
exam says so: then the defect needs a new place.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Defect:
    def __init__(self, number, file, what, seeds, right, wrong):
        self.number, self.file, self.what, self.seeds = number, file, what, seeds
        self.right, self.wrong = right, wrong
        self.planted = False


def when(number):
    return f"(sim_defect == {number})"


DEFECTS = [
    Defect(1, "core/conn.c", "after a partial send the queue starts again from its first byte", 1,
           "        sendq_consume(&c->out, &set->cache, packet->bytes);\n",
           "        if (!(@ && packet->bytes < c->out.bytes)) sendq_consume(&c->out, &set->cache, packet->bytes);\n"),
    Defect(2, "core/conn.c", "a failed send goes unnoticed", 3,
           "    if (packet->status != IO_OK) {\n        fail(c, packet->status);\n    } else if (c->above_high",
           "    if (packet->status != IO_OK && !@) {\n        fail(c, packet->status);\n    } else if (c->above_high"),
    Defect(3, "core/conn.c", "end of stream is no news", 2,
           "        c->eof_seen = true;\n        return;", "        c->eof_seen = !@;\n        return;"),
    Defect(4, "core/conn.c", "the peer's FIN closes before the queue is empty", 1,
           "if (c->state == CONN_DRAINING && c->eof_seen && c->out.bytes == 0) c->state",
           "if (c->state == CONN_DRAINING && c->eof_seen && (@ || c->out.bytes == 0)) c->state"),
    Defect(5, "core/conn.c", "on_close can come twice", 1,
           "    c->close_told = true;", "    c->close_told = !@;"),
    Defect(6, "core/conn.c", "bytes are delivered while a handler waits", 2730,
           "    else if (c->holds > 0 || c->paused ||", "    else if ((c->holds > 0 && !@) || c->paused ||"),
    Defect(7, "core/conn.c", "bytes are delivered to a paused connection", 17,
           "|| c->paused || c->stash != NULL ||", "|| (c->paused && !@) || c->stash != NULL ||"),
    Defect(8, "core/conn.c", "bytes that were kept are lost", 10,
           "            deliver(c, stash_data(kept), stash_len(kept), kept);",
           "            if (@) mem_free(kept);\n            else deliver(c, stash_data(kept), stash_len(kept), kept);"),
    Defect(9, "core/conn.c", "on_drain is forgotten", 3,
           "        c->drain_due = true;", "        c->drain_due = !@;"),
    Defect(10, "core/conn.c", "receiving goes on above the high mark", 6,
           "c->holds == 0 && !c->above_high && !has_due(c) &&", "c->holds == 0 && (!c->above_high || @) && !has_due(c) &&"),
    Defect(11, "core/conn.c", "no deadline for the peer to read", 174,
           "        if (status != IO_OK) fail(c, status);\n        else arm(c);\n    }\n    /* With",
           "        if (status != IO_OK) fail(c, status);\n        else if (!@) arm(c);\n    }\n    /* With"),
    Defect(12, "core/conn.c", "the idle timer fires though bytes have moved", 3,
           "    if (due_ns(c) > now_ns) {", "    if (due_ns(c) > now_ns && !@) {"),
    Defect(13, "core/conn.c", "a connect that was given up opens all the same", 159,
           "    if (c->state != CONN_CONNECTING) return; /*", "    if (c->state != CONN_CONNECTING && !@) return; /*"),
    Defect(14, "core/conn.c", "the socket is closed over a pending operation", 1,
           "        if (!pending) finish(c);", "        if (!pending || @) finish(c);"),
    Defect(15, "core/conn.c", "pending operations are not canceled", 1,
           "            io_cancel(c->set->port, c->socket);", "            if (!@) io_cancel(c->set->port, c->socket);"),
    Defect(16, "core/conn.c", "closed in both directions, and never ended", 72,
           "    if (c->state == CONN_OPEN && c->eof_told && c->fin_sent) {",
           "    if (c->state == CONN_OPEN && c->eof_told && c->fin_sent && !@) {"),
    Defect(17, "core/conn.c", "no deadline for the peer's FIN", 11,
           "        c->fin_sent = true;\n        c->progress_ns = c->set->now_ns;\n        if (status != IO_OK) fail(c, status);\n        else arm(c);",
           "        c->fin_sent = true;\n        c->progress_ns = c->set->now_ns;\n        if (status != IO_OK) fail(c, status);\n        else if (!@) arm(c);"),
    Defect(18, "core/conn.c", "the stop forgets connections whose handlers wait", 15,
           "        c->shutdown_due = true;", "        c->shutdown_due = !@;"),
    Defect(19, "core/conn.c", "the list of dirty connections keeps a stale tail", 1,
           "        if (set->dirty_head == NULL) set->dirty_tail = NULL;",
           "        if (set->dirty_head == NULL && !@) set->dirty_tail = NULL;"),
    Defect(20, "lua/host_swap.c", "going back loses the state of connections that came since, on a worker that had none before", 58,
           "w->conns.opened > 0 ? w->conns.ids : 0;", "@ || w->conns.opened > 0 ? w->conns.ids : 0;"),
    Defect(21, "core/sendq.c", "the view of a chunk begins at its first byte, not at the first that waits", 1,
           "        bufs[count].base = chunk->bytes + chunk->start;",
           "        bufs[count].base = chunk->bytes + (@ ? 0 : chunk->start);"),
    Defect(22, "core/sendq.c", "the offset is set to the last transfer instead of advanced by it", 1,
           "            chunk->start += (uint32_t)bytes;", "            chunk->start = (@ ? 0 : chunk->start) + (uint32_t)bytes;"),
    Defect(23, "core/listener.c", "after want of descriptors nobody accepts again", 92,
           "        say_short(l, packet->status, packet->native);\n        wait_and_retry(l);",
           "        say_short(l, packet->status, packet->native);\n        if (!@) wait_and_retry(l);"),
    Defect(24, "core/listener.c", "a socket that waited for room is left open by the stop", 105,
           "        net_close(l->accepts[i].parked);", "        if (!@) net_close(l->accepts[i].parked);"),
    Defect(25, "core/listener.c", "a socket accepted while stopping is left open", 16,
           "        net_close(packet->accepted);", "        if (!@) net_close(packet->accepted);"),
    Defect(26, "core/server.c", "the limit of connections is one too high", 138,
           "total >= s->options.max_connections) return false;", "total >= s->options.max_connections + @) return false;"),
    Defect(27, "core/timer.c", "a timer taken out leaves the heap in disorder", 3,
           "    if (last != t) settle(set, at, last);",
           "    if (last != t && @) place(set, at, last);\n    else if (last != t) settle(set, at, last);"),
    Defect(28, "core/worker.c", "a worker sleeps past its next deadline", 5,
           "    return wait < 0 ? 0 : wait;", "    return wait < 0 ? 0 : wait + (@ ? 5000000000 : 0);"),
    Defect(29, "core/worker.c", "a socket that was handed over stays counted as on its way", 8,
           "    atomic_fetch_sub_explicit(&w->incoming, 1, memory_order_relaxed);",
           "    if (!@) atomic_fetch_sub_explicit(&w->incoming, 1, memory_order_relaxed);"),
    Defect(30, "core/worker.c", "a worker says that it is done while connections are open", 4,
           "w->conns.count == 0 && busy(w) == 0;", "(@ || (w->conns.count == 0 && busy(w) == 0));"),
    Defect(31, "core/server.c", "the workers drain before all listeners have stopped", 597,
           "    if (++s->streams_stopped == s->stream_count) drain_all(s);",
           "    if (++s->streams_stopped == (@ ? 1 : s->stream_count)) drain_all(s);"),
    Defect(32, "core/server.c", "the second stop does nothing", 98,
           "    if (s->draining) cut_all(s);", "    if (s->draining && !@) cut_all(s);"),
    Defect(33, "core/worker.c", "at the deadline nothing is cut off", 71,
           "        conn_abort(c, CONN_SHUTDOWN, IO_OK);", "        if (!@) conn_abort(c, CONN_SHUTDOWN, IO_OK);"),
    Defect(34, "lua/host_dispatch.c", "a connection stays held when its handler has ended", 1,
           "    if (t->held) conn_unhold(c);", "    if (t->held && !@) conn_unhold(c);"),
    Defect(35, "lua/host_conn.c", "send() forgets the last byte of a long string", 3,
           "        status = conn_send(c, data, len);", "        status = conn_send(c, data, len - (@ && len > 3000));"),
    Defect(36, "core/conn.c", "a draw leaves the connection waiting for one", 13,
           "    if (len == 0) return IO_AGAIN; /* 0 bytes would read as FIN */\n    c->undrawn = false;",
           "    if (len == 0) return IO_AGAIN; /* 0 bytes would read as FIN */\n    c->undrawn = @;"),
    Defect(37, "core/conn.c", "a draw takes bytes past a pending receive", 17,
           "    if (c->recv_op.kind != IO_IDLE) return IO_AGAIN; /*", "    if (c->recv_op.kind != IO_IDLE && !@) return IO_AGAIN; /*"),
    Defect(38, "core/conn.c", "a resumed connection is not looked at", 3,
           "    c->paused = false;\n    c->undrawn = false;\n    mark_dirty(c);",
           "    c->paused = false;\n    c->undrawn = false;\n    if (!@) mark_dirty(c);"),
    Defect(39, "core/conn.c", "input comes after close()", 1,
           "    if (c->state == CONN_DRAINING) return;\n    if (c->reading)",
           "    if (c->state == CONN_DRAINING && !@) return;\n    if (c->reading)"),
    Defect(40, "core/conn.c", "of bytes that are left, those that were taken come again, too", 10,
           "        else stash_take(&set->given_stash, set->given_len - len);",
           "        else if (!@) stash_take(&set->given_stash, set->given_len - len);"),
    Defect(41, "core/stash.c", "bytes that come behind kept ones go where those begin", 10,
           "    memcpy((*s)->bytes + (*s)->end, data, len);", "    memcpy((*s)->bytes + (@ ? (*s)->start : (*s)->end), data, len);"),
    Defect(42, "core/resolver.c", "a look-up that was queued is dropped by the end", 964,
           "        query->status = IO_CANCELED;\n        worker_post(query->worker, &query->message);",
           "        query->status = IO_CANCELED;\n        if (!@) worker_post(query->worker, &query->message);"),
    Defect(43, "lua/host_move.c", "going back loses the state of who waited in a version before the one that is undone", 8119,
           "    if (was_elsewhere || c->id", "    if ((was_elsewhere && !@) || c->id"),
    Defect(44, "lua/host_swap.c", "a version that refuses itself is put into force", 4,
           "    if (ok && host_try_states(h)) return true;", "    if ((ok || @) && host_try_states(h)) return true;"),
    Defect(45, "lua/reload.c", "a version is put into force though a worker could not prepare it", 4,
           "ok = ok && r->parts[i].ok;", "ok = ok && (r->parts[i].ok || @);"),
]


def plant(file, text):
    for defect in DEFECTS:
        if defect.file != file:
            continue
        if text.count(defect.right) != 1:
            print(f"defects.py: defect {defect.number} has no place in {file}", file=sys.stderr)
            continue
        text = text.replace(defect.right, defect.wrong.replace("@", when(defect.number)))
        defect.planted = True
    return text


def write(path, text):
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def main(output, sources):
    output.mkdir(parents=True, exist_ok=True)
    for source in map(pathlib.Path, sources):
        file = str(source.relative_to(ROOT))
        text = plant(file, source.read_text())
        (output / file).parent.mkdir(exist_ok=True)
        write(output / file, f'extern int sim_defect;\n#line 1 "{file}"\n{text}')
    rows = "".join(
        f'    {{{d.number}, "{d.file}", "{d.what}", {d.seeds}, {str(d.planted).lower()}}},\n' for d in DEFECTS)
    write(output / "defects.c",
          f'#include "defects.h"\n\nconst sim_defect_info sim_defect_infos[] = {{\n{rows}    {{0, 0, 0, 0, false}},\n}};\n'
          f"const int sim_defect_count = {len(DEFECTS)};\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
