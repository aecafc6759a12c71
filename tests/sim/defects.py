#!/usr/bin/env python3
"""Plants defects into copies of the program's sources, for the simulation's exam.

  defects.py OUTPUT_DIRECTORY SOURCE...

A defect replaces a piece of text by one that does wrong where the variable sim_defect has the defect's number (@ stands
for that question). Nothing of this is in the program itself. The piece may move from file to file. One that is not there
exactly once (somebody has rewritten it) is left out, and the exam says so: then the defect needs a new place.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A macro, because clang warns of "if ((a == b))" where it is written so.
DECLARED = "extern int sim_defect;\n#define sim_is(number) (sim_defect == (number))\n"


class Defect:
    def __init__(self, number, what, seeds, right, wrong):
        self.number, self.what, self.seeds = number, what, seeds
        self.right, self.wrong = right, wrong
        self.file = None  # where it is planted


def when(number):
    return f"sim_is({number})"


DEFECTS = [
    Defect(1, "after a partial send the queue starts again from its first byte", 1,
           "    sendq_consume(&c->out, &c->set->cache, bytes);\n",
           "    if (!(@ && bytes < c->out.bytes)) sendq_consume(&c->out, &c->set->cache, bytes);\n"),
    Defect(2, "a failed send goes unnoticed", 123,
           "    if (packet->status != IO_OK) conn_break(c, packet->status);\n    else look_at_mark(c);",
           "    if (packet->status != IO_OK && !@) conn_break(c, packet->status);\n    else look_at_mark(c);"),
    Defect(3, "end of stream is no news", 1,
           "        c->eof_seen = true;\n        return;", "        c->eof_seen = !@;\n        return;"),
    Defect(4, "the peer's FIN closes before the queue is empty", 1,
           "if (c->state == CONN_DRAINING && c->eof_seen && c->out.bytes == 0) c->state",
           "if (c->state == CONN_DRAINING && c->eof_seen && (@ || c->out.bytes == 0)) c->state"),
    Defect(5, "on_close can come twice", 1,
           "    c->close_told = true;", "    c->close_told = !@;"),
    Defect(6, "bytes are delivered while a handler waits", 4,
           "    else if (c->holds > 0 || c->paused ||", "    else if ((c->holds > 0 && !@) || c->paused ||"),
    Defect(7, "bytes are delivered to a paused connection", 64,
           "|| c->paused || c->stash != NULL ||", "|| (c->paused && !@) || c->stash != NULL ||"),
    Defect(8, "bytes that were kept are lost", 15,
           "            conn_deliver(c, stash_data(kept), stash_len(kept), kept);",
           "            if (@) mem_free(kept);\n            else conn_deliver(c, stash_data(kept), stash_len(kept), kept);"),
    Defect(9, "on_drain is forgotten", 1,
           "    c->drain_due = true;", "    c->drain_due = !@;"),
    Defect(10, "receiving goes on above the high mark", 1,
           "    if (conn_wants_receive(c)) conn_submit_receive(c);",
           "    bool too_early = @ && c->above_high && c->state == CONN_OPEN && c->open_told && c->holds == 0 && !c->paused &&\n"
           "                     !c->eof_seen && !conn_has_due(c) && c->recv_op.kind == IO_IDLE;\n"
           "    if (conn_wants_receive(c) || too_early) conn_submit_receive(c);"),
    Defect(11, "no deadline for the peer to read", 8,
           "    else conn_arm_write(c);", "    else if (!@) conn_arm_write(c);"),
    Defect(12, "the idle timer fires though bytes have moved", 14,
           "    if (due_ns(c) > now_ns) {", "    if (due_ns(c) > now_ns && !@) {"),
    Defect(13, "a connect that was given up opens all the same", 1002,
           "    if (c->state != CONN_CONNECTING) return; /*", "    if (c->state != CONN_CONNECTING && !@) return; /*"),
    Defect(14, "the socket is closed over a pending operation", 2,
           "        if (!pending) finish(c);", "        if (!pending || @) finish(c);"),
    Defect(15, "pending operations are not canceled", 2,
           "            io_cancel(c->set->port, c->socket);", "            if (!@) io_cancel(c->set->port, c->socket);"),
    Defect(16, "closed in both directions, and never ended", 42,
           "    if (c->state == CONN_OPEN && c->fin_sent &&\n        (c->eof_told",
           "    if (c->state == CONN_OPEN && c->fin_sent && !@ &&\n        (c->eof_told"),
    Defect(17, "no deadline for the peer's FIN", 22,
           "        c->fin_sent = true;\n        c->progress_ns = c->set->now_ns;\n        if (status != IO_OK) conn_break(c, status);\n        else conn_arm(c);",
           "        c->fin_sent = true;\n        c->progress_ns = c->set->now_ns;\n        if (status != IO_OK) conn_break(c, status);\n        else if (!@) conn_arm(c);"),
    Defect(18, "the stop forgets connections whose handlers wait", 29,
           "        c->shutdown_due = true;", "        c->shutdown_due = !@;"),
    Defect(19, "the list of dirty connections keeps a stale tail", 1,
           "        if (set->dirty_head == NULL) set->dirty_tail = NULL;",
           "        if (set->dirty_head == NULL && !@) set->dirty_tail = NULL;"),
    Defect(20, "going back loses the state of connections that came since, on a worker that had none before", 349,
           "w->conns.opened > 0 ? w->conns.ids : 0;", "@ || w->conns.opened > 0 ? w->conns.ids : 0;"),
    Defect(21, "the view of a chunk begins at its first byte, not at the first that waits", 1,
           "        bufs[count].base = chunk->bytes + chunk->start;",
           "        bufs[count].base = chunk->bytes + (@ ? 0 : chunk->start);"),
    Defect(22, "the offset is set to the last transfer instead of advanced by it", 1,
           "            chunk->start += (uint32_t)bytes;", "            chunk->start = (@ ? 0 : chunk->start) + (uint32_t)bytes;"),
    Defect(23, "after want of descriptors nobody accepts again", 161,
           "        say_short(l, packet->status, packet->native);\n        wait_and_retry(l);",
           "        say_short(l, packet->status, packet->native);\n        if (!@) wait_and_retry(l);"),
    Defect(24, "a socket that waited for room is left open by the stop", 25,
           "        net_close(a->socket);\n", "        if (!@) net_close(a->socket);\n"),
    Defect(25, "a socket accepted while stopping is left open", 25,
           "        net_close(packet->accepted);", "        if (!@) net_close(packet->accepted);"),
    Defect(26, "the limit of connections is one too high", 25,
           "total >= d->max_connections)", "total >= d->max_connections + @)"),
    Defect(27, "a timer taken out leaves the heap in disorder", 6,
           "    if (last != t) settle(set, at, last);",
           "    if (last != t && @) place(set, at, last);\n    else if (last != t) settle(set, at, last);"),
    Defect(28, "a worker sleeps past its next deadline", 2,
           "    return wait < 0 ? 0 : wait;", "    return wait < 0 ? 0 : wait + (@ ? 5000000000 : 0);"),
    Defect(29, "a socket that was handed over stays counted as on its way", 1,
           "    w->published++; /*", "    if (!@) w->published++; /*"),
    Defect(30, "a worker says that it is done while connections are open", 2,
           "w->conns.count == 0 && busy(w) == 0;", "(@ || (w->conns.count == 0 && busy(w) == 0));"),
    Defect(31, "worker 0 drains before all listeners have stopped", 51,
           "    if (s->stopping && s->accepting == NULL) drain_first(s);",
           "    if (s->stopping && (s->accepting == NULL || (@ && !s->draining))) drain_first(s);"),
    Defect(32, "the second stop does nothing", 663,
           "    worker_cut(w);\n}\n\n/* ----", "    if (!@) worker_cut(w);\n}\n\n/* ----"),
    Defect(33, "at the deadline nothing is cut off", 2,
           "        conn_abort(c, CONN_SHUTDOWN, IO_OK);", "        if (!@) conn_abort(c, CONN_SHUTDOWN, IO_OK);"),
    Defect(34, "a connection stays held when its handler has ended", 4,
           "    if (t->held) conn_unhold(c);", "    if (t->held && !@) conn_unhold(c);"),
    Defect(35, "send() forgets the last byte of a long string", 16,
           "        status = conn_send(c, data, len);", "        status = conn_send(c, data, len - (@ && len > 3000));"),
    Defect(36, "a draw leaves the connection waiting for one", 69,
           "    if (len == 0) return IO_AGAIN; /* 0 bytes would read as FIN */\n    c->undrawn = false;",
           "    if (len == 0) return IO_AGAIN; /* 0 bytes would read as FIN */\n    c->undrawn = @;"),
    Defect(37, "a draw takes bytes past a pending receive", 64,
           "    if (c->recv_op.kind != IO_IDLE) return IO_AGAIN; /*", "    if (c->recv_op.kind != IO_IDLE && !@) return IO_AGAIN; /*"),
    Defect(38, "a resumed connection is not looked at", 10,
           "    c->paused = false;\n    c->undrawn = false;\n    conn_mark_dirty(c);",
           "    c->paused = false;\n    c->undrawn = false;\n    if (!@) conn_mark_dirty(c);"),
    Defect(39, "input comes after close()", 13,
           "    if (c->state == CONN_DRAINING) return;\n    if (c->reading)",
           "    if (c->state == CONN_DRAINING && !@) return;\n    if (c->reading)"),
    Defect(40, "of bytes that are left, those that were taken come again, too", 15,
           "        else stash_take(&set->given_stash, set->given_len - len);",
           "        else if (!@) stash_take(&set->given_stash, set->given_len - len);"),
    Defect(41, "bytes that come behind kept ones go where those begin", 4,
           "    memcpy((*s)->bytes + (*s)->end, data, len);", "    memcpy((*s)->bytes + (@ ? (*s)->start : (*s)->end), data, len);"),
    Defect(42, "a look-up that was queued is dropped by the end", 14012,
           "        query->status = IO_CANCELED;\n        worker_post(query->worker, &query->message);",
           "        query->status = IO_CANCELED;\n        if (!@) worker_post(query->worker, &query->message);"),
    Defect(43, "going back loses the state of who waited in a version before the one that is undone", 3386,
           "    if (was_elsewhere || c->id", "    if ((was_elsewhere && !@) || c->id"),
    Defect(44, "a version that refuses itself is put into force", 1,
           "    if (ok && host_try_states(h)) return true;", "    if ((ok || @) && host_try_states(h)) return true;"),
    Defect(45, "a version is put into force though a worker could not prepare it", 1,
           "ok = ok && r->parts[i].ok;", "ok = ok && (r->parts[i].ok || @);"),
    Defect(46, "who waits for bytes does not hear of the end of the stream", 8,
           "        return c->news || c->eof_seen || c->state != CONN_OPEN;",
           "        return c->news || (c->eof_seen && !@) || c->state != CONN_OPEN;"),
    Defect(47, "of bytes that came for who waits, those it leaves are lost", 4,
           "    if (rest > 0 && c->state == CONN_OPEN) keep(", "    if (rest > 0 && c->state == CONN_OPEN && !@) keep("),
    Defect(48, "a worker that has fewer connections tells nobody who waits for room", 77,
           "w->published < before) w->events", "w->published < before && !@) w->events"),
    Defect(49, "of a queue that is sent at once in part, that part goes out again", 8,
           "        take_sent(c, sent);\n", "        if (!@ || sent == c->out.bytes) take_sent(c, sent);\n"),
    Defect(50, "of an answer that is sent at once in part, that part goes out again", 161,
           "    return conn_send(c, (const char *)data + sent, len - sent);",
           "    return conn_send(c, (const char *)data + (@ ? 0 : sent), len - sent);"),
    Defect(51, "a queue that falls because it is sent at once is no news", 5,
           "        look_at_mark(c);\n        if (is_sending_news(c)) conn_mark_dirty(c);",
           "        if (!@) look_at_mark(c);\n        if (is_sending_news(c)) conn_mark_dirty(c);"),
    Defect(52, "a socket that has got room waits for it once more", 1,
           "            pop(d);\n", "            if (!@) pop(d);\n"),
    Defect(53, "what a pipe has passed on comes again", 8,
           "    conn_consume(p->source, len);\n", "    if (!@) conn_consume(p->source, len);\n"),
    Defect(54, "a pipe does not wait for room", 14,
           "conn_is_high(target) ? CONN_WANT_LOW : CONN_WANT_EMPTY);",
           "@ ? CONN_WANT_END : conn_is_high(target) ? CONN_WANT_LOW : CONN_WANT_EMPTY);"),
    Defect(55, "a pipe that is over holds its source", 8,
           "    p->end = (uint8_t)end;\n    conn_unhold(p->source);", "    p->end = (uint8_t)end;\n    if (!@) conn_unhold(p->source);"),
    Defect(56, "a queue of tasks keeps a stale tail", 6,
           "    else q->last = t->queue_prev;", "    else if (!@) q->last = t->queue_prev;"),
    Defect(57, "a box of mail is not looked at again", 9,
           "        box->posted = false;", "        box->posted = @;"),
    Defect(58, "who reads instead of drawing is not asked again", 1192,
           "    if (c->undrawn) { /* as by", "    if (c->undrawn && !@) { /* as by"),
    Defect(59, "what waits for the end of the round waits for ever", 1,
           "        conn_send_unsent(&w->conns);\n        dirty", "        if (!@) conn_send_unsent(&w->conns);\n        dirty"),
]


def plant(texts):
    for defect in DEFECTS:
        places = [file for file, text in texts.items() for _ in range(text.count(defect.right))]
        if len(places) != 1:
            print(f"defects.py: defect {defect.number} has {len(places)} places and needs one", file=sys.stderr)
            continue
        defect.file = places[0]
        texts[defect.file] = texts[defect.file].replace(defect.right, defect.wrong.replace("@", when(defect.number)))


def write(path, text):
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def main(output, sources):
    texts = {str(source.relative_to(ROOT)): source.read_text() for source in map(pathlib.Path, sources)}
    if texts:
        plant(texts)
    for file, text in texts.items():
        (output / file).parent.mkdir(parents=True, exist_ok=True)
        write(output / file, f'{DECLARED}#line 1 "{file}"\n{text}')
    rows = "".join(f'    {{{d.number}, "{d.file or ""}", "{d.what}", {d.seeds}, {str(d.file is not None).lower()}}},\n'
                   for d in DEFECTS)
    write(output / "defects.c",
          f'#include "defects.h"\n\nconst sim_defect_info sim_defect_infos[] = {{\n{rows}    {{0, 0, 0, 0, false}},\n}};\n'
          f"const int sim_defect_count = {len(DEFECTS)};\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
