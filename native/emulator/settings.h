// How the emulator runs: read once from the environment variable EWE_EMULATOR, and set by ewe_emulator_configure() (emulator/control.h).
//
//   EWE_EMULATOR="schedule=prio,seed=7,copies=coin,streams=shuffle,workers=2,memory=512M,strict"
//
//   schedule  the order in which the threads of a block run between their meetings: fifo, lifo, random, prio (warps by random priorities that rarely
//             change). No one of them finds every race: run all, with several seeds. Seed and block decide all, so that a failure comes again.
//   copies    when asynchronous copies happen: lazy (when waited for), eager (when issued), coin. Lazy shows a missing wait, eager a copy into a
//             buffer that others still read.
//   streams   now (each call does its work), shuffle (work waits for a synchronisation, and runs in any order that streams and events allow)
//   workers   threads of the host that run blocks; races between blocks show only with two or more
//   memory    bytes of the card: a number, with K, M or G
//   strict    a thread must not end while others of its block still meet; as many blocks as a kernel promises must fit on a multiprocessor; the host
//             must not touch device memory (slow for large memories)
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/error.h"

namespace ewe::emulator {

enum class Schedule { fifo, lifo, random, prio };
enum class Copies { lazy, eager, coin };
enum class Streams { now, shuffle };

struct Settings {
  Schedule schedule = Schedule::fifo;
  uint64_t seed = 1;
  Copies copies = Copies::lazy;
  Streams streams = Streams::now;
  int workers = 1;
  size_t memory = size_t(4) << 30;
  bool strict = false;
};

Status parseSettings(const char* text, Settings& out);

}  // namespace ewe::emulator
